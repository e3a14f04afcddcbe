"""Pooling: a maximum, mean or norm under a sliding window or over all positions, and the inverse of a maximum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, integers, narrowed, operands, required, text, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import reduce_work, scatter_work
from codesign.ops.layout import channels_first_value, computed_channels_first, own_shape
from codesign.ops.window import Window, window
from codesign.work import Work

# A comparison; an addition; absolute value, power and addition.
_FLOPS = {"MaxPool": 1.0, "AveragePool": 1.0, "LpPool": 3.0}


def _spatial(op: Op, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) < 3:
        raise bad(op, f"expected (batch, channels, spatial axes), got shape {list(shape)}")
    return shape[2:]


def pool_window(op: Op, shape: tuple[int, ...]) -> tuple[Window, tuple[int, ...]]:
    """The window on an input of this shape, and the extents of the result."""
    spatial = _spatial(op, shape)
    kernel = tuple(int(extent) for extent in op.attributes.get("kernel_shape", ()))
    if len(kernel) != len(spatial) or min(kernel) < 1:
        raise bad(op, f"attribute 'kernel_shape' is {list(kernel)}, expected {len(spatial)} positive integers")
    found = window(op, spatial, kernel)
    counts = found.outputs(spatial)
    if op.attributes.get("ceil_mode", 0) and text(op, "auto_pad", "NOTSET") == "NOTSET":
        counts = tuple(_rounded_up(found, spatial, axis) for axis in range(len(spatial)))
    if min(counts) < 1:
        raise bad(op, f"the window {list(kernel)} is larger than the padded input {list(spatial)}")
    return found, counts


def _rounded_up(found: Window, spatial: tuple[int, ...], axis: int) -> int:
    """One more position where the window would hang over the end, unless it would start behind the input."""
    extent, before, stride = spatial[axis], found.before[axis], found.stride[axis]
    count = -(-(extent + before + found.after[axis] - found.reach[axis]) // stride) + 1
    return count - 1 if (count - 1) * stride >= extent + before else count


def _covered(values: Array, found: Window, counts: Sequence[int], fill: Any) -> Array:
    """The input with the padding, and what a last window that hangs over needs, filled in."""
    needed = [
        (count - 1) * stride + reach for count, stride, reach in zip(counts, found.stride, found.reach, strict=True)
    ]
    after = [
        max(total - before - extent, 0)
        for total, before, extent in zip(needed, found.before, values.shape[2:], strict=True)
    ]
    if not any(found.before) and not any(after):
        return values
    return np.pad(values, [(0, 0), (0, 0), *zip(found.before, after, strict=True)], constant_values=fill)


def _tap(found: Window, counts: Sequence[int], offsets: Sequence[int], axes: Sequence[int], rank: int) -> Any:
    """What the kernel's element at `offsets` on spatial `axes` sees at every position of the window."""
    place = [slice(None)] * (2 + rank)
    for axis, offset in zip(axes, offsets, strict=True):
        start = offset * found.dilation[axis]
        place[2 + axis] = slice(start, start + (counts[axis] - 1) * found.stride[axis] + 1, found.stride[axis])
    return tuple(place)


def _folded(combine: np.ufunc, values: Array, found: Window, counts: Sequence[int]) -> Array:
    """`combine` over every window, one axis after the other: a window is a product of intervals."""
    rank = len(counts)
    for axis in reversed(range(rank)):
        result = values[_tap(found, counts, (0,), (axis,), rank)].copy()
        for offset in range(1, found.kernel[axis]):
            combine(result, values[_tap(found, counts, (offset,), (axis,), rank)], out=result)
        values = result
    return values


def _lowest(kind: np.dtype[Any]) -> Any:
    return -math.inf if kind.kind == "f" else np.iinfo(kind).min


def max_pool(values: Array, found: Window, counts: Sequence[int]) -> Array:
    """The maximum under each window; padding never wins."""
    return _folded(np.maximum, _covered(values, found, counts, _lowest(values.dtype)), found, counts)


