"""Elementwise operators: one table of name, numpy function, cost and result type; broadcasting as numpy's.

Cost convention, in scalar operations an element: one each for add, subtract, multiply, divide, compare, select,
minimum, logical and bit operations, rounding, conversion, and for the functions that special-function units evaluate
in one instruction (exponent, logarithm, sine, cosine, square root, reciprocal: CUDA C++ Programming Guide, arithmetic
instructions). Any other function costs the steps of its usual evaluation in those; activations.py has their sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, narrowed, present, required, setting, text, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, broadcast, operator
from codesign.ops.costs import map_work
from codesign.work import Work


@dataclass(frozen=True, slots=True)
class Function:
    """A scalar function of `arity` inputs (None: any number). `apply` takes the operation and its inputs, broadcast
    by numpy; `typed_by` is the input whose element type the result has, unless `result` names the type."""

    apply: Callable[..., Any]
    flops: float = 1.0
    arity: int | None = 1
    result: str | None = None
    typed_by: int = 0


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as one that takes the operation first and does not need it."""
    return lambda op, *inputs: function(*inputs)


def result_shape(op: Op, inputs: Sequence[Value]) -> tuple[int, ...]:
    """The broadcast shape. Raises BadModel when the shapes do not go together."""
    try:
        return broadcast(*(found.shape for found in inputs))
    except ValueError:
        raise bad(op, f"shapes {', '.join(str(found.shape) for found in inputs)} cannot be broadcast") from None


