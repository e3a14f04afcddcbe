"""Moments and histograms of arrays in one pass each, and the fullest group of a pattern of zeros."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]

BINS = 128
"""Bins of a running histogram, half of them below zero."""


@njit(cache=True, error_model="numpy")
def moments(values: Array, zero: Any, centre: float) -> tuple[int, int, float, float, float, float]:
    """Of flat `values`: how many are finite, how many equal `zero`, and of the finite ones the least, the greatest, the
    sum of the differences from `centre` and that of their squares."""
    finite, zeros = 0, 0
    least, greatest, total, squares = np.inf, -np.inf, 0.0, 0.0
    for index in range(values.size):
        value = values[index]
        zeros += value == zero
        number = np.float64(value)  # `float` would keep float32
        if number - number == 0.0:  # neither an infinity nor no number
            finite += 1
            least = min(least, number)
            greatest = max(greatest, number)
            total += number - centre
            squares += (number - centre) ** 2
    return finite, zeros, least, greatest, total, squares


@njit(cache=True, error_model="numpy")
def count_bins(values: Array, inverse_width: float, counts: Array) -> None:
    """Add the finite ones of flat `values` to `counts` (BINS,), whose middle edge is zero."""
    half = counts.size // 2
    for index in range(values.size):
        number = np.float64(values[index])
        if number - number == 0.0:
            place = math.floor(number * inverse_width) + half
            counts[min(max(place, 0), counts.size - 1)] += 1


def fullest_groups(values: Array, zero: int, axis: int) -> dict[int, int]:
    """For groups of 2, 4, 8 and 16 consecutive values along `axis` that are no longer than it: the most values in any
    group that do not equal `zero`."""
    found = {}
    filled = np.moveaxis(values != zero, axis, 0).astype(np.uint8)
    extent, size = filled.shape[0], 2
    while size <= min(16, extent):
        if filled.shape[0] % 2:
            filled = np.concatenate([filled, np.zeros_like(filled[:1])])
        filled = filled[0::2] + filled[1::2]
        found[size] = int(filled.max(initial=0))
        size *= 2
    return found
