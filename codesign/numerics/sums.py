"""Sums of products in an accumulator narrower than exact: integers that saturate or wrap, floats rounded as they grow.

Products of a block (what a dot-product unit adds at once) are summed exactly, as far as whole numbers or fp32 go, and
meet the running sum in the order of k.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from codesign.numerics.contractions import Product
from codesign.numerics.floats import accumulated, accumulation_geometry
from codesign.numerics.policy import Accumulator
from codesign.numerics.rounding import rounding_number

Array = np.ndarray[Any, Any]


def integer_limits(accumulator: Accumulator) -> tuple[int, int]:
    """Smallest and largest sum of an integer accumulator."""
    assert accumulator.bits is not None
    half = 1 << accumulator.bits - 1
    return -half, half - 1


def wrapped(sums: Array, bits: int) -> Array:
    """int64 sums as two's complement of `bits` bits keeps them."""
    if bits >= 64:
        return sums
    half = 1 << bits - 1
    return (sums + half) % (1 << bits) - half


def integer_sums(product: Product, accumulator: Accumulator) -> tuple[Array, int]:
    """Saturated sums (b, m, n), int64, of whole numbers, and how many left the accumulator's range on the way."""
    left, right = (np.ascontiguousarray(side, np.float32).astype(np.int32) for side in (product.left, product.right))
    sums = np.zeros((*left.shape[:2], right.shape[2]), np.int64)
    left_range = np.zeros(sums.shape, np.uint8)
    _integer_loop(left, right, sums, left_range, accumulator.block, *integer_limits(accumulator))
    return sums, int(np.count_nonzero(left_range))


def float_sums(product: Product, accumulator: Accumulator) -> Array:
    """float32 sums (b, m, n), rounded to the accumulator's format after every block; too large ones are infinite."""
    left, right = (np.ascontiguousarray(side, np.float32) for side in (product.left, product.right))
    sums = np.zeros((*left.shape[:2], right.shape[2]), np.float32)
    form, mode = accumulator.form, rounding_number(accumulator.rounding)
    _float_loop(left, right, sums, accumulator.block, *accumulation_geometry(form), mode)
    return sums


@njit(cache=True)
def _integer_loop(left: Array, right: Array, sums: Array, left_range: Array, block: int, low: int, high: int) -> None:
    batch, rows, depth = left.shape
    columns = right.shape[2]
    partial = np.empty(columns, np.int64)
    for b in range(batch):
        for row in range(rows):
            total, outside = sums[b, row], left_range[b, row]
            for first in range(0, depth, block):
                partial[:] = 0
                for k in range(first, min(first + block, depth)):
                    factor = types.int64(left[b, row, k])
                    for column in range(columns):
                        partial[column] += factor * right[b, k, column]
                for column in range(columns):
                    exact = total[column] + partial[column]
                    kept = min(max(exact, low), high)
                    outside[column] |= types.uint8(kept != exact)
                    total[column] = kept


@njit(cache=True, error_model="numpy")
def _float_loop(
    left: Array, right: Array, sums: Array, block: int, mantissa: int, smallest: int, largest: Any, mode: int
) -> None:
    batch, rows, depth = left.shape
    columns = right.shape[2]
    partial = np.empty(columns, np.float32)
    for b in range(batch):
        for row in range(rows):
            total = sums[b, row]
            for first in range(0, depth, block):
                partial[:] = 0
                for k in range(first, min(first + block, depth)):
                    factor = left[b, row, k]
                    for column in range(columns):
                        partial[column] += factor * right[b, k, column]
                for column in range(columns):
                    total[column] = accumulated(total[column] + partial[column], mantissa, smallest, largest, mode)
