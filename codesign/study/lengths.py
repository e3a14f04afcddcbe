"""A graph at any length of one dimension, from the graph at two: what a decode step is at each length of its cache.

Shapes, integer attributes and integer constants of a decode step are linear in the length of its cache, so the graph
at every other length follows from two of them without being built, folded and fused again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from codesign.graph import Graph, Op, Tensor, Weight

Array = np.ndarray[Any, Any]


class _Differs(Exception):
    """Two graphs are not the same one at two lengths."""


class Lengths:
    """`build(length)` as a function of the length. Where the graphs at `first` and `second` are not alike (a fusion
    that holds at one length only), each length asked for is built."""

    def __init__(self, build: Callable[[int], Graph], first: int, second: int) -> None:
        self._build = build
        self._known = {first: build(first)}
        self._ends = (first, second)
        if second != first:
            self._known[second] = build(second)

    def graph(self, length: int) -> Graph:
        """The graph at `length`."""
        if length not in self._known:
            self._known[length] = self._between(length)
        return self._known[length]

    def _between(self, length: int) -> Graph:
        first, second = self._ends
        if first == second:
            return self._build(length)
        try:
            return _Line(first, second, length).graph(self._known[first], self._known[second])
        except _Differs:
            return self._build(length)


class _Line:
    """The straight line through the values at two lengths, read at a third; everything not a length must agree."""

    def __init__(self, first: int, second: int, at: int) -> None:
        self._span = second - first
        self._step = at - first

    def _integer(self, first: int, second: int) -> int:
        rise, rest = divmod((second - first) * self._step, self._span)
        if rest or (second - first) % self._span:
            raise _Differs
        return first + rise

    def _value(self, first: Any, second: Any) -> Any:
        if type(first) is not type(second):
            raise _Differs
        if isinstance(first, int) and not isinstance(first, bool):
            return self._integer(first, second)
        if isinstance(first, list | tuple) and len(first) == len(second):
            return type(first)(self._value(one, other) for one, other in zip(first, second, strict=True))
        if isinstance(first, np.ndarray):
            return self._array(first, second)
        if first != second:
            raise _Differs
        return first

    def _array(self, first: Array, second: Array) -> Array:
        if first.dtype != second.dtype or first.shape != second.shape or first.dtype.kind not in "iu":
            raise _Differs
        rise = second.astype(np.int64) - first.astype(np.int64)
        if (rise % self._span).any():
            raise _Differs
        return (first + rise // self._span * self._step).astype(first.dtype)

    def tensor(self, first: Tensor, second: Tensor) -> Tensor:
        if first is second or first == second:
            return first
        if first.dtype != second.dtype or len(first.shape) != len(second.shape):
            raise _Differs
        return replace(first, shape=self._value(first.shape, second.shape))

    def weight(self, first: Weight, second: Weight) -> Weight:
        """A constant that differs is known when it is integers of one shape, and absent when its shape is a length."""
        one, other = first.inline, second.inline
        if first.tensor == second.tensor and (one is None or other is None or np.array_equal(one, other)):
            return first
        tensor = self.tensor(first.tensor, second.tensor)
        known = one is not None and other is not None and one.shape == other.shape and one.dtype.kind in "iu"
        return Weight(tensor, self._array(one, other) if known else None, is_parameter=first.is_parameter)  # type: ignore[arg-type]

    def op(self, first: Op, second: Op) -> Op:
        if (first.name, first.kind, first.domain, first.inputs, first.outputs, len(first.epilogue)) != (
            second.name, second.kind, second.domain, second.inputs, second.outputs, len(second.epilogue),
        ) or first.bodies or first.attributes.keys() != second.attributes.keys():  # fmt: skip
            raise _Differs
        attributes = {name: self._value(value, second.attributes[name]) for name, value in first.attributes.items()}
        epilogue = tuple(self.op(one, other) for one, other in zip(first.epilogue, second.epilogue, strict=True))
        return replace(first, attributes=attributes, epilogue=epilogue)

    def graph(self, first: Graph, second: Graph) -> Graph:
        alike = first.tensors.keys() == second.tensors.keys() and first.weights.keys() == second.weights.keys()
        if not alike or len(first.ops) != len(second.ops) or first.batch != second.batch:
            raise _Differs
        return replace(
            first,
            tensors={name: self.tensor(tensor, second.tensors[name]) for name, tensor in first.tensors.items()},
            weights={name: self.weight(weight, second.weights[name]) for name, weight in first.weights.items()},
            ops=tuple(self.op(one, other) for one, other in zip(first.ops, second.ops, strict=True)),
        )
