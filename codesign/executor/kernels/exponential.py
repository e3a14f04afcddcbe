"""The exponential function in float32, written so that LLVM turns a loop over it into vector instructions.

numba calls the scalar expf of the C library, one element at a time, where Intel's SVML is not installed. This is the
range reduction and the polynomial of Cephes' expf (Moshier 1992), with the exponent put together from bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

LARGEST = np.float32(88.3762626647949)
"""Larger arguments give infinity."""
SMALLEST = np.float32(-87.3365447504)
"""Smaller arguments would give numbers below the smallest normal one, and give zero."""

_LOG2_E = np.float32(1.44269504088896341)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_P0 = np.float32(1.9875691500e-4)
_P1 = np.float32(1.3981999507e-3)
_P2 = np.float32(8.3334519073e-3)
_P3 = np.float32(4.1665795894e-2)
_P4 = np.float32(1.6666665459e-1)
_P5 = np.float32(5.0000001201e-1)
_ONE, _HALF, _ZERO, _INFINITY = np.float32(1), np.float32(0.5), np.float32(0), np.float32(np.inf)


def _float_of_bits(context: Any, bits: Any) -> Any:
    """The float32 that has the bits of an int32, as numba takes a function that writes LLVM code."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


float_of_bits: Any = intrinsic(_float_of_bits)


@njit(inline="always")
def exp32_between(x: Any) -> Any:
    """exp(x) of a float32 between SMALLEST and LARGEST."""
    whole = np.floor(x * _LOG2_E + _HALF)
    rest = x - whole * _LN2_HIGH - whole * _LN2_LOW
    series = ((((_P0 * rest + _P1) * rest + _P2) * rest + _P3) * rest + _P4) * rest + _P5
    series = series * rest * rest + rest + _ONE
    power: Any = float_of_bits(types.int32((types.int32(whole) + types.int32(127)) << types.int32(23)))
    return series * power


@njit(inline="always")
def exp32(x: Any) -> Any:
    """exp(x) of a float32; not a number stays not a number."""
    result = exp32_between(min(max(x, SMALLEST), LARGEST))
    result = _ZERO if x < SMALLEST else result
    result = _INFINITY if x > LARGEST else result
    return result if x == x else x
