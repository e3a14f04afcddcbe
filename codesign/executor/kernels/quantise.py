"""Rounding of float32 to 8-bit integers, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from codesign.executor.kernels.compiled import kernel

Array = np.ndarray[Any, Any]


@kernel
def quantise(values: Array, scale: Any, zero: Any, low: Any, high: Any, result: Array) -> None:
    """limited(round(x / scale) + zero), to even; what is not a number gives `low`. All float32 but `result`; flat."""
    for index in range(values.size):
        moved = np.rint(values[index] / scale) + zero
        moved = moved if moved > low else low
        result[index] = np.int32(moved if moved < high else high)
