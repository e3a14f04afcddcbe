"""8-bit results in the arithmetic of ONNX Runtime's x86 kernels (MLAS), operation by operation.

Each rounding is that of the vector code: a fused multiply-add rounds once. The product of an 8-bit integer and a
float32 is exact in float64, so that one addition there and a conversion to float32 give the same value, but for sums
that float64 itself must round close to the middle of two neighbours (once in some 2^28).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]


@njit(cache=True, error_model="numpy")
def scaled_sum(
    left: Array, right: Array, left_ratio: Any, right_ratio: Any, fixed: Any, low: Any, high: Any, result: Array
) -> None:
    """round(left left_ratio + (right right_ratio + fixed)), limited; all (count,). `fixed` holds the zero points; both
    multiply-adds are fused (qladd_avx2.cpp)."""
    for index in range(left.size):
        first = np.float32(np.float64(right[index]) * np.float64(right_ratio) + np.float64(fixed))
        total = np.float32(np.float64(left[index]) * np.float64(left_ratio) + np.float64(first))
        result[index] = min(max(np.rint(total), low), high)


@njit(cache=True, error_model="numpy")
def softmax_rows_by_table(values: Array, table: Array, steps: Any, zero: Any, low: Any, high: Any, out: Array) -> None:
    """round(exp(x) steps / sum(exp(x))) + zero for each row of `values` (rows, columns), 0 to 255 counted from the
    row's largest as 255, which indexes `table` (256,); sums run from left to right (qlinear_softmax.cc)."""
    rows, columns = values.shape
    for row in range(rows):
        shift = 255 - np.int64(values[row].max())
        total = np.float32(0)
        for column in range(columns):
            total += table[values[row, column] + shift]
        for column in range(columns):
            share = table[values[row, column] + shift] * steps / total
            out[row, column] = min(max(np.rint(share) + zero, low), high)
