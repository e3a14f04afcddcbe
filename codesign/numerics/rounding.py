"""How a value between two that a format holds is rounded, on the significand's bits; and reproducible noise."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numba import njit, types

from codesign.errors import BadParameter, nearest

Rounding = Literal["nearest-even", "nearest-away", "toward-zero", "down", "up", "stochastic"]
"""`nearest-away` takes ties away from zero; `stochastic` rounds up with the probability of the part cut off."""

ROUNDINGS: tuple[str, ...] = get_args(Rounding)
NEAREST_EVEN, NEAREST_AWAY, TOWARD_ZERO, DOWN, UP, STOCHASTIC = range(len(ROUNDINGS))


def rounding_number(rounding: str) -> int:
    """The number that kernels know a round mode by. Raises BadParameter for an unknown one."""
    if rounding not in ROUNDINGS:
        raise BadParameter(f"unknown round mode '{rounding}'{nearest(rounding, ROUNDINGS)}; known: {_listed()}")
    return ROUNDINGS.index(rounding)


def _listed() -> str:
    return ", ".join(ROUNDINGS)


_U0, _U1 = np.uint32(0), np.uint32(1)
_FIRST, _SECOND = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)


@njit(inline="always")
def noise_bits(index: Any, seed: Any) -> Any:
    """32 bits that depend on place and seed alone: the integer hash "lowbias32" (Wellons 2018), run over both."""
    x = types.uint32(index) ^ types.uint32(seed)
    # numba widens products of uint32 to 64 bits: each is cut again.
    x = types.uint32((x ^ (x >> types.uint32(16))) * _FIRST)
    x = types.uint32((x ^ (x >> types.uint32(15))) * _SECOND)
    return types.uint32(x ^ (x >> types.uint32(16)))


@njit(inline="always")
def shifted(bits: Any, drop: Any, negative: Any, mode: Any, noise: Any) -> Any:
    """The uint32 `bits` (below 2^31) with the last `drop` (at most 31) rounded away; `negative` is the value's sign."""
    mask = (_U1 << drop) - _U1
    half = (_U1 << drop) >> _U1
    if mode == NEAREST_EVEN:
        add = (half - _U1 + ((bits >> drop) & _U1)) & mask
    elif mode == NEAREST_AWAY:
        add = half
    elif mode == TOWARD_ZERO:
        add = _U0
    elif mode == DOWN:
        add = mask if negative else _U0
    elif mode == UP:
        add = _U0 if negative else mask
    else:
        add = noise & mask
    return (bits + add) >> drop


@njit(inline="always")
def whole(x: Any, mode: Any, noise: Any) -> Any:
    """The float32 `x` rounded to a whole number; `noise` is used by stochastic rounding alone."""
    if mode == NEAREST_EVEN:
        return np.rint(x)
    if mode == NEAREST_AWAY:
        cut = np.trunc(x)
        return cut + np.copysign(types.float32(1 if abs(x - cut) >= types.float32(0.5) else 0), x)
    if mode == TOWARD_ZERO:
        return np.trunc(x)
    if mode == DOWN:
        return np.floor(x)
    if mode == UP:
        return np.ceil(x)
    low = np.floor(x)
    # The upper 24 bits of the noise, a number from 0 to below 1.
    drawn = types.float32(noise >> types.uint32(8)) * types.float32(2.0**-24)
    return low + types.float32(1 if x - low > drawn else 0)