class Elementwise(Operator):
    """Operators of a table: subclasses set `functions`."""

    functions: dict[str, Function]

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        function = self.functions[op.kind]
        found = present(inputs)
        if not found or (function.arity is not None and len(found) != function.arity):
            raise bad(op, f"has {len(found)} inputs, expected {function.arity or 'at least one'}")
        return [(result_shape(op, found), function.result or found[function.typed_by].dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        function = self.functions[op.kind]
        arrays = [widened(np.asarray(found)) for found in present(inputs)]
        with np.errstate(all="ignore"):
            result = function.apply(op, *arrays)
        return [narrowed(result, function.result or required(op, inputs, function.typed_by, "X").dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return map_work(op, inputs, outputs, self.cost(op, len(present(inputs))))

    def cost(self, op: Op, inputs: int) -> float:
        """Scalar operations an element of the result; a function of any number of inputs is applied pair by pair."""
        function = self.functions[op.kind]
        return function.flops * (1 if function.arity is not None else max(1, inputs - 1))

    def flops_per_element(self, op: Op) -> float | None:
        function = self.functions[op.kind]
        if function.result is not None or function.typed_by:
            return None
        return self.cost(op, sum(1 for name in op.inputs if name))


def _divide(op: Op, left: Array, right: Array) -> Array:
    """Integer division rounds towards zero, as C's does."""
    if left.dtype.kind not in "iu":
        return np.divide(left, right)
    quotient = np.floor_divide(left, right)
    inexact = (np.remainder(left, right) != 0) & ((left < 0) != (right < 0))
    return quotient + inexact.astype(quotient.dtype)


def _modulo(op: Op, left: Array, right: Array) -> Array:
    """The sign follows the divisor, or with `fmod` the dividend."""
    return np.fmod(left, right) if op.attributes.get("fmod", 0) else np.mod(left, right)


def _power(op: Op, base: Array, exponent: Array) -> Array:
    """Integers to a negative power need a float in between; squares and cubes, which models hold, need no pow."""
    if base.dtype.kind in "iu":
        return np.power(base.astype(np.float64), exponent) if np.any(exponent < 0) else np.power(base, exponent)
    if exponent.size == 1 and exponent.ndim <= base.ndim:
        if exponent.item() == 3:
            return base * base * base
        return np.asarray(base ** float(exponent.item()))
    return np.power(base, exponent.astype(base.dtype, copy=False))


def _shift(op: Op, left: Array, right: Array) -> Array:
    return np.left_shift(left, right) if text(op, "direction").upper() == "LEFT" else np.right_shift(left, right)


def _is_infinite(op: Op, values: Array) -> Array:
    positive = bool(op.attributes.get("detect_positive", 1))
    negative = bool(op.attributes.get("detect_negative", 1))
    return np.isinf(values) & ((positive & (values > 0)) | (negative & (values < 0)))


def _fold(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of two as one of any number, applied from the left."""

    def apply(op: Op, *inputs: Array) -> Array:
        result = inputs[0]
        for other in inputs[1:]:
            result = function(result, other)
        return result

    return apply


def _mean(op: Op, *inputs: Array) -> Array:
    return _fold(np.add)(op, *inputs) / np.asarray(len(inputs), inputs[0].dtype)


def _bool(ufunc: Callable[..., Any]) -> Function:
    return Function(plain(ufunc), arity=2, result="bool")


def _two(ufunc: Callable[..., Any]) -> Function:
    return Function(plain(ufunc), arity=2)


# Steps beside the convention above. tan: sine, cosine, divide. asin, acos: Abramowitz & Stegun 4.4.45 (three
# multiplies, three adds, square root of 1 - x, product, sign). atan: 4.4.49 (square, four multiply-adds, product).
# sinh, cosh: exponent, reciprocal, add, halve. asinh, acosh: square, add, root, add, logarithm. atanh: two adds,
# divide, logarithm, halve. Binary tables read two inputs, the variadic ones any number.
ARITHMETIC: dict[str, Function] = {
    "Abs": Function(plain(np.abs)), "Neg": Function(plain(np.negative)), "Sign": Function(plain(np.sign)),
    "Ceil": Function(plain(np.ceil)), "Floor": Function(plain(np.floor)), "Round": Function(plain(np.rint)),
    "Reciprocal": Function(plain(np.reciprocal)), "Sqrt": Function(plain(np.sqrt)), "Exp": Function(plain(np.exp)),
    "Log": Function(plain(np.log)), "Sin": Function(plain(np.sin)), "Cos": Function(plain(np.cos)),
    "Tan": Function(plain(np.tan), 3), "Asin": Function(plain(np.arcsin), 9), "Acos": Function(plain(np.arccos), 9),
    "Atan": Function(plain(np.arctan), 10), "Sinh": Function(plain(np.sinh), 4), "Cosh": Function(plain(np.cosh), 4),
    "Asinh": Function(plain(np.arcsinh), 5), "Acosh": Function(plain(np.arccosh), 5),
    "Atanh": Function(plain(np.arctanh), 5),
    "Add": _two(np.add), "Sub": _two(np.subtract), "Mul": _two(np.multiply), "Div": Function(_divide, 1, 2),
    "Mod": Function(_modulo, 3, 2), "Pow": Function(_power, 3, 2),
    "Max": Function(_fold(np.maximum), 1, None), "Min": Function(_fold(np.minimum), 1, None),
    "Sum": Function(_fold(np.add), 1, None), "Mean": Function(_mean, 1, None),
    "And": _bool(np.logical_and), "Or": _bool(np.logical_or), "Xor": _bool(np.logical_xor),
    "Not": Function(plain(np.logical_not)),
    "Equal": _bool(np.equal), "Less": _bool(np.less), "LessOrEqual": _bool(np.less_equal),
    "Greater": _bool(np.greater), "GreaterOrEqual": _bool(np.greater_equal),
    "BitwiseAnd": _two(np.bitwise_and), "BitwiseOr": _two(np.bitwise_or), "BitwiseXor": _two(np.bitwise_xor),
    "BitwiseNot": Function(plain(np.bitwise_not)), "BitShift": Function(_shift, 1, 2),
    "IsNaN": Function(plain(np.isnan), result="bool"), "IsInf": Function(_is_infinite, result="bool"),
    "Where": Function(plain(np.where), 1, 3, typed_by=1),
}  # fmt: skip


@operator(*ARITHMETIC)
class Arithmetic(Elementwise):
    """Arithmetic, comparison, logical and bit operators."""

    functions = ARITHMETIC


@operator("Clip")
class Clip(Operator):
    """Bounds are attributes before opset 11 and optional inputs since."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        clipped = required(op, inputs, 0, "input")
        return [(clipped.shape, clipped.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values = required(op, inputs, 0, "input")
        result = widened(values)
        low, high = (self._bound(op, inputs, index, name, result.dtype) for index, name in ((1, "min"), (2, "max")))
        if low is not None or high is not None:
            result = np.clip(result, low, high)
        return [narrowed(result, values.dtype)]

    @staticmethod
    def _bound(op: Op, inputs: Sequence[Array | None], index: int, name: str, kind: np.dtype[Any]) -> Array | None:
        found = setting(op, inputs, index, name)
        return None if found is None else widened(found).astype(kind)

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return map_work(op, inputs, outputs, 2)

    def flops_per_element(self, op: Op) -> float | None:
        return 2
