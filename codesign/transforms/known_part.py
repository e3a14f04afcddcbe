"""The part of a graph that all transforms can work on, where some shapes come from data: what depends on none of them.

Such a graph is only executed. What comes after the first unknown value is left as it is, bodies of control flow apart.
"""

from __future__ import annotations

from dataclasses import replace

from codesign.graph import Graph, Op


def known_part(graph: Graph) -> tuple[Graph, tuple[Op, ...]]:
    """The operations of `graph` that depend on no unknown value, as a graph whose outputs are all that the others and
    the outputs of the whole read; and the others, in order."""
    late: set[str] = set(graph.unknown)
    early: list[Op] = []
    others: list[Op] = []
    for op in graph.ops:
        if any(name in late for name in (*op.reads(), *op.outputs)) or any(body.unknown for body in op.bodies.values()):
            late.update(op.outputs)
            others.append(op)
        else:
            early.append(op)
    written = {name for op in early for name in op.outputs if name}
    read = dict.fromkeys([*(name for op in others for name in op.reads()), *graph.outputs])
    outputs = tuple(name for name in read if name in written)
    inputs = tuple(name for name in graph.inputs if name not in graph.unknown)
    return replace(graph, inputs=inputs, unknown={}).with_ops(tuple(early), outputs=outputs), tuple(others)


def joined(graph: Graph, known: Graph, others: tuple[Op, ...]) -> Graph:
    """`graph` with its known part replaced by `known`, the same after transforms."""
    whole = replace(graph, tensors={**graph.tensors, **known.tensors}, weights={**graph.weights, **known.weights})
    return whole.with_ops((*known.ops, *others))