def max_pool_indices(values: Array, found: Window, counts: Sequence[int], column_major: bool) -> tuple[Array, Array]:
    """The maxima, and the position of the first of each in the flat input (spatial axes reversed if column_major)."""
    spatial, rank = values.shape[2:], len(counts)
    order = "F" if column_major else "C"
    positions = np.arange(math.prod(spatial)).reshape(spatial, order=order)  # type: ignore[call-overload]
    planes = np.arange(math.prod(values.shape[:2])).reshape(values.shape[:2]) * math.prod(spatial)
    positions = _covered(np.broadcast_to(positions, (1, 1, *spatial)), found, counts, 0)
    covered = _covered(values, found, counts, _lowest(values.dtype))
    first = _tap(found, counts, (0,) * rank, range(rank), rank)
    best = covered[first].copy()
    place = np.broadcast_to(positions[first], best.shape).copy()
    for offsets in list(np.ndindex(*found.kernel))[1:]:
        tap = _tap(found, counts, offsets, range(rank), rank)
        better = covered[tap] > best
        np.copyto(best, covered[tap], where=better)
        np.copyto(place, positions[tap], where=better)
    return best, place + planes.reshape(*planes.shape, *(1,) * rank)


def average_pool(values: Array, found: Window, counts: Sequence[int], count_padding: bool) -> Array:
    """The mean under each window, over the input's elements alone or with the padding's zeros."""
    sums = _folded(np.add, _covered(values, found, counts, 0), found, counts)
    return np.asarray(sums / _averaged(found, counts, values.shape[2:], count_padding).astype(values.dtype))


def average_pool_in_order(values: Array, found: Window, counts: Sequence[int], count_padding: bool) -> Array:
    """`average_pool` whose sums run over the kernel's elements in row-major order, as plain loops round them."""
    covered, rank = _covered(values, found, counts, 0), len(counts)
    places = [_tap(found, counts, offsets, range(rank), rank) for offsets in np.ndindex(*found.kernel)]
    sums = covered[places[0]].copy()
    for place in places[1:]:
        sums += covered[place]
    return np.asarray(sums / _averaged(found, counts, values.shape[2:], count_padding).astype(values.dtype))


def _averaged(found: Window, counts: Sequence[int], spatial: Sequence[int], count_padding: bool) -> Array:
    """How many elements each mean is taken over; broadcasts to the result."""
    total = np.ones((1,) * len(counts), np.int64)
    for axis, count in enumerate(counts):
        start = np.arange(count)[:, None] * found.stride[axis] + np.arange(found.kernel[axis]) * found.dilation[axis]
        low, high = found.before[axis], found.before[axis] + spatial[axis]
        if count_padding:
            low, high = 0, high + found.after[axis]
        inside = ((start >= low) & (start < high)).sum(axis=1)
        total = total * inside.reshape([-1 if place == axis else 1 for place in range(len(counts))])
    return total


def lp_pool(values: Array, found: Window, counts: Sequence[int], p: int) -> Array:
    """(sum |x|^p)^(1/p) under each window."""
    powers = np.power(np.abs(values), p)
    total = _folded(np.add, _covered(powers, found, counts, 0), found, counts)
    return np.power(total, 1 / p)


@operator("MaxPool", "AveragePool", "LpPool")
class Pool(Operator):
    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "X")
        _, counts = pool_window(op, source.shape)
        shape = (*source.shape[:2], *counts)
        return [(shape, source.dtype), (shape, "int64")][: len(op.outputs)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "X")
        found, counts = pool_window(op, source.shape)
        values = widened(source)
        if op.kind == "AveragePool":
            results = [average_pool(values, found, counts, bool(op.attributes.get("count_include_pad", 0)))]
        elif op.kind == "LpPool":
            results = [lp_pool(values, found, counts, int(op.attributes.get("p", 2)))]
        elif len(op.outputs) > 1 and op.outputs[1]:
            results = [*max_pool_indices(values, found, counts, bool(op.attributes.get("storage_order", 0)))]
        else:
            results = [max_pool(values, found, counts)]
        return [narrowed(results[0], source.dtype), *results[1:]]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        columns = math.prod(int(extent) for extent in op.attributes["kernel_shape"])
        return reduce_work(op, inputs, outputs, columns, _FLOPS[op.kind])


