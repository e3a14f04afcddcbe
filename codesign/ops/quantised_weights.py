"""ONNX Runtime's products with quantised weights: QGemm on 8-bit values, MatMulNBits on floats and packed weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from codesign.dtypes import name_of
from codesign.graph import Op
from codesign.ops.arguments import bad, narrowed, operands, optional, required, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, find, operator
from codesign.ops.contraction import matmul
from codesign.ops.quantisation import DEQUANTISE_FLOPS, QUANTISE_FLOPS, saturated
from codesign.ops.quantised import integer_product
from codesign.work import Contraction, Operand, Work


@operator("QGemm", domain="com.microsoft")
class QGemm(Operator):
    """alpha A' B' + C. Inputs: A, its scale and zero point, B, its scale and zero point (of all or of each column), C
    in int32, and the result's scale and zero point, without which it is float32."""

    @staticmethod
    def _gemm(op: Op) -> Op:
        return Op(op.name, "Gemm", (), op.outputs, op.attributes, "", 13)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        sides = [required(op, inputs, 0, "A"), required(op, inputs, 3, "B"), optional(inputs, 6)]
        gemm, target = self._gemm(op), optional(inputs, 8) or sides[0]
        ((shape, _),) = find(gemm).infer(gemm, sides)
        return [(shape, "float32" if optional(inputs, 7) is None or target is None else target.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        left, left_zero, right, right_zero = (required(op, inputs, index, "input") for index in (0, 2, 3, 5))
        sums = integer_product(
            left.T if op.attributes.get("transA", 0) else left,
            right.T if op.attributes.get("transB", 0) else right,
            left_zero,
            right_zero,
        )
        return self.finished(op, inputs, sums, left.dtype)

    @staticmethod
    def finished(op: Op, inputs: Sequence[Array | None], sums: Array, kind: np.dtype[Any]) -> list[Array]:
        """The result, of type `kind` where no zero point says which, from the int32 sums without the addend."""
        left_scale, right_scale = required(op, inputs, 1, "a_scale"), required(op, inputs, 4, "b_scale")
        addend, scale = optional(inputs, 6), optional(inputs, 7)
        if addend is not None:
            sums = sums + addend
        real = sums.astype(np.float32) * (np.float32(op.attributes.get("alpha", 1.0)) * left_scale * right_scale)
        if scale is None:
            return [real]
        zero = optional(inputs, 8)
        return [saturated(real / scale, 0 if zero is None else zero, name_of(kind if zero is None else zero.dtype))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        gemm = self._gemm(op)
        product = find(gemm).work(gemm, [optional(inputs, index) for index in (0, 3, 6)], outputs)
        others = operands(inputs, 1, 2, 4, 5, 7, 8)
        quantised = optional(inputs, 7) is not None
        each = 1 + (optional(inputs, 6) is not None) + (QUANTISE_FLOPS if quantised else 0)
        flops = int(each * outputs[0].elements)
        return replace(
            product,
            kind=op.kind,
            reads=product.reads + others,
            epilogue_flops=flops,
            requantise_flops=flops if quantised else 0,
        )


_BYTES_SUFFICE = 4
"""The `accuracy_level` that lets floats be rounded to 8 bits."""


@operator("MatMulNBits", domain="com.microsoft")
class MatMulNBits(Operator):
    """A B' of floats and weights of `bits` bits. B is (N, blocks, packed bytes) with the first weight in the lowest
    bits; scales and zero points are (N, blocks), these packed likewise or of A's type, half the range when not given.
    `g_idx` (K) names the block of each row of the weights when they are not in order. `accuracy_level` 4 lets A be
    rounded to 8 bits, symmetric by the blocks of the weights, which onnxruntime does on CPUs.
    """

    @staticmethod
    def _extents(op: Op) -> tuple[int, int, int, int]:
        """N, K, block size and bits."""
        columns, depth, block = (int(op.attributes.get(name, 0)) for name in ("N", "K", "block_size"))
        bits = int(op.attributes.get("bits", 4))
        if min(columns, depth, block) < 1 or bits not in (2, 4, 8):
            raise bad(op, f"N = {columns}, K = {depth}, block_size = {block}, bits = {bits} are no packed weights")
        return columns, depth, block, bits

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        left, packed = required(op, inputs, 0, "A"), required(op, inputs, 1, "B")
        columns, depth, block, bits = self._extents(op)
        expected = columns * -(-depth // block) * -(-block * bits // 8)
        if left.shape[-1:] != (depth,) or packed.elements != expected:
            raise bad(
                op,
                f"A {list(left.shape)} and {packed.elements} bytes of B, expected a last axis of {depth}, {expected}",
            )
        return [((*left.shape[:-1], columns), left.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values, bias = required(op, inputs, 0, "A"), optional(inputs, 5)
        left = widened(values)
        if int(op.attributes.get("accuracy_level", 0)) == _BYTES_SUFFICE:
            left = self._rounded(op, left)
        product = matmul(left, self._weights(op, inputs).T)
        return [narrowed(product if bias is None else product + widened(bias), values.dtype)]

    def _rounded(self, op: Op, values: Array) -> Array:
        """`values` as floats that 8-bit integers with one scale a block stand for."""
        _, depth, block, _ = self._extents(op)
        padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -depth % block)])
        blocks = padded.reshape(*values.shape[:-1], -1, block)
        scales = np.abs(blocks).max(axis=-1, keepdims=True) / values.dtype.type(127)
        whole = np.rint(np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales > 0))
        return np.asarray((whole * scales).reshape(padded.shape)[..., :depth])

    def _weights(self, op: Op, inputs: Sequence[Array | None]) -> Array:
        """The weights (N, K) as floats."""
        columns, depth, block, bits = self._extents(op)
        blocks = -(-depth // block)
        whole = unpacked(required(op, inputs, 1, "B").reshape(columns, blocks, -1), bits)[..., :block]
        scales, zeros = widened(required(op, inputs, 2, "scales")).reshape(columns, blocks, 1), optional(inputs, 3)
        offset = np.asarray(1 << bits - 1, scales.dtype)
        if zeros is not None and zeros.dtype == np.uint8:
            offset = unpacked(zeros.reshape(columns, -1), bits)[:, :blocks, None]
        elif zeros is not None:
            offset = widened(zeros).reshape(columns, blocks, 1)
        order = optional(inputs, 4)
        if order is not None:
            # The block whose scale and zero point each row of the weights has.
            chosen = order.reshape(-1)[:depth]
            whole = whole.reshape(columns, -1)[:, :depth]
            scales = scales[:, chosen, 0]
            offset = offset if offset.ndim == 0 else offset[:, chosen, 0]
        real = (whole.astype(scales.dtype) - offset.astype(scales.dtype)) * scales
        return real.reshape(columns, -1)[:, :depth]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """The dense product; each weight is dequantised once."""
        columns, depth, _, bits = self._extents(op)
        left, packed = required(op, inputs, 0, "A"), required(op, inputs, 1, "B")
        bias = outputs[0].elements if optional(inputs, 5) is not None else 0
        rounded = int(op.attributes.get("accuracy_level", 0)) == _BYTES_SUFFICE
        return Contraction(
            kind=op.kind,
            reads=(left.operand(), Operand(columns * depth, f"uint{bits}", packed.role), *operands(inputs, 2, 3, 4, 5)),
            writes=operands(outputs),
            epilogue_flops=int(DEQUANTISE_FLOPS * columns * depth + QUANTISE_FLOPS * left.elements * rounded) + bias,
            batch=1,
            m=left.elements // depth,
            n=columns,
            k=depth,
            dtype=left.dtype,
        )


# Values of a code by the 4-bit types of bitsandbytes: a float of 1 sign, 2 exponent and 1 mantissa bits without
# subnormals of their own scale, over 12; and the quantiles of a normal distribution (Dettmers et al. 2023, QLoRA,
# arXiv:2305.14314, appendix E).
_FP4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], np.float32) / np.float32(12)
_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_CODES = {0: np.concatenate((_FP4, -_FP4)), 1: np.asarray(_NF4, np.float32)}


@operator("MatMulBnb4", domain="com.microsoft")
class MatMulBnb4(Operator):
    """A B' of floats and weights of 4 bits that stand for floats, by blocks of the flat (N, K) matrix with one scale
    each; the first weight of a byte is in its highest bits. With `transB` 0 the product is A B."""

    @staticmethod
    def _extents(op: Op) -> tuple[int, int, int]:
        """N, K and block size."""
        columns, depth, block = (int(op.attributes.get(name, 0)) for name in ("N", "K", "block_size"))
        if min(columns, depth, block) < 1 or op.attributes.get("quant_type") not in _CODES:
            raise bad(op, f"N = {columns}, K = {depth}, block_size = {block}, quant_type = "
                          f"{op.attributes.get('quant_type')} are no packed weights")  # fmt: skip
        return columns, depth, block

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        left, packed = required(op, inputs, 0, "A"), required(op, inputs, 1, "B")
        columns, depth, _ = self._extents(op)
        inner, outer = (depth, columns) if op.attributes.get("transB", 1) else (columns, depth)
        if left.shape[-1:] != (inner,) or packed.elements != -(-columns * depth // 2):
            raise bad(op, f"A {list(left.shape)} and {packed.elements} bytes of B, expected a last axis of {inner}, "
                          f"{-(-columns * depth // 2)}")  # fmt: skip
        return [((*left.shape[:-1], outer), left.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values, packed = required(op, inputs, 0, "A"), required(op, inputs, 1, "B").reshape(-1)
        columns, depth, block = self._extents(op)
        codes = np.stack((packed >> 4, packed & 15), axis=-1).reshape(-1)[: columns * depth]
        scales = np.repeat(widened(required(op, inputs, 2, "absmax")), block)[: columns * depth]
        weights = (_CODES[int(op.attributes["quant_type"])][codes] * scales).reshape(columns, depth)
        product = matmul(widened(values), weights.T if op.attributes.get("transB", 1) else weights)
        return [narrowed(product, values.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """The dense product; each weight is looked up and scaled once."""
        columns, depth, _ = self._extents(op)
        left, packed = required(op, inputs, 0, "A"), required(op, inputs, 1, "B")
        inner, outer = (depth, columns) if op.attributes.get("transB", 1) else (columns, depth)
        return Contraction(
            kind=op.kind,
            reads=(left.operand(), Operand(columns * depth, "float4_e2m1fn", packed.role), *operands(inputs, 2)),
            writes=operands(outputs),
            epilogue_flops=columns * depth,
            batch=1,
            m=left.elements // inner,
            n=outer,
            k=inner,
            dtype=left.dtype,
        )


def unpacked(packed: Array, bits: int) -> Array:
    """Values of `bits` bits, the first in the lowest bits of a byte, along the last axis."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(*packed.shape[:-1], -1)
