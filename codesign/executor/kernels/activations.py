"""Activations in float32, each one pass over contiguous memory in vector instructions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import carray, njit

from codesign.executor.kernels.compiled import kernel
from codesign.executor.kernels.exponential import exp32
from codesign.executor.kernels.vector import floats_at

Array = np.ndarray[Any, Any]

_ONE, _HALF, _TWO = np.float32(1), np.float32(0.5), np.float32(2)
_SQRT_HALF = np.float32(math.sqrt(0.5))
_SQRT_2_OVER_PI = np.float32(math.sqrt(2 / math.pi))
_CUBIC = np.float32(0.044715)

# erf(x) / x below one: the first terms of its Taylor series in x^2; what is left out is below 2e-8.
_SERIES = tuple(np.float32(2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1))) for n in range(10))
_S0, _S1, _S2, _S3, _S4, _S5, _S6, _S7, _S8, _S9 = _SERIES
# tanh(x) - x, its Taylor series.
_T3, _T5, _T7 = np.float32(-1 / 3), np.float32(2 / 15), np.float32(-17 / 315)
_T9, _T11, _NEAR = np.float32(62 / 2835), np.float32(-1382 / 155925), np.float32(0.5)
# 1 - erf(x) from one on: Abramowitz & Stegun 7.1.26, absolute error below 1.5e-7.
_P = np.float32(0.3275911)
_A1, _A2, _A3 = np.float32(0.254829592), np.float32(-0.284496736), np.float32(1.421413741)
_A4, _A5 = np.float32(-1.453152027), np.float32(1.061405429)


@njit(inline="always")
def _erf32(x: Any) -> Any:
    square = x * x
    near = ((((((((_S9 * square + _S8) * square + _S7) * square + _S6) * square + _S5) * square + _S4) * square + _S3)
             * square + _S2) * square + _S1) * square + _S0  # fmt: skip
    size = abs(x)
    t = _ONE / (_ONE + _P * size)
    far = _ONE - ((((_A5 * t + _A4) * t + _A3) * t + _A2) * t + _A1) * t * exp32(-square)
    far = far if x >= 0 else -far
    return x * near if size < _ONE else far


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
