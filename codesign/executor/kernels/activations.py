"""Activations in float32, each one pass over contiguous memory in vector instructions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import carray, njit

from codesign.executor.kernels.compiled import kernel
from codesign.executor.kernels.exponential import exp32, exp32_between
from codesign.executor.kernels.vector import floats_at

Array = np.ndarray[Any, Any]

_ONE, _HALF, _TWO = np.float32(1), np.float32(0.5), np.float32(2)
_SQRT_HALF = np.float32(math.sqrt(0.5))
_SQRT_2_OVER_PI = np.float32(math.sqrt(2 / math.pi))
_CUBIC = np.float32(0.044715)

# The error function: erf(x) / x as a polynomial in x^2 up to _FAR, and log(1 - erf(x)) as one in x from there to
# _ONE_AT, where erf is one to float32. Fitted to scipy.special by least squares, weights raised where the error is
# largest (Lawson 1961). In float32 the result is off by 1.2e-7 at the most.
_FAR, _ONE_AT = np.float32(0.90625), np.float32(3.95)
_N0, _N1, _N2, _N3, _N4, _N5 = map(np.float32, (
    1.1283791527002967, -0.3761251544078154, 0.11282053178748837, -0.02677552924873247, 0.0050067055252466484,
    -0.0006062013216827937,
))  # fmt: skip
_F0, _F1, _F2, _F3, _F4, _F5, _F6 = map(np.float32, (
    -0.00018643760751242794, -1.1277123749906655, -0.6371227348432751, -0.10398179985064725, 0.02225018215450587,
    -0.003048830484674661, 0.00019648832030528342,
))  # fmt: skip
# tanh(x) - x, its Taylor series.
_T3, _T5, _T7 = np.float32(-1 / 3), np.float32(2 / 15), np.float32(-17 / 315)
_T9, _T11, _NEAR = np.float32(62 / 2835), np.float32(-1382 / 155925), np.float32(0.5)


@njit(inline="always")
def _erf32(x: Any) -> Any:
    size, square = min(abs(x), _ONE_AT), x * x
    near = x * (((((_N5 * square + _N4) * square + _N3) * square + _N2) * square + _N1) * square + _N0)
    power = (((((_F6 * size + _F5) * size + _F4) * size + _F3) * size + _F2) * size + _F1) * size + _F0
    far = _ONE - exp32_between(power)
    far = far if x >= 0 else -far
    result = near if abs(x) < _FAR else far
    return result if x == x else x


@kernel
def _erf(values: Array) -> None:
    for index in range(values.size):
        values[index] = _erf32(values[index])


@kernel
def _gelu(values: Array) -> None:
    for index in range(values.size):
        x = values[index]
        values[index] = _HALF * x * (_ONE + _erf32(x * _SQRT_HALF))


@kernel
def _gelu_tanh(values: Array) -> None:
    for index in range(values.size):
        x = values[index]
        # (1 + tanh(u)) / 2 is the logistic function of 2 u.
        doubled = _TWO * _SQRT_2_OVER_PI * x * (_ONE + _CUBIC * x * x)
        values[index] = x / (_ONE + exp32(-doubled))


@kernel
def _sigmoid(values: Array) -> None:
    for index in range(values.size):
        values[index] = _ONE / (_ONE + exp32(-values[index]))


@kernel
def _swish(values: Array) -> None:
    for index in range(values.size):
        x = values[index]
        values[index] = x / (_ONE + exp32(-x))


@kernel
def _tanh(values: Array) -> None:
    for index in range(values.size):
        # tanh(x) is 2 / (1 + exp(-2 x)) - 1; near zero that cancels, and the first terms of its series hold.
        x = values[index]
        square = x * x
        near = x + x * square * (_T3 + square * (_T5 + square * (_T7 + square * (_T9 + square * _T11))))
        far = _TWO / (_ONE + exp32(-_TWO * x)) - _ONE
        values[index] = near if abs(x) < _NEAR else far


@kernel
def activate_at(number: int, address: int, count: int) -> None:
    """Apply the activation of that number to `count` float32 at an address."""
    values = carray(floats_at(address), (count,))
    if number == 1:
        _erf(values)
    elif number == 2:
        _gelu(values)
    elif number == 3:
        _gelu_tanh(values)
    elif number == 4:
        _sigmoid(values)
    elif number == 5:
        _swish(values)
    elif number == 6:
        _tanh(values)


_LOOPS = {
    "erf": _erf, "gelu": _gelu, "gelu_tanh": _gelu_tanh, "sigmoid": _sigmoid, "swish": _swish, "tanh": _tanh,
}  # fmt: skip
ACTIVATION_NUMBERS = {name: number for number, name in enumerate(_LOOPS, start=1)}


def activation(name: str, values: Array) -> Array:
    """The activation called `name` (erf, gelu, gelu_tanh, sigmoid, swish, tanh) of float32 `values`, of any shape."""
    return activate(name, np.array(values, order="C"))


def activate(name: str, values: Array) -> Array:
    """`activation` written into `values`, which must be contiguous. The loops work in place throughout: between two
    arrays that might overlap, LLVM falls back to one element at a time."""
    _LOOPS[name](values.reshape(-1))
    return values
