"""Moments, histograms and agreement of arrays in one pass each, and the fullest group of a pattern of zeros."""

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


@njit(cache=True, error_model="numpy")
def agreement_sums(exact: Array, found: Array, least: float) -> tuple[float, float, float, float, float, int, int]:
    """Of two matrices, over places where both are finite and `exact` is above `least`: sums of squares of each, of
    products, of squared differences, and the largest difference; rows whose largest value is in the same place; places
    where only `exact` is finite."""
    signal, other, dot, noise, largest = 0.0, 0.0, 0.0, 0.0, 0.0
    same, not_finite = 0, 0
    for row in range(exact.shape[0]):
        first, second = 0, 0
        for column in range(exact.shape[1]):
            right, here = np.float64(exact[row, column]), np.float64(found[row, column])
            first = column if right > exact[row, first] else first
            second = column if here > found[row, second] else second
            right_is_finite, here_is_finite = right - right == 0.0 and right > least, here - here == 0.0
            if right_is_finite and here_is_finite:
                error = here - right
                signal += right * right
                other += here * here
                dot += right * here
                noise += error * error
                largest = max(largest, abs(error))
            elif right_is_finite:
                not_finite += 1
        same += first == second
    return signal, other, dot, noise, largest, same, not_finite


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
