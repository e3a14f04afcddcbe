"""Operators that order values: TopK and Unique."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, integers, known, normal_axis, operands, required, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.work import Sort, Work


def ordered(keys: Array, largest: bool) -> Array:
    """Positions along the last axis in order, of equals the earlier first."""
    if largest:
        return keys.shape[-1] - 1 - np.argsort(keys[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    return np.argsort(keys, axis=-1, kind="stable")


def best(keys: Array, kept: int, largest: bool) -> Array:
    """The first `kept` of `ordered`. Of long rows all but those are set aside before the sort."""
    columns = keys.shape[-1]
    if not 0 < kept < columns // 4 or (keys.dtype.kind == "f" and np.isnan(keys).any()):
        return ordered(keys, largest)[..., :kept]
    last = columns - kept if largest else kept - 1
    threshold = np.partition(keys, last, axis=-1)[..., last : last + 1]
    better = keys > threshold if largest else keys < threshold
    equal = keys == threshold
    wanted = kept - better.sum(axis=-1, keepdims=True)
    chosen = better | (equal & (np.cumsum(equal, axis=-1, dtype=np.int32) <= wanted))
    places = np.nonzero(chosen)[-1].reshape(*keys.shape[:-1], kept)
    return np.take_along_axis(places, ordered(np.take_along_axis(keys, places, -1), largest), -1)


@operator("TopK")
class TopK(Operator):
    """The `k` largest (or smallest) along an axis with their positions; of equals the earlier is first.

    `k` is an attribute before opset 10, an input since.
    """

    @staticmethod
    def _kept(op: Op, shape: tuple[int, ...], inputs: Sequence[Any]) -> tuple[int, int]:
        """Axis and number kept."""
        kept = integers(op, inputs, 1, "K") or integers(op, (), 1, "k")
        axis = normal_axis(op, int(op.attributes.get("axis", -1)), len(shape))
        if not shape or not kept or not 0 <= kept[0] <= shape[axis]:
            raise bad(op, f"'k' is {kept}, expected a number up to the axis' extent in shape {list(shape)}")
        return axis, kept[0]

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "X")
        axis, kept = self._kept(op, source.shape, inputs)
        shape = (*source.shape[:axis], kept, *source.shape[axis + 1 :])
        return [(shape, source.dtype), (shape, "int64")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "X")
        axis, kept = self._kept(op, source.shape, inputs)
        keys = np.moveaxis(widened(source), axis, -1)
        order = best(keys, kept, bool(op.attributes.get("largest", 1)))
        places = np.ascontiguousarray(np.moveaxis(order, -1, axis))
        return [np.take_along_axis(source, places, axis), places.astype(np.int64, copy=False)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source = required(op, inputs, 0, "X")
        axis = normal_axis(op, int(op.attributes.get("axis", -1)), len(source.shape))
        columns = source.shape[axis]
        return Sort(
            kind=op.kind,
            reads=operands(inputs, 0),
            writes=operands(outputs),
            rows=source.elements // max(columns, 1),
            columns=columns,
            keep=outputs[0].shape[axis],
        )


@operator("Unique")
class Unique(Operator):
    """The different values (or slices along an axis), with first positions, inverse and counts.

    How many there are depends on the values.
    """

    @staticmethod
    def _found(op: Op, values: Array) -> list[Array]:
        axis = op.attributes.get("axis")
        place = None if axis is None else normal_axis(op, int(axis), values.ndim)
        found, first, inverse, counts = np.unique(
            values, return_index=True, return_inverse=True, return_counts=True, axis=place
        )
        inverse = inverse.ravel()
        if not op.attributes.get("sorted", 1):
            order = np.argsort(first)
            rank = np.empty_like(order)
            rank[order] = np.arange(len(order))
            found = np.take(found, order, axis=0 if place is None else place)
            first, inverse, counts = first[order], rank[inverse], counts[order]
        return [found, *(array.astype(np.int64) for array in (first, inverse, counts))]

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "X")
        found = self._found(op, known(op, source, "X"))[: len(op.outputs)]
        return [(array.shape, "int64" if index else source.dtype) for index, array in enumerate(found)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        return self._found(op, required(op, inputs, 0, "X"))[: len(op.outputs)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source = required(op, inputs, 0, "X")
        axis = op.attributes.get("axis")
        keys = source.elements if axis is None else source.shape[normal_axis(op, int(axis), len(source.shape))]
        return Sort(kind=op.kind, reads=operands(inputs, 0), writes=operands(outputs), rows=1, columns=keys, keep=keys)


@operator("Unique", domain="com.microsoft")
class ContributedUnique(Unique):
    """The different values in the order they come, with the place of each element among them and counts."""

    @staticmethod
    def _found(op: Op, values: Array) -> list[Array]:
        found, _, inverse, counts = Unique._found(replace(op, attributes={"sorted": 0}), values)
        return [found, inverse, counts]
