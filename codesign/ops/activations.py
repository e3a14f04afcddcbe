"""Activation functions, the standard's and com.microsoft's, with the steps each costs (convention: elementwise.py)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import text
from codesign.ops.base import Array, operator
from codesign.ops.elementwise import Elementwise, Function, plain

# Steps of the building blocks. Sigmoid: negate, exponent, add, reciprocal. tanh(x) = 1 - 2 / (exp(2x) + 1): double,
# exponent, add, divide, subtract. erf: Abramowitz & Stegun 7.1.25 (absolute value, 1 / (1 + p x) in three, a cubic in
# five, exp(-x^2) in three, product, subtraction, sign). Softplus: exponent, add, logarithm.
SIGMOID, TANH, ERF, SOFTPLUS = 4, 5, 15, 3
GELU_TANH = 4 + TANH + 4  # x (1 + 0.044715 x^2) scaled: square, multiply, add, two products; then add, product, halve
_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)


def _in_vectors(name: str, values: Array) -> Array | None:
    """The activation in vector instructions, or None for an element type that has no such kernel."""
    if values.dtype != np.float32:
        return None
    from codesign.executor.kernels.activations import activation

    return activation(name, values)


def erf(values: Array) -> Array:
    """The error function, in the precision of its argument."""
    if (found := _in_vectors("erf", values)) is not None:
        return found
    from scipy import special

    return np.asarray(special.erf(values))


def sigmoid(values: Array) -> Array:
    """1 / (1 + exp(-x)); where the exponential overflows to infinity the result is the zero that it should be."""
    if (found := _in_vectors("sigmoid", values)) is not None:
        return found
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-values)))


def softplus(values: Array) -> Array:
    """log(1 + exp(x)), without overflow."""
    return np.maximum(values, 0) + np.log1p(np.exp(-np.abs(values)))


def gelu(values: Array) -> Array:
    """x times the normal distribution function of x (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    if (found := _in_vectors("gelu", values)) is not None:
        return found
    half = values.dtype.type(0.5)
    return half * values * (1 + erf(values * values.dtype.type(math.sqrt(0.5))))


def gelu_tanh(values: Array) -> Array:
    """The tanh approximation of gelu (arXiv:1606.08415, section 2)."""
    if (found := _in_vectors("gelu_tanh", values)) is not None:
        return found
    number = values.dtype.type
    inner = number(_SQRT_2_OVER_PI) * values * (1 + number(0.044715) * values * values)
    return number(0.5) * values * (1 + np.tanh(inner))


def _number(op: Op, name: str, default: float, values: Array) -> Any:
    """A float attribute in the precision of the values it meets."""
    return values.dtype.type(op.attributes.get(name, default))


def _gelu(op: Op, values: Array) -> Array:
    return gelu_tanh(values) if text(op, "approximate", "none") == "tanh" else gelu(values)


def _leaky_relu(op: Op, values: Array) -> Array:
    return np.maximum(values, 0) + _number(op, "alpha", 0.01, values) * np.minimum(values, 0)


def _thresholded_relu(op: Op, values: Array) -> Array:
    return np.where(values > _number(op, "alpha", 1.0, values), values, values.dtype.type(0))


def _elu(op: Op, values: Array) -> Array:
    return np.where(values < 0, _number(op, "alpha", 1.0, values) * np.expm1(np.minimum(values, 0)), values)


def _celu(op: Op, values: Array) -> Array:
    alpha = _number(op, "alpha", 1.0, values)
    return np.maximum(values, 0) + alpha * np.expm1(np.minimum(values, 0) / alpha)


def _selu(op: Op, values: Array) -> Array:
    """Klambauer et al. 2017 (arXiv:1706.02515) derive the defaults; ONNX rounds them to float32."""
    alpha = _number(op, "alpha", 1.67326319217681884765625, values)
    gamma = _number(op, "gamma", 1.05070102214813232421875, values)
    return gamma * np.where(values > 0, values, alpha * np.expm1(np.minimum(values, 0)))


def _hard_sigmoid(op: Op, values: Array) -> Array:
    scaled = _number(op, "alpha", 0.2, values) * values + _number(op, "beta", 0.5, values)
    return np.clip(scaled, 0, 1)


def _hard_swish(op: Op, values: Array) -> Array:
    number = values.dtype.type
    return values * np.clip(values * number(1 / 6) + number(0.5), number(0), number(1))


def _swish(op: Op, values: Array) -> Array:
    return values * sigmoid(_number(op, "alpha", 1.0, values) * values)


def _swish_gated(op: Op, values: Array, linear: Array) -> Array:
    return _swish(op, values) * linear


def _quick_gelu(op: Op, values: Array) -> Array:
    return values * sigmoid(_number(op, "alpha", 1.702, values) * values)


def _scaled_silu(op: Op, values: Array, scale: Array | None = None) -> Array:
    scaled = values * (_number(op, "alpha", 1.0, values) if scale is None else scale.astype(values.dtype).reshape(()))
    return scaled * sigmoid(scaled)


def _shrink(op: Op, values: Array) -> Array:
    bias, lambd = op.attributes.get("bias", 0.0), op.attributes.get("lambd", 0.5)
    return np.where(values < -lambd, values + bias, np.where(values > lambd, values - bias, 0))


def _prelu(op: Op, values: Array, slope: Array) -> Array:
    return np.where(values < 0, values * slope, values)


def _fast_gelu(op: Op, values: Array, bias: Array | None = None) -> Array:
    return gelu_tanh(values if bias is None else values + bias)


ACTIVATIONS: dict[str, Function] = {
    "Relu": Function(plain(lambda values: np.maximum(values, values.dtype.type(0)))),
    "LeakyRelu": Function(_leaky_relu, 2),
    "ThresholdedRelu": Function(_thresholded_relu, 1),
    "PRelu": Function(_prelu, 2, 2),
    "Sigmoid": Function(plain(sigmoid), SIGMOID),
    "HardSigmoid": Function(_hard_sigmoid, 4),
    "HardSwish": Function(_hard_swish, 5),
    "Swish": Function(_swish, SIGMOID + 2),
    "SwiGLU": Function(_swish_gated, SIGMOID + 3, 2),
    "Tanh": Function(plain(np.tanh), TANH),
    "Erf": Function(plain(erf), ERF),
    "Gelu": Function(_gelu, ERF + 4),
    "Mish": Function(plain(lambda values: values * np.tanh(softplus(values))), SOFTPLUS + TANH + 1),
    "Elu": Function(_elu, 4),
    "Celu": Function(_celu, 6),
    "Selu": Function(_selu, 5),
    "Softplus": Function(plain(softplus), SOFTPLUS),
    "Softsign": Function(plain(lambda values: values / (1 + np.abs(values))), 3),
    "Shrink": Function(_shrink, 4),
}

# ONNX Runtime's contributed operators (onnxruntime/docs/ContribOperators.md).
CONTRIBUTED: dict[str, Function] = {
    "Gelu": Function(plain(gelu), ERF + 4),
    "QuickGelu": Function(_quick_gelu, SIGMOID + 2),
    "BiasGelu": Function(plain(lambda values, bias: gelu(values + bias)), ERF + 5, 2),
    "FastGelu": Function(_fast_gelu, GELU_TANH, None),
    "ScaledSiLU": Function(_scaled_silu, SIGMOID + 2, None),
    "GatedAdd": Function(plain(lambda values, other, gate: values + other * gate), 2, 3),
}


@operator(*ACTIVATIONS)
class Activation(Elementwise):
    """Activations of the standard domain."""

    functions = ACTIVATIONS

    def cost(self, op: Op, inputs: int) -> float:
        if op.kind == "Gelu" and text(op, "approximate", "none") == "tanh":
            return GELU_TANH
        return super().cost(op, inputs)


@operator(*CONTRIBUTED, domain="com.microsoft")
class ContributedActivation(Elementwise):
    """Activations of the com.microsoft domain."""

    functions = CONTRIBUTED
