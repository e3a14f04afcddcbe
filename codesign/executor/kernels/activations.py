"""Activations in float32, each one pass over contiguous memory in vector instructions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from codesign.executor.kernels.exponential import exp32

Array = np.ndarray[Any, Any]

_ONE, _HALF, _TWO = np.float32(1), np.float32(0.5), np.float32(2)
_SQRT_HALF = np.float32(math.sqrt(0.5))
_SQRT_2_OVER_PI = np.float32(math.sqrt(2 / math.pi))
_CUBIC = np.float32(0.044715)

# erf(x) / x below one: the first terms of its Taylor series in x^2; what is left out is below 2e-8.
_SERIES = tuple(np.float32(2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1))) for n in range(10))
_S0, _S1, _S2, _S3, _S4, _S5, _S6, _S7, _S8, _S9 = _SERIES
# 1 - erf(x) from one on: Abramowitz & Stegun 7.1.26, absolute error below 1.5e-7.
_P = np.float32(0.3275911)
_A1, _A2, _A3 = np.float32(0.254829592), np.float32(-0.284496736), np.float32(1.421413741)
_A4, _A5 = np.float32(-1.453152027), np.float32(1.061405429)

_FAST = {"contract"}


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


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _erf(values: Array) -> None:
    for index in range(values.size):
        values[index] = _erf32(values[index])


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _gelu(values: Array) -> None:
    for index in range(values.size):
        x = values[index]
        values[index] = _HALF * x * (_ONE + _erf32(x * _SQRT_HALF))


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _gelu_tanh(values: Array) -> None:
    for index in range(values.size):
        x = values[index]
        # (1 + tanh(u)) / 2 is the logistic function of 2 u.
        doubled = _TWO * _SQRT_2_OVER_PI * x * (_ONE + _CUBIC * x * x)
        values[index] = x / (_ONE + exp32(-doubled))


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _sigmoid(values: Array) -> None:
    for index in range(values.size):
        values[index] = _ONE / (_ONE + exp32(-values[index]))


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _swish(values: Array) -> None:
    for index in range(values.size):
        x = values[index]
        values[index] = x / (_ONE + exp32(-x))


_LOOPS = {"erf": _erf, "gelu": _gelu, "gelu_tanh": _gelu_tanh, "sigmoid": _sigmoid, "swish": _swish}


def activation(name: str, values: Array) -> Array:
    """The activation called `name` (erf, gelu, gelu_tanh, sigmoid, swish) of float32 `values`, of any shape."""
    return activate(name, np.array(values, order="C"))


def activate(name: str, values: Array) -> Array:
    """`activation` written into `values`, which must be contiguous. The loops work in place throughout: between two
    arrays that might overlap, LLVM falls back to one element at a time."""
    _LOOPS[name](values.reshape(-1))
    return values
