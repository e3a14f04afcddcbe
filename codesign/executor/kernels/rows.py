"""Statistics of rows in float32 and their normalisation, each row read while it is in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from codesign.executor.kernels.compiled import kernel, summing_kernel
from codesign.executor.kernels.vector import floats_at, take_number

Array = np.ndarray[Any, Any]


@summing_kernel
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


@summing_kernel
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


@summing_kernel
def _normalise(values: Array, gain: Array, bias: Array, epsilon: Any, centred: bool, result: Array) -> None:
    """One row into `result`; by its mean square alone unless `centred`."""
    columns = values.size
    count = np.float32(columns)
    average = np.float32(0)
    if centred:
        total = np.float32(0)
        for column in range(columns):
            total += values[column]
        average = total / count
    squares = np.float32(0)
    for column in range(columns):
        difference = values[column] - average
        squares += difference * difference
    scale = np.float32(1) / np.sqrt(squares / count + epsilon)
    for column in range(columns):
        result[column] = (values[column] - average) * scale * gain[column] + bias[column]


@kernel
def normalise_rows(
    counter: int, tasks: int, rows: int, columns: int, values: int, gain: int, bias: int, epsilon: float, centred: int,
    result: int,
) -> None:  # fmt: skip
    """Take tasks, some rows each, from `counter`: (x - mean) / sqrt(variance + epsilon) gain + bias, or with the mean
    square and no mean unless `centred`. All are addresses of contiguous float32."""
    while True:
        task = take_number(counter)
        if task >= tasks:
            break
        for row in range(rows * task // tasks, rows * (task + 1) // tasks):
            step = row * columns * 4
            _normalise(
                carray(floats_at(values + step), (columns,)), carray(floats_at(gain), (columns,)),
                carray(floats_at(bias), (columns,)), np.float32(epsilon), centred != 0,
                carray(floats_at(result + step), (columns,)),
            )  # fmt: skip
