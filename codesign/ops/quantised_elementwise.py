"""Sums and products of quantised values, result quantised (QLinearAdd, QLinearMul of ONNX Runtime)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codesign.dtypes import name_of
from codesign.graph import Op
from codesign.ops.arguments import bad, optional, required
from codesign.ops.base import Array, Operator, ShapeAndType, Value, broadcast, operator
from codesign.ops.costs import map_work
from codesign.ops.quantisation import DEQUANTISE_FLOPS, QUANTISE_FLOPS, integer_limits, saturated
from codesign.work import Work


@operator("QLinearAdd", "QLinearMul", domain="com.microsoft")
class QLinearBinary(Operator):
    """A sum or product of quantised values. Inputs: a, scale, zero point, b, scale, zero point, scale, zero point.

    The result is that of ONNX Runtime's AVX2 kernels to the bit: they round once, after the zero point is added.
    """

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        left, right = required(op, inputs, 0, "A"), required(op, inputs, 3, "B")
        try:
            return [(broadcast(left.shape, right.shape), left.dtype)]
        except ValueError:
            raise bad(op, f"shapes {list(left.shape)} and {list(right.shape)} do not broadcast") from None

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        left, right = required(op, inputs, 0, "A"), required(op, inputs, 3, "B")
        scales = [np.float32(required(op, inputs, index, "scale").reshape(())) for index in (1, 4, 6)]
        zeros = [_whole(optional(inputs, index)) for index in (2, 5, 7)]
        return [(_product if op.kind == "QLinearMul" else _sum)(left, right, scales, zeros)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return map_work(op, inputs, outputs, 2 * DEQUANTISE_FLOPS + 1 + QUANTISE_FLOPS)


def _whole(zero: Array | None) -> int:
    return 0 if zero is None else int(zero.reshape(()))


def _product(left: Array, right: Array, scales: Sequence[np.float32], zeros: Sequence[int]) -> Array:
    whole = (left.astype(np.int32) - zeros[0]) * (right.astype(np.int32) - zeros[1])
    real = whole.astype(np.float32)
    real *= scales[0] * scales[1] / scales[2]
    real += np.float32(zeros[2])
    return saturated(real, 0, name_of(left.dtype))


def _sum(left: Array, right: Array, scales: Sequence[np.float32], zeros: Sequence[int]) -> Array:
    from codesign.executor.kernels.requantise import scaled_sum

    first, second = scales[0] / scales[2], scales[1] / scales[2]
    offset = np.float32(np.float64(second) * zeros[1] + np.float64(first * np.float32(zeros[0])))
    fixed = np.float32(zeros[2]) - offset
    low, high = (np.float32(limit) for limit in integer_limits(name_of(left.dtype)))
    shape = np.broadcast_shapes(left.shape, right.shape)
    result = np.empty(shape, left.dtype)
    if _is_alone(left.shape, shape):
        # A value of the left that meets a whole run of the right is added to the fixed part, and the right comes last.
        left, right, first, second = right, left, second, first
    left, right = (np.ascontiguousarray(np.broadcast_to(side, shape)).reshape(-1) for side in (left, right))
    scaled_sum(left, right, first, second, fixed, low, high, result.reshape(-1))
    return result


def _is_alone(shape: tuple[int, ...], result: tuple[int, ...]) -> bool:
    """True when one value of an operand of `shape` is used all along the innermost axis of the result that has more
    than one element."""
    padded = (1,) * (len(result) - len(shape)) + tuple(shape)
    return next((own == 1 for own, extent in zip(padded[::-1], result[::-1], strict=True) if extent > 1), False)
