"""The array cycle by cycle: operands move through registers, and the cycles in which something moves are counted.

Independent of the closed forms in `array`, which must agree with it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from hwmodels.npu.array import Product, decode_cycles, granules
from hwmodels.npu.parameters import Array


@lru_cache(maxsize=4096)
def tile_cycles(array: Array, product: Product, height: int, width: int, channels: int) -> int:
    """Cycles of one tile of `height` x `width` output positions and `channels` channels."""
    if array.dataflow == "dot_product":
        if product.flat:
            blocks = -(-height * width // (array.block_height * array.block_width))
        else:
            blocks = -(-height // array.block_height) * -(-width // array.block_width)
        decode = decode_cycles(array, product)
        cycles = _walk_granules(
            granules(array, product) * -(-channels // array.rows), blocks, array.reduction_steps, decode
        )
        return cycles * (product.bits // 8)
    m, k = height * width, product.reduction
    n, repeats = (1, channels) if product.depthwise else (channels, 1)
    return repeats * _folds(array, m, n, k) * (product.bits // 8)


def _folds(array: Array, m: int, n: int, k: int) -> int:
    """All folds of a product, each walked; a partly used fold takes as long as a full one."""
    rows, columns = array.rows, array.columns
    if array.dataflow == "output_stationary":
        return -(-m // rows) * -(-n // columns) * int(_walk_output_stationary(rows, columns, k))
    if array.dataflow == "weight_stationary":
        return -(-k // rows) * -(-n // columns) * int(_walk_stationary(rows, columns, m))
    return -(-k // rows) * -(-m // columns) * int(_walk_stationary(rows, columns, n))


@njit(cache=True)
def _walk_granules(count: int, blocks: int, steps: int, decode: float) -> int:
    """A decoder fills one of two granule buffers while the array empties the other; it is one granule ahead at the
    start, having worked through the end of the tile before, and at the end."""
    decoded, decoding, computed, computing = 1, 0.0, 0, 0
    cycle = 0
    while computed < count or decoded < count + 1:
        cycle += 1
        if decoded < count + 1 and decoded - computed < 2:
            decoding += 1.0
            if decoding >= decode:
                decoding -= decode
                decoded += 1
        if computing > 0 or computed < decoded:
            computing += 1
            if computing == steps * blocks:
                computing = 0
                computed += 1
    return cycle


@njit(cache=True)
def _walk_output_stationary(rows: int, columns: int, k: int) -> int:
    """Left operands enter row r from cycle r and move right, upper ones column c from cycle c and move down; a unit
    multiplies when both are there. Ends when each has multiplied k times."""
    left, upper = np.zeros((rows, columns), np.int64), np.zeros((rows, columns), np.int64)
    done, cycle = 0, 0
    while done < rows * columns * k:
        for row in range(rows):
            for column in range(columns - 1, 0, -1):
                left[row, column] = left[row, column - 1]
            left[row, 0] = 1 if row <= cycle < row + k else 0
        for column in range(columns):
            for row in range(rows - 1, 0, -1):
                upper[row, column] = upper[row - 1, column]
            upper[0, column] = 1 if column <= cycle < column + k else 0
        done += int((left * upper).sum())
        cycle += 1
    return cycle


@njit(cache=True)
def _walk_stationary(rows: int, columns: int, stream: int) -> int:
    """One row of the stationary operand enters a cycle; then the other streams in, row r from cycle r, moving right
    while sums move down. Ends when the last sum leaves the last column."""
    moving = np.zeros((rows, columns), np.int64)
    sums = np.zeros((rows, columns), np.int64)
    out, cycle = 0, 0
    while out < stream * columns:
        for row in range(rows):
            for column in range(columns - 1, 0, -1):
                moving[row, column] = moving[row, column - 1]
            moving[row, 0] = 1 if row <= cycle < row + stream else 0
        for column in range(columns):
            for row in range(rows - 1, 0, -1):
                sums[row, column] = sums[row - 1, column] * moving[row, column]
            sums[0, column] = moving[0, column]
            out += sums[rows - 1, column]
        cycle += 1
    return rows + cycle
