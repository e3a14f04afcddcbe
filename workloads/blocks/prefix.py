"""Prefix scans of associative operations over tuples of tensors: in a logarithmic number of steps, or one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workloads.builder import Builder, Value

Combine = Callable[[list[Value], list[Value]], list[Value]]
"""The tuple of a range, from that of its earlier part and that of its later part. Associative."""


def prefix_scan(graph: Builder, elements: Sequence[Value], combine: Combine, axis: int) -> list[Value]:
    """For each position along `axis`, the elements up to and including it combined.

    ceil(log2 n) rounds of n combinations (Hillis & Steele 1986, doi:10.1145/7902.7903): the depth is least, the work
    is not.
    """
    current, length, distance, rounds = list(elements), elements[0].shape[axis], 1, 0
    while distance < length:
        with graph.scope(f"round{rounds}"):
            earlier = [graph.slice(value, 0, length - distance, axis, "earlier") for value in current]
            later = [graph.slice(value, distance, length, axis, "later") for value in current]
            heads = [graph.slice(value, 0, distance, axis, "head") for value in current]
            combined = combine(earlier, later)
            current = [graph.concat([h, c], axis, "joined") for h, c in zip(heads, combined, strict=True)]
        distance, rounds = 2 * distance, rounds + 1
    return current


def sequential_scan(
    graph: Builder, elements: Sequence[Value], combine: Combine, start: Sequence[Value], axis: int
) -> tuple[list[Value], list[Value]]:
    """The same by one step for each position, after `start`, elements without `axis`: a state of fixed size. Returns
    the state after the last position, and those after every position."""

    def step(states: list[Value], slices: list[Value]) -> tuple[list[Value], list[Value]]:
        after = combine(states, slices)
        return after, after

    return graph.scan(step, start, elements, axis)