@operator("NhwcMaxPool", domain="com.microsoft")
class NhwcMaxPool(Pool):
    """MaxPool of an image whose channels stand on the last axis."""

    @staticmethod
    def _standard(op: Op) -> Op:
        return replace(op, kind="MaxPool", attributes={**op.attributes, "channels_last": 1})

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        inner = self._standard(op)
        ((shape, dtype),) = super().infer(inner, [channels_first_value(inner, required(op, inputs, 0, "x"))])
        return [(own_shape(inner, shape), dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        pool = super().compute
        return [computed_channels_first(self._standard(op), inputs, lambda inner, arrays: pool(inner, arrays)[0])]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return replace(super().work(self._standard(op), inputs, outputs), kind=op.kind)


@operator("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")
class GlobalPool(Operator):
    """Over all spatial positions."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "X")
        return [((*source.shape[:2], *(1 for _ in _spatial(op, source.shape))), source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "X")
        values, axes = widened(source), tuple(range(2, source.ndim))
        if op.kind == "GlobalMaxPool":
            result = values.max(axis=axes, keepdims=True)
        elif op.kind == "GlobalAveragePool":
            result = values.mean(axis=axes, keepdims=True)
        else:
            p = int(op.attributes.get("p", 2))
            result = np.power(np.power(np.abs(values), p).sum(axis=axes, keepdims=True), 1 / p)
        return [narrowed(result, source.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source = required(op, inputs, 0, "X")
        columns = source.elements // max(outputs[0].elements, 1)
        return reduce_work(op, inputs, outputs, columns, _FLOPS[op.kind.removeprefix("Global")])


@operator("MaxUnpool")
class MaxUnpool(Operator):
    """Each maximum back at the position it came from, zero elsewhere."""

    @staticmethod
    def _shape(op: Op, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of the input to the pooling, as far as its result tells."""
        spatial = _spatial(op, shape)
        pooled = Op(op.name, op.kind, op.inputs, op.outputs, {**op.attributes, "auto_pad": "NOTSET"})
        found = window(pooled, spatial, tuple(int(extent) for extent in op.attributes.get("kernel_shape", ())))
        found = replace(found, dilation=(1,) * len(spatial))
        return (*shape[:2], *(
            (count - 1) * stride + reach - before - after
            for count, stride, reach, before, after in zip(
                spatial, found.stride, found.reach, found.before, found.after, strict=True
            )
        ))  # fmt: skip

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "X")
        return [(integers(op, inputs, 2, "output_shape") or self._shape(op, source.shape), source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source, indices = required(op, inputs, 0, "X"), required(op, inputs, 1, "I")
        pooled = self._shape(op, source.shape)
        result = np.zeros(math.prod(pooled), source.dtype)
        if indices.size and (indices.min() < 0 or indices.max() >= result.size):
            raise bad(op, f"indices from {indices.min()} to {indices.max()} are outside {result.size} elements")
        result[indices.ravel()] = source.ravel()
        wanted = integers(op, inputs, 2, "output_shape") or pooled
        whole = np.zeros(wanted, source.dtype)
        whole[tuple(slice(extent) for extent in pooled)] = result.reshape(pooled)
        return [whole]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source, indices = required(op, inputs, 0, "X"), required(op, inputs, 1, "I")
        scattered = scatter_work(op, source, (indices,), outputs, 1, source.elements)
        return replace(scattered, reads=operands(inputs, 0, 1))
