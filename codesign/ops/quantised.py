"""Operators that compute on quantised values: integer products into 32-bit sums, and results brought back to 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from codesign.dtypes import name_of
from codesign.graph import Op
from codesign.ops.arguments import optional, required, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.contraction import matmul_shape, matmul_work
from codesign.ops.convolution import convolution_shape, convolution_window, convolution_work
from codesign.ops.layout import channels_first_value, computed_channels_first, own_shape
from codesign.ops.quantisation import QUANTISE_FLOPS, quantised_to_range, saturated
from codesign.work import Work


def _centred(values: Array, zero: Array | None, rows: bool) -> Array:
    """`values` less their zero point, which is one value, one a row, or one a column."""
    wide = widened(values).astype(np.int32)
    if zero is None:
        return wide
    offset = widened(zero).astype(np.int32)
    if offset.size == 1:
        return wide - offset.reshape(())
    return wide - (offset[:, None] if rows and offset.ndim == 1 else offset)


def integer_product(left: Array, right: Array, left_zero: Array | None, right_zero: Array | None) -> Array:
    """The int32 matrix product of quantised matrices, zero points taken off."""
    from codesign.executor.kernels.integer import exactly
    from codesign.executor.kernels.saturating import pairs_saturate, saturating_product

    if pairs_saturate(left, right):
        return saturating_product(left, right, left_zero, right_zero)
    first, second = _centred(left, left_zero, True), _centred(right, right_zero, False)
    return exactly(np.matmul, first, second, left.shape[-1])


def integer_convolution(
    op: Op, image: Array, weights: Array, image_zero: Array | None, weight_zero: Array | None
) -> Array:
    """The int32 convolution of quantised arrays, zero points taken off before the padding with zeros."""
    from codesign.executor.kernels.convolution import convolve
    from codesign.executor.kernels.integer import exactly
    from codesign.executor.kernels.saturating import pairs_saturate, saturating_convolution

    found, groups = convolution_window(op, image.shape, weights.shape)
    depthwise = groups == image.shape[1] == weights.shape[0]
    if pairs_saturate(image, weights) and not depthwise:
        return saturating_convolution(image, weights, image_zero, weight_zero, found, groups)
    per_filter = None if weight_zero is None else weight_zero.reshape(-1, *(1,) * (weights.ndim - 1))
    return exactly(
        lambda x, w: convolve(x, w, found, groups),
        _centred(image, image_zero, False),
        _centred(weights, per_filter, False),
        weights[0].size,
    )


@operator("MatMulInteger16", domain="com.microsoft")
@operator("MatMulInteger")
class MatMulInteger(Operator):
    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        left, right = required(op, inputs, 0, "A"), required(op, inputs, 1, "B")
        return [(matmul_shape(op, left.shape, right.shape), "int32")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        left, right = required(op, inputs, 0, "A"), required(op, inputs, 1, "B")
        return [integer_product(left, right, optional(inputs, 2), optional(inputs, 3))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return matmul_work(op, inputs, outputs)


@operator("ConvInteger")
class ConvInteger(Operator):
    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        image, weights = required(op, inputs, 0, "x"), required(op, inputs, 1, "w")
        return [(convolution_shape(op, image.shape, weights.shape), "int32")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        image, weights = required(op, inputs, 0, "x"), required(op, inputs, 1, "w")
        return [integer_convolution(op, image, weights, optional(inputs, 2), optional(inputs, 3))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return convolution_work(op, inputs, outputs)


def _requantised(sums: Array, multiplier: Array, zero: Array) -> Array:
    return saturated(sums.astype(np.float32) * widened(multiplier).astype(np.float32), zero, name_of(zero.dtype))


@operator("QLinearMatMul")
class QLinearMatMul(Operator):
    """Inputs: a, its scale and zero point, b, its scale and zero point, the result's scale and zero point."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        left, right = required(op, inputs, 0, "a"), required(op, inputs, 3, "b")
        return [(matmul_shape(op, left.shape, right.shape), required(op, inputs, 7, "y_zero_point").dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        left, left_scale, left_zero, right, right_scale, right_zero, scale, zero = (
            required(op, inputs, index, "input") for index in range(8)
        )
        sums = integer_product(left, right, left_zero, right_zero)
        rows = left_scale[:, None] if left_scale.ndim == 1 and left_scale.size > 1 else left_scale
        return [_requantised(sums, widened(rows) * widened(right_scale) / widened(scale), zero)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        product = matmul_work(op, inputs, outputs, right_index=3)
        flops = int(QUANTISE_FLOPS) * outputs[0].elements
        return replace(product, epilogue_flops=flops, requantise_flops=flops)


@operator("QLinearConv", domain="com.microsoft")
@operator("QLinearConv")
class QLinearConv(Operator):
    """Inputs: x, its scale and zero point, w, its scale and zero point, the result's scale and zero point, bias."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        image, weights = channels_first_value(op, required(op, inputs, 0, "x")), required(op, inputs, 3, "w")
        shape = convolution_shape(op, image.shape, weights.shape)
        return [(own_shape(op, shape), required(op, inputs, 7, "y_zero_point").dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        return [computed_channels_first(op, inputs, self._convolved)]

    @staticmethod
    def _convolved(op: Op, inputs: Sequence[Array | None]) -> Array:
        image, image_scale, image_zero, weights, weight_scale, weight_zero, scale, zero = (
            required(op, inputs, index, "input") for index in range(8)
        )
        sums = integer_convolution(op, image, weights, image_zero, weight_zero)
        bias = optional(inputs, 8)
        per_channel = (-1, *(1,) * (image.ndim - 2))
        if bias is not None:
            sums += bias.reshape(per_channel)
        multiplier = image_scale * weight_scale / scale
        return _requantised(sums, multiplier.reshape(per_channel), zero)

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        moved = [channels_first_value(op, required(op, inputs, 0, "x")), *inputs[1:]]
        product = convolution_work(op, moved, [channels_first_value(op, outputs[0])], 0, 3)
        each = int(QUANTISE_FLOPS) + (optional(inputs, 8) is not None)
        flops = each * outputs[0].elements
        return replace(product, epilogue_flops=flops, requantise_flops=flops)


@operator("MatMulIntegerToFloat", domain="com.microsoft")
class MatMulIntegerToFloat(Operator):
    """Inputs: A, B, scales of A and B, zero points of A and B, bias; the result is float32."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        left, right = required(op, inputs, 0, "A"), required(op, inputs, 1, "B")
        return [(matmul_shape(op, left.shape, right.shape), "float32")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        left, right, left_scale, right_scale = (required(op, inputs, index, "input") for index in range(4))
        result = integer_product(left, right, optional(inputs, 4), optional(inputs, 5)).astype(np.float32)
        result *= left_scale * right_scale
        bias = optional(inputs, 6)
        return [result if bias is None else result + bias]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        each = 2 + (optional(inputs, 6) is not None)
        return replace(matmul_work(op, inputs, outputs), epilogue_flops=each * outputs[0].elements)


@operator("DynamicQuantizeMatMul", domain="com.microsoft")
class DynamicQuantizeMatMul(Operator):
    """A quantised by its own range, then an integer product. Inputs: A, B, scale of B, zero point of B, bias."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        left, right = required(op, inputs, 0, "A"), required(op, inputs, 1, "B")
        return [(matmul_shape(op, left.shape, right.shape), "float32")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        left, left_scale, left_zero = quantised_to_range(required(op, inputs, 0, "A"))
        right, right_scale = required(op, inputs, 1, "B"), required(op, inputs, 2, "b_scale")
        result = integer_product(left, right, left_zero, optional(inputs, 3)).astype(np.float32)
        result *= left_scale * right_scale
        bias = optional(inputs, 4)
        return [result if bias is None else result + bias]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        left, right = required(op, inputs, 0, "A"), required(op, inputs, 1, "B")
        each = 2 + (optional(inputs, 4) is not None)
        flops = each * outputs[0].elements + int(2 + QUANTISE_FLOPS) * left.elements
        return replace(matmul_work(op, inputs, outputs), epilogue_flops=flops, dtype=right.dtype)
