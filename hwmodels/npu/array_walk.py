"""The array cycle by cycle: operands move through registers, and the cycles in which something moves are counted.

Independent of the closed forms in `array`, which must agree with it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit

from hwmodels.npu.array import Product, granule_weights, granules
from hwmodels.npu.parameters import Array

Float64 = np.ndarray[Any, np.dtype[np.float64]]
Int64 = np.ndarray[Any, np.dtype[np.int64]]

DRAWN_GRANULES, DRAWN_BLOCKS = 64, 16
"""Granules, and blocks of positions of each, for which zeros are drawn."""


@lru_cache(maxsize=4096)
def tile_cycles(array: Array, product: Product, height: int, width: int, channels: int) -> int:
    """Cycles of one tile of `height` x `width` output positions and `channels` channels."""
    if array.dataflow == "dot_product":
        if product.flat:
            blocks = -(-height * width // (array.block_height * array.block_width))
        else:
            blocks = -(-height // array.block_height) * -(-width // array.block_width)
        decode, compute = _granule_cycles(array, product, blocks)
        cycles = _walk_granules(granules(array, product) * -(-channels // array.rows), compute, decode)
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


def _granule_cycles(array: Array, product: Product, blocks: int) -> tuple[Float64, Int64]:
    """Cycles of decoding and of computing some granules, which the walk goes through again and again: one that stands
    for all where no zero is passed over, else several with zeros drawn for each."""
    if array.skips_zeros == "none":
        compute = np.array([array.reduction_steps * blocks])
        return np.array([granule_weights(array, product) / array.weight_decoder_rate]), compute
    width = 1 if product.depthwise else array.columns
    skips_weights, skips_inputs = array.skips_zeros != "inputs", array.skips_zeros != "weights"
    patterns = product.weight_patterns if skips_weights else ()
    whole = [(most, size) for most, size in patterns if width % size == 0]
    drawn = min(blocks, DRAWN_BLOCKS)
    kept, compute = _draw_granules(
        np.random.default_rng(0), DRAWN_GRANULES, drawn, array.rows, array.block_height * array.block_width,
        width, array.reduction_steps, product.weight_density if skips_weights else 1.0,
        product.input_density if skips_inputs else 1.0,
        min(whole, key=lambda pattern: pattern[0] / pattern[1], default=(1, 1)), product.depthwise,
    )  # fmt: skip
    compute = np.rint(compute * (blocks / drawn)).astype(np.int64)
    decoded = kept if skips_weights else np.full(DRAWN_GRANULES, granule_weights(array, product))
    return decoded / array.weight_decoder_rate, np.maximum(compute, blocks)


@njit(cache=True)
def _draw_granules(
    random: np.random.Generator, granules: int, blocks: int, rows: int, positions: int, width: int, steps: int,
    weight_density: float, input_density: float, pattern: tuple[int, int], depthwise: bool,
) -> tuple[Int64, Int64]:  # fmt: skip
    """Weights that are not zero, and cycles of all blocks, for each of `granules`. A row's lane multiplies its weights
    with the inputs of each position, cycle by cycle `width` pairs that are both not zero."""
    most, size = pattern
    elements = width * steps
    weights, inputs = np.zeros((rows, elements), np.bool_), np.zeros((rows, positions, elements), np.bool_)
    kept, cycles = np.zeros(granules, np.int64), np.zeros(granules, np.int64)
    for granule in range(granules):
        for row in range(rows):
            for start in range(0, elements, size):
                places = random.permutation(size)
                for place in range(size):  # the first `most` places of a shuffled group may be filled
                    chance = weight_density * size / most if places[place] < most else 0.0
                    weights[row, start + place] = random.random() < chance
        kept[granule] = weights.sum()
        for _ in range(blocks):
            for row in range(rows):
                for position in range(positions):
                    for element in range(elements):
                        if depthwise or row == 0:
                            inputs[row, position, element] = random.random() < input_density
                        else:  # all rows see the same inputs
                            inputs[row, position, element] = inputs[0, position, element]
            slowest = 1
            for row in range(rows):
                for position in range(positions):
                    pairs = 0
                    for element in range(elements):
                        pairs += weights[row, element] and inputs[row, position, element]
                    slowest = max(slowest, -(-pairs // width))
            cycles[granule] += slowest
    return kept, cycles


@njit(cache=True)
def _walk_granules(count: int, compute: Int64, decode: Float64) -> int:
    """A decoder fills one of two granule buffers while the array empties the other; it is one granule ahead at the
    start, having worked through the end of the tile before, and at the end. Granule i takes `compute[i]` and
    `decode[i]` cycles, or those of the one as many places before as there are."""
    different = compute.size
    decoded, decoding, computed, computing = 1, 0.0, 0, 0
    cycle = 0
    while computed < count or decoded < count + 1:
        cycle += 1
        if decoded < count + 1 and decoded - computed < 2:
            decoding += 1.0
            if decoding >= decode[decoded % different]:
                decoding -= decode[decoded % different]
                decoded += 1
        if computing > 0 or computed < decoded:
            computing += 1
            if computing == compute[computed % different]:
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
