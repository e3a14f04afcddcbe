"""To integers and small floats and back, by a scale and a zero point of the tensor, of each slice, or of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.dtypes import dtype, name_of, numpy_dtype
from codesign.graph import Op
from codesign.ops.arguments import bad, element_type, normal_axis, operands, optional, required, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.casts import convert
from codesign.ops.costs import map_work, view_work
from codesign.work import Reduce, Work

QUANTISE_FLOPS = 6.0
"""Division (or product with the reciprocal), rounding, zero point, two limits, conversion."""
DEQUANTISE_FLOPS = 3.0
"""Conversion, zero point, product."""


def integer_limits(name: str) -> tuple[int, int]:
    """Smallest and largest value of an integer type."""
    found = dtype(name)
    return (-(1 << found.bits - 1), (1 << found.bits - 1) - 1) if found.kind == "int" else (0, (1 << found.bits) - 1)


def saturated(values: Array, zero: Array | int, target: str) -> Array:
    """`values` (already divided by the scale) rounded to even, moved by `zero` and limited to the type `target`.

    What is not a number becomes the smallest integer, as with x86's maximum instructions.
    """
    if dtype(target).is_float:
        return convert(values + widened(np.asarray(zero)), target)
    low, high = integer_limits(target)
    shifted = np.asarray(np.rint(values))
    shifted += widened(np.asarray(zero)).astype(shifted.dtype)
    np.fmax(shifted, shifted.dtype.type(low), out=shifted)
    np.minimum(shifted, shifted.dtype.type(high), out=shifted)
    return shifted.astype(np.int32).astype(numpy_dtype(target))


def spread(op: Op, vector: Array, shape: tuple[int, ...]) -> Array:
    """A scale or zero point so that it broadcasts to `shape`: one value, one each slice of an axis, or one a block."""
    if vector.size == 1 and vector.ndim < 2:
        return vector.reshape(())
    axis = normal_axis(op, int(op.attributes.get("axis", 1)), len(shape))
    if vector.ndim == 1 and vector.size == shape[axis]:
        return vector.reshape([-1 if position == axis else 1 for position in range(len(shape))])
    block = int(op.attributes.get("block_size", 0))
    if block < 1 or vector.ndim != len(shape):
        raise bad(op, f"scale {list(vector.shape)} does not fit shape {list(shape)}, axis {axis}, block size {block}")
    return np.repeat(vector, block, axis=axis)[(slice(None),) * axis + (slice(shape[axis]),)]


def _check_scale(op: Op, value: Value, scale: Value, zero: Value | None) -> None:
    spread(op, np.broadcast_to(np.float32(1), scale.shape), value.shape)
    if zero is not None and zero.shape != scale.shape and not zero.elements == scale.elements == 1:
        raise bad(op, f"zero point {list(zero.shape)} and scale {list(scale.shape)} differ in shape")


def _conversion_work(op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value], flops: float) -> Work:
    """A pass over the values; none when the float side is deployed in integers as wide as the quantised ones, which
    then are its own."""
    sides = dtype(required(op, inputs, 0, "x").dtype), dtype(outputs[0].dtype)
    if all(side.kind in ("int", "uint") for side in sides) and sides[0].bits == sides[1].bits:
        return view_work(op, inputs, outputs)
    return map_work(op, inputs, outputs, flops)


@operator("QuantizeLinear", domain="com.microsoft")
@operator("QuantizeLinear")
class QuantizeLinear(Operator):
    """saturate(round(x / scale) + zero point)."""

    @staticmethod
    def _target(op: Op, zero: str | None) -> str:
        if zero is not None:
            return zero
        return element_type(op, "output_dtype", "uint8") if op.attributes.get("output_dtype", 0) else "uint8"

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        value, scale, zero = required(op, inputs, 0, "x"), required(op, inputs, 1, "y_scale"), optional(inputs, 2)
        _check_scale(op, value, scale, zero)
        return [(value.shape, self._target(op, None if zero is None else zero.dtype))]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values, scale, zero = required(op, inputs, 0, "x"), required(op, inputs, 1, "y_scale"), optional(inputs, 2)
        precision: Any = scale.dtype
        if op.attributes.get("precision", 0):
            precision = numpy_dtype(element_type(op, "precision", "float32"))
        divided = values.astype(precision) / spread(op, scale, values.shape).astype(precision)
        offset: Array | int = 0 if zero is None else spread(op, zero, values.shape)
        target = self._target(op, None if zero is None else name_of(zero.dtype))
        if dtype(target).is_float:
            return [convert(widened(divided), target, bool(op.attributes.get("saturate", 1)))]
        return [saturated(widened(divided).astype(np.float32, copy=False), offset, target)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return _conversion_work(op, inputs, outputs, QUANTISE_FLOPS)

    def flops_per_element(self, op: Op) -> float | None:
        return QUANTISE_FLOPS


@operator("DequantizeLinear", domain="com.microsoft")
@operator("DequantizeLinear")
class DequantizeLinear(Operator):
    """(x - zero point) scale."""

    @staticmethod
    def _target(op: Op, scale: str) -> str:
        return element_type(op, "output_dtype", scale) if op.attributes.get("output_dtype", 0) else scale

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        value, scale, zero = required(op, inputs, 0, "x"), required(op, inputs, 1, "x_scale"), optional(inputs, 2)
        _check_scale(op, value, scale, zero)
        return [(value.shape, self._target(op, scale.dtype))]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values, scale, zero = required(op, inputs, 0, "x"), required(op, inputs, 1, "x_scale"), optional(inputs, 2)
        target = numpy_dtype(self._target(op, name_of(scale.dtype)))
        wide = widened(values)
        if zero is not None:
            kind = np.int32 if wide.dtype.kind in "iu" else wide.dtype
            wide = wide.astype(kind) - widened(spread(op, zero, values.shape)).astype(kind)
        return [wide.astype(target) * spread(op, scale, values.shape).astype(target)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return _conversion_work(op, inputs, outputs, DEQUANTISE_FLOPS)

    def flops_per_element(self, op: Op) -> float | None:
        return DEQUANTISE_FLOPS


def quantised_to_range(values: Array) -> tuple[Array, Array, Array]:
    """`values` as uint8 over their own range with zero included, the scale and the zero point of that."""
    low, high = np.float32(min(values.min(), 0)), np.float32(max(values.max(), 0))
    scale = np.asarray((high - low) / np.float32(255))
    if scale == 0:
        return np.zeros(values.shape, np.uint8), np.asarray(np.float32(1)), np.asarray(np.uint8(0))
    zero = np.asarray(np.clip(np.rint(-low / scale), 0, 255).astype(np.uint8))
    return saturated(values / scale, zero, "uint8"), scale, zero


@operator("DynamicQuantizeLinear")
class DynamicQuantizeLinear(Operator):
    """To uint8 by the range of the values themselves; outputs are result, scale and zero point."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        return [(required(op, inputs, 0, "x").shape, "uint8"), ((), "float32"), ((), "uint8")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        return list(quantised_to_range(required(op, inputs, 0, "x")))

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        value = required(op, inputs, 0, "x")
        return Reduce(
            kind=op.kind,
            reads=operands(inputs, 0),
            writes=tuple(output.operand() for output in outputs),
            rows=1,
            columns=value.elements,
            passes=2,
            # Minimum and maximum, then the quantisation.
            flops_per_element=2.0 + QUANTISE_FLOPS,
            dtype=value.dtype,
        )
