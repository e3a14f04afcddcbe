"""Operators that read at addresses found in data: Gather and its forms, OneHot, EyeLike, Compress; Shape and Size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.dtypes import numpy_dtype
from codesign.graph import Op
from codesign.ops.arguments import bad, element_type, known, normal_axis, required
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import fill_work, gather_work, inner_elements, reduce_work, view_work
from codesign.work import Work


@operator("Shape")
class ShapeOf(Operator):
    """The input's extents, from axis `start` to `end`: known before anything runs."""

    @staticmethod
    def _extents(op: Op, shape: tuple[int, ...]) -> Array:
        start, end = int(op.attributes.get("start", 0)), op.attributes.get("end")
        return np.array(shape[slice(start, None if end is None else int(end))], np.int64)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        return [(self._extents(op, required(op, inputs, 0, "data").shape).shape, "int64")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        return [self._extents(op, required(op, inputs, 0, "data").shape)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return view_work(op, inputs, outputs)


@operator("Size")
class Size(Operator):
    """The input's number of elements."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        return [((), "int64")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        return [np.array(required(op, inputs, 0, "data").size, np.int64)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return view_work(op, inputs, outputs)


def bounded(op: Op, indices: Array, extent: int) -> Array:
    """`indices` counted from the front. Raises BadModel when one is outside -extent..extent-1."""
    if indices.size and (indices.min() < -extent or indices.max() >= extent):
        raise bad(op, f"indices from {indices.min()} to {indices.max()} are outside the axis of {extent}")
    return np.where(indices < 0, indices + extent, indices) if indices.size and indices.min() < 0 else indices


@operator("Gather")
class Gather(Operator):
    """Entries of one axis, such as the rows of an embedding table."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        data, indices = required(op, inputs, 0, "data"), required(op, inputs, 1, "indices")
        axis = self._axis(op, data.shape)
        return [((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]), data.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        data, indices = required(op, inputs, 0, "data"), required(op, inputs, 1, "indices")
        axis = self._axis(op, data.shape)
        return [np.asarray(np.take(data, bounded(op, indices, data.shape[axis]), axis=axis))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        data, indices = required(op, inputs, 0, "data"), required(op, inputs, 1, "indices")
        axis = self._axis(op, data.shape)
        entry = data.elements // max(data.shape[axis], 1)
        touched = None if indices.distinct is None else math.ceil(indices.distinct * entry)
        return gather_work(op, data, (indices,), outputs, inner_elements(data.shape, axis), touched)

    @staticmethod
    def _axis(op: Op, shape: tuple[int, ...]) -> int:
        if not shape:
            raise bad(op, "cannot gather from a scalar")
        return normal_axis(op, int(op.attributes.get("axis", 0)), len(shape))


@operator("GatherElements")
class GatherElements(Operator):
    """One element for each index, along one axis."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        data, indices = required(op, inputs, 0, "data"), required(op, inputs, 1, "indices")
        if len(data.shape) != len(indices.shape):
            raise bad(op, f"data {list(data.shape)} and indices {list(indices.shape)} differ in rank")
        return [(indices.shape, data.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        data, indices = required(op, inputs, 0, "data"), required(op, inputs, 1, "indices")
        axis = normal_axis(op, int(op.attributes.get("axis", 0)), data.ndim)
        box = tuple(slice(None) if place == axis else slice(extent) for place, extent in enumerate(indices.shape))
        return [np.take_along_axis(data[box], bounded(op, indices, data.shape[axis]), axis)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        data, indices = required(op, inputs, 0, "data"), required(op, inputs, 1, "indices")
        return gather_work(op, data, (indices,), outputs, 1)


@operator("GatherND", domain="com.microsoft")
@operator("GatherND")
class GatherND(Operator):
    """Slices at index tuples (the last axis of the indices), the first `batch_dims` axes taken pairwise."""

    @staticmethod
    def _inner(op: Op, data: tuple[int, ...], indices: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one slice."""
        batch = int(op.attributes.get("batch_dims", 0))
        if not indices or batch + indices[-1] > len(data) or data[:batch] != indices[:batch]:
            raise bad(op, f"indices {list(indices)} do not address data {list(data)} with {batch} batch axes")
        return data[batch + indices[-1] :]

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        data, indices = required(op, inputs, 0, "data"), required(op, inputs, 1, "indices")
        return [((*indices.shape[:-1], *self._inner(op, data.shape, indices.shape)), data.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        data, indices = required(op, inputs, 0, "data"), required(op, inputs, 1, "indices")
        inner = self._inner(op, data.shape, indices.shape)
        batch = int(op.attributes.get("batch_dims", 0))
        rows = math.prod(data.shape[:batch])
        flat = data.reshape(rows, *data.shape[batch:])
        tuples = indices.reshape(rows, math.prod(indices.shape[batch:-1]), indices.shape[-1])
        address = [bounded(op, tuples[..., axis], flat.shape[1 + axis]) for axis in range(indices.shape[-1])]
        found = flat[(np.arange(rows)[:, None], *address)]
        return [found.reshape(*indices.shape[:-1], *inner)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        data, indices = required(op, inputs, 0, "data"), required(op, inputs, 1, "indices")
        return gather_work(op, data, (indices,), outputs, math.prod(self._inner(op, data.shape, indices.shape)))


@operator("OneHot")
class OneHot(Operator):
    """`values` = (off, on) along a new axis of extent `depth`."""

    @staticmethod
    def _place(op: Op, inputs: Sequence[Any]) -> tuple[int, int]:
        """The new axis and its extent."""
        rank = len(required(op, inputs, 0, "indices").shape) + 1
        depth = known(op, required(op, inputs, 1, "depth"), "depth")
        return normal_axis(op, int(op.attributes.get("axis", -1)), rank), int(depth.ravel()[0])

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        shape = required(op, inputs, 0, "indices").shape
        axis, depth = self._place(op, inputs)
        return [((*shape[:axis], depth, *shape[axis:]), required(op, inputs, 2, "values").dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        indices, values = required(op, inputs, 0, "indices"), required(op, inputs, 2, "values")
        axis, depth = self._place(op, inputs)
        inside = (indices >= -depth) & (indices < depth)
        places = np.where(inside, np.mod(indices, depth), -1).astype(np.int64)
        steps = np.arange(depth).reshape([-1 if place == axis else 1 for place in range(indices.ndim + 1)])
        return [np.where(np.expand_dims(places, axis) == steps, values[1], values[0])]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return fill_work(op, (required(op, inputs, 0, "indices"),), outputs)


@operator("EyeLike")
class EyeLike(Operator):
    """Ones on diagonal `k` of a matrix shaped as the input."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        like = required(op, inputs, 0, "input")
        if len(like.shape) != 2:
            raise bad(op, f"expected a matrix, got shape {list(like.shape)}")
        return [(like.shape, element_type(op, "dtype", like.dtype))]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        like = required(op, inputs, 0, "input")
        kind = numpy_dtype(element_type(op, "dtype", like.dtype.name))
        rows, columns = like.shape
        return [np.eye(rows, columns, int(op.attributes.get("k", 0)), dtype=kind)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return fill_work(op, (), outputs)


@operator("NonZero")
class NonZero(Operator):
    """Indices of the elements that are not zero: the shape depends on the values."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        values = known(op, required(op, inputs, 0, "X"), "X")
        return [((max(values.ndim, 1), int(np.count_nonzero(values))), "int64")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        return [np.array(np.nonzero(np.atleast_1d(required(op, inputs, 0, "X"))), np.int64)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """One comparison for each element read, which columns of rows would hide: the input is one row."""
        source = required(op, inputs, 0, "X")
        return reduce_work(op, (source,), outputs, -(-source.elements // max(outputs[0].elements, 1)), 1)


@operator("Compress")
class Compress(Operator):
    """The entries of one axis, or of the flat input, whose condition is true."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "input")
        kept = int(np.count_nonzero(known(op, required(op, inputs, 1, "condition"), "condition")))
        if "axis" not in op.attributes:
            return [((kept,), source.dtype)]
        axis = normal_axis(op, int(op.attributes["axis"]), len(source.shape))
        return [((*source.shape[:axis], kept, *source.shape[axis + 1 :]), source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source, condition = required(op, inputs, 0, "input"), required(op, inputs, 1, "condition")
        axis = op.attributes.get("axis")
        return [np.compress(condition, source, axis=None if axis is None else int(axis))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source, condition = required(op, inputs, 0, "input"), required(op, inputs, 1, "condition")
        axis = op.attributes.get("axis")
        run = 1 if axis is None else inner_elements(source.shape, normal_axis(op, int(axis), len(source.shape)))
        return gather_work(op, source, (condition,), outputs, run)
