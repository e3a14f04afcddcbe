"""Statistics of rows in float32 and their normalisation, each row read while it is in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from codesign.executor.kernels.softmax import REORDERED

Array = np.ndarray[Any, Any]


@njit(cache=True, fastmath=REORDERED, error_model="numpy")
def standardise_rows(values: Array, epsilon: Any, mean: Array, inverse: Array) -> None:
    """Replace each row by (x - mean) / sqrt(variance + epsilon); `mean` and `inverse` (rows,) take the mean and the
    reciprocal root. The variance is that of the differences from the mean, which no large mean cancels."""
    rows, columns = values.shape
    count = np.float32(columns)
    for row in range(rows):
        total = np.float32(0)
        for column in range(columns):
            total += values[row, column]
        average = total / count
        squares = np.float32(0)
        for column in range(columns):
            difference = values[row, column] - average
            squares += difference * difference
        scale = np.float32(1) / np.sqrt(squares / count + epsilon)
        for column in range(columns):
            values[row, column] = (values[row, column] - average) * scale
        mean[row], inverse[row] = average, scale


@njit(cache=True, fastmath=REORDERED, error_model="numpy")
def scale_rows_to_unit(values: Array, epsilon: Any, inverse: Array) -> None:
    """Replace each row by x / sqrt(mean(x^2) + epsilon); `inverse` (rows,) takes the reciprocal root."""
    rows, columns = values.shape
    count = np.float32(columns)
    for row in range(rows):
        squares = np.float32(0)
        for column in range(columns):
            squares += values[row, column] * values[row, column]
        scale = np.float32(1) / np.sqrt(squares / count + epsilon)
        for column in range(columns):
            values[row, column] *= scale
        inverse[row] = scale
