"""Exact products of narrow integers on floating-point BLAS, which outruns numpy's integer loops by far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

Product = Callable[[Array, Array], Array]


def exactly(product: Product, left: Array, right: Array, depth: int) -> Array:
    """`product` of two integer arrays of up to 16 bits, sums of `depth` terms, in int32 as a 32-bit accumulator.

    Every partial sum is a whole number below the largest that float32 (2^24) or float64 (2^53) holds exactly, so that
    no order of summation rounds. What is beyond 32 bits wraps, as the standard allows.
    """
    bound = depth * _peak(left) * _peak(right)
    kind = np.float32 if bound < 1 << 24 else np.float64
    return product(left.astype(kind), right.astype(kind)).astype(np.int64).astype(np.int32)


def _peak(values: Array) -> int:
    return max(abs(int(values.min())), abs(int(values.max()))) if values.size else 0
