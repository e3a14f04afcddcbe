"""Cycles of the multiply-accumulate array for tiles of a matrix product or convolution, without memory stalls.

Systolic arrays follow the closed forms that SCALE-Sim (Samajdar et al., ISPASS 2020) obeys for each fold of the array.
The dot-product array follows the published block structure of Arm's Ethos-U: blocks of output positions and channels,
granules of the reduction, and a weight decoder that feeds it.
All functions take numpy arrays (one entry a candidate tiling) or plain numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.dtypes import dtype
from codesign.work import Contraction
from hwmodels.npu import sparsity
from hwmodels.npu.parameters import Array

Values = Any
"""A number, or a numpy array with one number a candidate."""


@dataclass(frozen=True, slots=True)
class Product:
    """The loops of a contraction as the array sees them: `groups` times, for `height` x `width` output positions and
    `channels` outputs, a reduction over `kernel` taps of `depth` inputs. A depthwise convolution has one group and a
    depth of 1 for each of its channels. Densities and patterns are those of the operands (codesign.work.Operand)."""

    groups: int
    height: int
    width: int
    channels: int
    kernel_height: int
    kernel_width: int
    stride_height: int
    stride_width: int
    depth: int
    depthwise: bool
    bits: int
    input_density: float = 1.0
    weight_density: float = 1.0
    weight_patterns: tuple[tuple[int, int], ...] = ()

    @property
    def kernel(self) -> int:
        return self.kernel_height * self.kernel_width

    @property
    def flat(self) -> bool:
        """Whether outputs at neighbouring positions share no inputs."""
        return self.kernel == 1

    @property
    def reduction(self) -> int:
        return self.kernel * self.depth


def product_of(work: Contraction) -> Product:
    """The loops of `work`. Positions of a one-tap product have no neighbours to keep, so they lie in one row."""
    bits = max(dtype(work.dtype).bits, 8)
    weight = work.reads[min(1, len(work.reads) - 1)]
    zeros = work.reads[0].density, weight.density, weight.patterns
    convolution = work.convolution
    taps = convolution.kernel if convolution is not None and not convolution.transposed else (1,)
    if convolution is None or convolution.transposed or max(taps) == 1:
        return Product(work.batch, 1, work.m, work.n, 1, 1, 1, 1, work.k, False, bits, *zeros)
    # Axes before the last are taken together: a volume is a tall image.
    width = convolution.output_spatial[-1]
    tall = 1
    for size in taps[:-1]:
        tall *= size
    stride = 1 if len(taps) == 1 else convolution.stride[-2]
    groups, channels, depth = work.batch, work.n, work.k // (tall * taps[-1])
    if convolution.depthwise:
        groups, channels, depth = 1, work.batch * work.n, 1
    return Product(
        groups, work.m // width, width, channels, tall, taps[-1], stride, convolution.stride[-1], depth,
        convolution.depthwise, bits, *zeros,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tiles:
    """Extents of a tile of outputs: rows and columns of positions, channels. One entry a candidate."""

    height: Values
    width: Values
    channels: Values

    def counts(self, product: Product) -> tuple[Values, Values]:
        """Tiles over the positions and over the channels of one group."""
        down, across = -(-product.height // self.height), -(-product.width // self.width)
        return down * across, -(-product.channels // self.channels)

    def positions(self) -> Values:
        return self.height * self.width


def covered(total: int, tile: Values, unit: int) -> Values:
    """Units that cover `total` elements when each tile of `tile` elements is covered by itself."""
    whole = total // tile
    return whole * -(-tile // unit) + -(-(total - whole * tile) // unit)


def group_cycles(array: Array, product: Product, tiles: Tiles) -> Values:
    """Cycles of the array for one group of the product, all its tiles one after another."""
    if array.dataflow == "dot_product":
        cycles = _dot_product_cycles(array, product, tiles)
    elif product.depthwise:
        # Each channel reads inputs of its own, so one column (or row) of the array works at a time.
        cycles = product.channels * _systolic_cycles(array, product.height * product.width, 1, product.reduction, tiles)
    else:
        m = product.height * product.width
        cycles = _systolic_cycles(array, m, product.channels, product.reduction, tiles)
    return cycles * (product.bits // 8)


def granules(array: Array, product: Product) -> int:
    """Reduction granules of one output: a granule is `columns` inputs at `reduction_steps` kernel taps, or
    `columns` x `reduction_steps` inputs at one tap, whichever wastes less; a depthwise lane takes only taps."""
    steps = array.reduction_steps
    if product.depthwise:
        return -(-product.kernel // steps)
    deep = product.kernel * -(-product.depth // (array.columns * steps))
    by_tap = -(-product.kernel // steps) * -(-product.depth // array.columns)
    return min(deep, by_tap)


def granule_weights(array: Array, product: Product) -> int:
    """Weights of one granule for all rows of the array."""
    return array.rows * array.reduction_steps * sparsity.lane_width(array, product.depthwise)


def decode_cycles(array: Array, product: Product) -> float:
    """Cycles in which the weight decoder fills one granule for all rows of the array, without zeros passed over."""
    share = sparsity.decoded_share(array, product.weight_density)
    return granule_weights(array, product) * share / array.weight_decoder_rate


def _dot_product_cycles(array: Array, product: Product, tiles: Tiles) -> Values:
    """A granule lasts until its weights are decoded and all blocks of the tile have used them, whichever is later; a
    tile at the edge has fewer blocks and may wait for the decoder."""
    decode = decode_cycles(array, product)
    steps = sparsity.steps(
        array, product.depthwise, product.input_density, product.weight_density, product.weight_patterns
    )
    unit = (1, array.block_height * array.block_width) if product.flat else (array.block_height, array.block_width)
    over_positions = 0
    for down, height in _parts(product.height, tiles.height):
        for across, width in _parts(product.width, tiles.width):
            blocks = -(-height // unit[0]) * -(-width // unit[1])
            over_positions = over_positions + down * across * np.maximum(decode, steps * blocks)
    return granules(array, product) * covered(product.channels, tiles.channels, array.rows) * over_positions


def _parts(total: int, tile: Values) -> tuple[tuple[Values, Values], tuple[Values, Values]]:
    """How many tiles are whole, and their extent; how many (none or one) are not, and its extent."""
    whole = total // tile
    rest = total - whole * tile
    return (whole, tile), (rest > 0, rest)


def _systolic_cycles(array: Array, m: int, n: int, k: int, tiles: Tiles) -> Values:
    rows, columns = array.rows, array.columns
    tile_m, tile_n = np.minimum(tiles.positions(), m), np.minimum(tiles.channels, n)
    skew = 2 * rows + columns - 2
    if array.dataflow == "output_stationary":
        return covered(m, tile_m, rows) * covered(n, tile_n, columns) * (k + rows + columns - 2)
    if array.dataflow == "weight_stationary":
        return -(-k // rows) * covered(n, tile_n, columns) * (-(-m // tile_m) * skew + m)
    return -(-k // rows) * covered(m, tile_m, columns) * (-(-n // tile_n) * skew + n)


def fetched_elements(array: Array, product: Product, tiles: Tiles, tile_inputs: Values) -> tuple[Values, Values]:
    """Input and weight elements read from on-chip memory over all tiles of one group.

    A dot-product array holds a tile's inputs (`tile_inputs` of them) and passes its weights once; a systolic array
    streams the moving operands again for each fold of the stationary one.
    """
    over_positions, over_channels = tiles.counts(product)
    weights = product.reduction * product.channels
    if array.dataflow == "dot_product":
        return over_positions * over_channels * tile_inputs, over_positions * weights
    m = product.height * product.width
    streams = m * product.reduction
    if product.depthwise:
        return streams * product.channels, weights * over_positions
    across = covered(product.channels, np.minimum(tiles.channels, product.channels), array.columns)
    tile_m = np.minimum(tiles.positions(), m)
    if array.dataflow == "output_stationary":
        return streams * across, weights * covered(m, tile_m, array.rows)
    if array.dataflow == "weight_stationary":
        return streams * across, weights * over_positions
    return streams * over_channels, weights * covered(m, tile_m, array.columns)


def macs_per_cycle(array: Array) -> int:
    """8-bit multiply-accumulates a cycle when every unit is busy."""
    block = array.block_height * array.block_width if array.dataflow == "dot_product" else 1
    return array.rows * array.columns * block
