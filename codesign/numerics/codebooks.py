"""The quantiser of listed values: logarithmic, normal-float, ternary and binary formats, one scale a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from codesign.numerics.formats import Codebook
from codesign.numerics.rounding import (
    DOWN,
    NEAREST_AWAY,
    NEAREST_EVEN,
    TOWARD_ZERO,
    UP,
    Rounding,
    noise_bits,
    rounding_number,
)

Array = np.ndarray[Any, Any]

_PIECE = 2048
"""Values of a row that are looked up at a time, in a first-level cache."""
TERNARY_THRESHOLD = 0.7
"""Of the mean magnitude: Ternary Weight Networks (Li, Zhang, Liu 2016), equation 6."""


def fit_rows(values: Array, book: Codebook) -> tuple[Array, Array]:
    """The scale of each row (rows,) and the boundaries between levels in units of it (rows or 1, levels - 1)."""
    magnitudes = np.abs(np.where(np.isfinite(values), values, np.float32(0)))
    boundaries = np.asarray(book.boundaries, np.float32)[None]
    if book.fit == "mean":
        return magnitudes.mean(axis=1), boundaries  # zero for a row of zeros, which so remains one
    if book.fit == "ternary":
        threshold = np.float32(TERNARY_THRESHOLD) * magnitudes.mean(axis=1, keepdims=True)
        kept = magnitudes > threshold
        sums = np.where(kept, magnitudes, np.float32(0)).sum(axis=1, dtype=np.float64)
        scales = _positive(sums / np.maximum(kept.sum(axis=1), 1))
        edge = np.where(threshold > 0, threshold / scales[:, None], np.float32(book.boundaries[-1]))
        return scales, np.concatenate((-edge, edge), axis=1)
    return scales_of(magnitudes.max(axis=1, initial=0), book), boundaries


def scales_of(largest: Array, book: Codebook) -> Array:
    """Scales that put the largest level on `largest`, or on the power of the base that is nearest in the logarithm."""
    scales = _positive(np.asarray(largest, np.float32) / np.float32(book.largest))
    if book.fit != "power":
        return scales
    exponents = np.rint(np.log(scales.astype(np.float64)) / np.log(book.base))
    return _positive(np.power(book.base, exponents))


def _positive(scales: Array) -> Array:
    found = np.asarray(scales, np.float32)
    return np.where(found >= np.finfo(np.float32).tiny, found, np.float32(1)).astype(np.float32)


def encode_rows(
    values: Array,
    scales: Array,
    boundaries: Array,
    book: Codebook,
    rounding: Rounding = "nearest-even",
    seed: int = 0,
) -> Array:
    """Codes (places in the list of levels, uint8) of float32 values (rows, columns).

    Ties between levels, and NaN, go to the one nearer zero; without a zero, to the upper.
    """
    codes = np.empty(values.shape, np.uint8)
    mode = rounding_number(rounding)
    lacks_zero = 0.0 not in book.levels  # nothing lies towards zero: the sign alone decides
    if mode in (NEAREST_EVEN, NEAREST_AWAY) or (mode == TOWARD_ZERO and lacks_zero):
        _nearest_loop(values, scales, boundaries, codes)
    else:
        _neighbour_loop(values, scales, np.asarray(book.levels, np.float32), codes, mode, np.uint32(seed))
    return codes


def decode_rows(codes: Array, scales: Array, book: Codebook) -> Array:
    """The float32 values of codes (rows, columns)."""
    return np.asarray(book.levels, np.float32)[codes] * scales[:, None]


def quantise_rows(
    values: Array,
    scales: Array,
    boundaries: Array,
    book: Codebook,
    rounding: Rounding = "nearest-even",
    seed: int = 0,
) -> Array:
    """What `decode_rows` makes of `encode_rows`."""
    return decode_rows(encode_rows(values, scales, boundaries, book, rounding, seed), scales, book)


@njit(cache=True, error_model="numpy")
def _nearest_loop(values: Array, scales: Array, boundaries: Array, codes: Array) -> None:
    """A code is the number of boundaries below the value: counted boundary by boundary over a piece of a row, which
    vector instructions do faster than a search."""
    scaled, found = np.empty(_PIECE, np.float32), np.empty(_PIECE, np.uint8)
    for row in range(values.shape[0]):
        edges = boundaries[row if boundaries.shape[0] > 1 else 0]
        scale = scales[row]
        for first in range(0, values.shape[1], _PIECE):
            size = min(_PIECE, values.shape[1] - first)
            for column in range(size):
                x = values[row, first + column] / scale
                scaled[column] = x if x == x else types.float32(0)
            found[:] = 0
            for edge in edges:
                if edge > 0:
                    for column in range(_PIECE):
                        found[column] += scaled[column] > edge
                else:
                    for column in range(_PIECE):
                        found[column] += scaled[column] >= edge
            for column in range(size):
                codes[row, first + column] = found[column]


@njit(cache=True, error_model="numpy")
def _neighbour_loop(values: Array, scales: Array, levels: Array, codes: Array, mode: int, seed: Any) -> None:
    last = levels.size - 1
    for row in range(values.shape[0]):
        first = row * values.shape[1]
        for column in range(values.shape[1]):
            x = values[row, column] / scales[row]
            x = x if x == x else types.float32(0)
            low = max(np.searchsorted(levels, x, "right") - 1, 0)
            high = low if low == last or levels[low] >= x else low + 1
            if mode == DOWN or (mode == TOWARD_ZERO and x >= 0):
                codes[row, column] = low
            elif mode in (UP, TOWARD_ZERO):
                codes[row, column] = high
            else:
                drawn = types.float32(noise_bits(first + column, seed) >> types.uint32(8)) * types.float32(2.0**-24)
                passed = x - levels[low] > drawn * (levels[high] - levels[low])
                codes[row, column] = high if passed else low
