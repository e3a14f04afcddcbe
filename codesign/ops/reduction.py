"""Reductions over axes, the position of an extreme, and running sums and products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, integers, known, narrowed, normal_axis, operands, required, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import reduce_work, view_work
from codesign.work import Scan, Work

Axes = tuple[int, ...]


def _log_sum_exp(values: Array, axis: Axes) -> Array:
    """log(sum(exp(x))), shifted by the maximum so that nothing overflows."""
    if values.size == 0:
        return np.log(np.exp(values).sum(axis=axis, keepdims=True))
    peak = values.max(axis=axis, keepdims=True)
    peak = np.where(np.isfinite(peak), peak, 0)
    return np.log(np.exp(values - peak).sum(axis=axis, keepdims=True)) + peak


def _mean(values: Array, axis: Axes) -> Array:
    count = math.prod(values.shape[one] for one in axis)
    total = np.sum(values, axis=axis, keepdims=True)
    return total // count if values.dtype.kind in "iu" else total / values.dtype.type(count)


def _extreme(function: Callable[..., Any], highest: bool) -> Callable[..., Any]:
    """A maximum or minimum that of nothing is the type's lowest or highest value."""

    def apply(values: Array, axis: Axes) -> Array:
        if values.size:
            return np.asarray(function(values, axis=axis, keepdims=True))
        shape = [1 if one in axis else extent for one, extent in enumerate(values.shape)]
        if values.dtype.kind == "f":
            return np.full(shape, math.inf if highest else -math.inf, values.dtype)
        if values.dtype.kind == "b":
            return np.full(shape, highest)
        limits = np.iinfo(values.dtype)
        return np.full(shape, limits.max if highest else limits.min, values.dtype)

    return apply


def _kept(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda values, axis: function(values, axis=axis, keepdims=True)


@dataclass(frozen=True, slots=True)
class Reduction:
    """`apply` takes values and axes, and keeps the axes with extent 1; `flops` are scalar operations an element."""

    apply: Callable[[Array, Axes], Array]
    flops: float


REDUCTIONS: dict[str, Reduction] = {
    "ReduceSum": Reduction(_kept(np.sum), 1),
    "ReduceMean": Reduction(_mean, 1),
    "ReduceProd": Reduction(_kept(np.prod), 1),
    "ReduceMax": Reduction(_extreme(np.max, highest=False), 1),
    "ReduceMin": Reduction(_extreme(np.min, highest=True), 1),
    "ReduceL1": Reduction(lambda values, axis: np.sum(np.abs(values), axis=axis, keepdims=True), 2),
    "ReduceL2": Reduction(lambda values, axis: np.sqrt(np.sum(np.square(values), axis=axis, keepdims=True)), 2),
    "ReduceSumSquare": Reduction(lambda values, axis: np.sum(np.square(values), axis=axis, keepdims=True), 2),
    "ReduceLogSum": Reduction(lambda values, axis: np.log(np.sum(values, axis=axis, keepdims=True)), 1),
    "ReduceLogSumExp": Reduction(_log_sum_exp, 4),
}


@operator(*REDUCTIONS)
class Reduce(Operator):
    """Axes are an attribute in older versions (before opset 13 for ReduceSum, 18 for the others), an input since."""

    @staticmethod
    def _axes(op: Op, shape: tuple[int, ...], inputs: Sequence[Any]) -> Axes | None:
        """The axes reduced, all when none is named; None when `noop_with_empty_axes` asks for no reduction."""
        axes = integers(op, inputs, 1, "axes")
        if not axes:
            return None if op.attributes.get("noop_with_empty_axes", 0) else tuple(range(len(shape)))
        return tuple(sorted({normal_axis(op, axis, len(shape)) for axis in axes}))

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "data")
        axes = self._axes(op, source.shape, inputs)
        if axes is None:
            return [(source.shape, source.dtype)]
        if op.attributes.get("keepdims", 1):
            return [(tuple(1 if axis in axes else extent for axis, extent in enumerate(source.shape)), source.dtype)]
        return [(tuple(extent for axis, extent in enumerate(source.shape) if axis not in axes), source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "data")
        axes = self._axes(op, source.shape, inputs)
        with np.errstate(all="ignore"):
            result = REDUCTIONS[op.kind].apply(widened(source), axes or ())
        if axes and not op.attributes.get("keepdims", 1):
            result = np.squeeze(result, axis=axes)
        return [narrowed(result, source.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source = required(op, inputs, 0, "data")
        columns = source.elements // max(outputs[0].elements, 1)
        return reduce_work(op, (source,), outputs, columns, REDUCTIONS[op.kind].flops)


@operator("ArgMax", "ArgMin")
class ArgExtreme(Operator):
    """Position of the largest or smallest along one axis, the first or (`select_last_index`) the last of equals."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        shape = required(op, inputs, 0, "data").shape
        axis = self._axis(op, len(shape))
        kept = (1,) if op.attributes.get("keepdims", 1) else ()
        return [((*shape[:axis], *kept, *shape[axis + 1 :]), "int64")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = widened(required(op, inputs, 0, "data"))
        axis, keep = self._axis(op, source.ndim), bool(op.attributes.get("keepdims", 1))
        search = np.argmax if op.kind == "ArgMax" else np.argmin
        if op.attributes.get("select_last_index", 0):
            found = source.shape[axis] - 1 - search(np.flip(source, axis), axis=axis, keepdims=keep)
        else:
            found = search(source, axis=axis, keepdims=keep)
        return [np.asarray(found, np.int64)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source = required(op, inputs, 0, "data")
        return reduce_work(op, (source,), outputs, source.elements // max(outputs[0].elements, 1), 1)

    @staticmethod
    def _axis(op: Op, rank: int) -> int:
        return normal_axis(op, int(op.attributes.get("axis", 0)), rank)


@operator("CumSum", "CumProd")
class Cumulative(Operator):
    """Running sum or product along an axis, from the end with `reverse`, without the element itself if `exclusive`."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "x")
        return [(source.shape, source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "x")
        axis = normal_axis(op, int(required(op, inputs, 1, "axis").item()), source.ndim)
        accumulate, neutral = (np.cumsum, 0) if op.kind == "CumSum" else (np.cumprod, 1)
        values = widened(source)
        values = np.flip(values, axis) if op.attributes.get("reverse", 0) else values
        if op.attributes.get("exclusive", 0):
            first = [slice(None)] * source.ndim
            first[axis] = slice(0, 1)
            values = np.roll(values, 1, axis)
            values[tuple(first)] = neutral
        result = accumulate(values, axis=axis, dtype=values.dtype)
        result = np.flip(result, axis) if op.attributes.get("reverse", 0) else result
        return [narrowed(np.ascontiguousarray(result), source.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """As many dependent steps as the axis is long; of an unknown axis the last, the usual one."""
        source, axis = required(op, inputs, 0, "x"), required(op, inputs, 1, "axis")
        if not source.elements:
            return view_work(op, inputs, outputs)
        if len(source.shape) == 0:
            raise bad(op, "expected at least one axis, got a scalar")
        place = -1 if axis.constant is None else int(known(op, axis, "axis").item())
        steps = source.shape[normal_axis(op, place, len(source.shape))]
        lanes = source.elements // steps
        return Scan(
            kind=op.kind,
            reads=operands(inputs, 0),
            writes=operands(outputs),
            steps=steps,
            step_macs=0,
            step_flops=lanes,
            state_bytes=source.operand(lanes).bytes,
            lanes=lanes,
            dtype=source.dtype,
        )
