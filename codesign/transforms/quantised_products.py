"""Products of dequantised values as integer products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from codesign.dtypes import numpy_dtype
from codesign.graph import Op
from codesign.transforms.match import View, close
from codesign.transforms.quantised_values import (
    Quantised,
    integer_bounds,
    is_whole,
    limited,
    limits_before,
    quantised,
    replace_quantised,
    target_of,
    zero_point,
)
from codesign.transforms.rewrite import Array, Rewriter

INTEGER_PRODUCTS = {"Conv": "ConvInteger", "MatMul": "MatMulInteger", "Gemm": "MatMulInteger"}
QUANTISED_PRODUCTS = {"Conv": "QLinearConv", "MatMul": "QLinearMatMul", "Gemm": "QGemm"}


@dataclass
class Product:
    """A product of two dequantised values."""

    view: View
    rewriter: Rewriter
    op: Op
    left: Quantised
    right: Quantised

    @classmethod
    def rewrite(cls, view: View, rewriter: Rewriter, op: Op) -> None:
        left, right = quantised(view, op.inputs[0]), quantised(view, op.inputs[1])
        if left is None or right is None or not is_whole(view, left):
            return
        product = cls(view, rewriter, op, left, right)
        if not product.fits():
            return
        limits, quantiser = limits_before(view, op.outputs[0])
        if quantiser is not None and product.to_quantised(limits, quantiser):
            return
        if op.kind != "Gemm" or not product.to_gemm():
            product.to_integers()

    def fits(self) -> bool:
        """True when the bias is constant and the scales of the right side are one for all or one a channel."""
        op, view = self.op, self.view
        if self.bias and not self._is_constant_bias():
            return False
        by_channel = -1
        if op.kind == "Conv":
            by_channel = 0
        elif op.kind == "Gemm":
            plain = not op.attributes.get("transA", 0) and op.attributes.get("alpha", 1.0) == 1.0
            if not plain or op.attributes.get("beta", 1.0) != 1.0 or not view.is_constant(self.right.integers):
                return False
            by_channel = 0 if op.attributes.get("transB", 0) else 1
        elif len(view.shape(op.inputs[1])) == 2:
            by_channel = 1
        rank = len(view.shape(op.inputs[1]))
        axis = int(self.right.op.attributes.get("axis", 1)) % rank
        return is_whole(view, self.right) or (axis == by_channel and len(view.shape(self.right.scale)) == 1)

    def _is_constant_bias(self) -> bool:
        op = self.view.producer(self.bias, "DequantizeLinear")
        names = [self.bias] if op is None else [name for name in op.inputs if name]
        return all(self.view.is_constant(name) for name in names)

    @property
    def bias(self) -> str:
        return self.op.inputs[2] if len(self.op.inputs) > 2 else ""

    def to_quantised(self, limits: list[Op], quantiser: Op) -> bool:
        """Write QLinearConv, QLinearMatMul or QGemm; False when the bias or the limits do not allow it."""
        view, rewriter, kind = self.view, self.rewriter, self.op.kind
        bias = view.producer(self.bias, "DequantizeLinear") if self.bias else None
        if self.bias and (bias is None or not self._has_scale_of_sums(bias)):
            return False
        bounds = integer_bounds(view, rewriter, limits, quantiser)
        if bounds is None:
            return False
        target, addend = target_of(view, rewriter, quantiser), [] if bias is None else [bias.inputs[0]]
        inputs = (*self._sides(), *(addend or [""]), *target) if kind == "Gemm" else (*self._sides(), *target, *addend)
        domain, opset = ("com.microsoft", 1) if kind == "Gemm" else ("", 10)
        new = limited(
            view, rewriter, quantiser, bounds, QUANTISED_PRODUCTS[kind], inputs, self._attributes(), domain, opset
        )
        self._replace([self.op, *limits, quantiser], new, bias)
        return True

    def to_gemm(self) -> bool:
        """Write QGemm with a float result; False when the bias has other steps than the sums."""
        bias = self.view.producer(self.bias, "DequantizeLinear") if self.bias else None
        if bias is None or not self._has_scale_of_sums(bias):
            return False
        inputs = (*self._sides(), bias.inputs[0])
        new = Op(self.op.name, "QGemm", inputs, self.op.outputs, self._attributes(), "com.microsoft", 1)
        self._replace([self.op], [new], bias)
        return True

    def _sides(self) -> list[str]:
        return [part for side in (self.left, self.right) for part in (side.integers, side.scale, self._full_zero(side))]

    def _attributes(self) -> dict[str, object]:
        """Those of the product; of a Gemm all but the factor of the bias, which is one."""
        return {name: value for name, value in self.op.attributes.items() if name != "beta"}

    def to_integers(self) -> None:
        """Write an integer product, its dequantisation and the bias addition."""
        view, rewriter, op = self.view, self.rewriter, self.op
        result, shape = op.outputs[0], view.shape(op.outputs[0])
        right = self.right.integers
        if op.kind == "Gemm" and op.attributes.get("transB", 0):
            right = rewriter.derived([right], view.shape(right)[::-1], lambda values: values.T)
        attributes = dict(op.attributes) if op.kind == "Conv" else {}
        sums = rewriter.tensor(result, shape, "int32")
        inputs = (self.left.integers, right, self.left.zero, self.right.zero)
        ops = [Op("", INTEGER_PRODUCTS[op.kind], inputs, (sums,), attributes, opset=10)]
        scale_shape = view.shape(self.right.scale)
        scale = rewriter.derived(
            [self.right.scale, self.left.scale], scale_shape, lambda own, other: own * other.reshape(()), False
        )
        real = rewriter.tensor(result, shape) if self.bias else result
        axis = 1 if op.kind == "Conv" else len(shape) - 1
        ops.append(Op("", "DequantizeLinear", (sums, scale), (real,), {"axis": axis}, opset=13))
        bias = view.producer(self.bias, "DequantizeLinear") if self.bias else None
        if self.bias:
            ops.append(Op("", "Add", (real, self._real_bias(bias)), (result,), opset=14))
        self._replace([op], ops, bias)

    def _replace(self, old: list[Op], new: list[Op], bias: Op | None) -> None:
        operands = [self.left, self.right]
        if bias is not None:
            operands.append(Quantised(bias.inputs[0], bias.inputs[1], "", bias))
        replace_quantised(self.view, self.rewriter, old, operands, new)

    def _full_zero(self, side: Quantised) -> str:
        """A zero point of the shape of the scale."""
        shape = self.view.shape(side.scale)
        if side.zero or not shape:
            return zero_point(self.view, self.rewriter, side.zero, side.integers)
        zeros = np.zeros(shape, numpy_dtype(self.view.tensor(side.integers).dtype))
        return self.rewriter.constant(f"{side.integers}.zero", zeros)

    def _has_scale_of_sums(self, bias: Op) -> bool:
        """True for a bias of int32 without zero point whose scale, where known, is the product of the two scales."""
        view = self.view
        if view.tensor(bias.inputs[0]).dtype != "int32" or (
            len(bias.inputs) > 2 and not _is_zero(view, bias.inputs[2])
        ):
            return False
        left, right, own = (view.array(name) for name in (self.left.scale, self.right.scale, bias.inputs[1]))
        if left is None or right is None or own is None:
            return True
        products = np.broadcast_to(left.reshape(()) * right.reshape(-1), (max(own.size, right.size),))
        return all(
            close(float(one), float(two)) for one, two in zip(products, np.resize(own, products.shape), strict=True)
        )

    def _real_bias(self, bias: Op | None) -> str:
        """The bias in float, with axes that let it follow the product."""
        rank = len(self.view.shape(self.op.outputs[0]))
        shape = self.view.shape(self.bias)
        if self.op.kind == "Conv":
            shape = (*shape, *(1,) * (rank - 2))
        if bias is None:
            if shape == self.view.shape(self.bias):
                return self.bias
            return self.rewriter.derived([self.bias], shape, lambda values: values.reshape(shape))

        def real(scale: Array, values: Array, offset: Array | int = 0) -> Array:
            return ((values - offset) * scale).astype(scale.dtype)

        integers, scale, *zero = bias.inputs
        counts = self.view.graph.weights[integers].is_parameter
        return self.rewriter.derived([scale, integers, *filter(None, zero)], shape, real, counts)


def _is_zero(view: View, name: str) -> bool:
    values = view.array(name) if name else np.zeros(1)
    return values is not None and not values.any()
