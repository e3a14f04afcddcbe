"""The tile of outputs that a contraction is cut into: searched over all sensible tiles at once, with numpy.

A tile needs room on chip for its inputs, weights and outputs, twice each, so that loading, computing and storing
overlap. Among the tiles that fit, the one with the least estimated time wins: the busiest resource's total, and the
first tile's way in and the last tile's way out, which nothing hides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from codesign.work import Contraction
from hwmodels.npu.array import Product, Tiles, fetched_elements, group_cycles, product_of
from hwmodels.npu.parameters import NpuParameters
from hwmodels.npu.sparsity import masked_share, minds_zeros

_DENSITIES = (1.0, 0.5, 0.25, 0.0)
"""Densities that tiles are estimated for where zeros matter."""
_SHORT_LIST = 4
"""Tiles of each loop order that are worth a run on the engine: the estimate is within a few percent of it."""

Float64 = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Operands:
    """Bytes of an element of each operand, and where inputs and outputs lie."""

    input_bytes: float
    weight_bytes: float
    output_bytes: float
    inputs_resident: bool
    weights_resident: bool
    keep_output: bool


@dataclass(frozen=True, slots=True)
class Tiling:
    """The chosen tile and what follows from it; bytes and cycles are averages over the tiles."""

    product: Product
    height: int
    width: int
    channels: int
    over_positions: int
    over_channels: int
    weights_outer: bool
    input_bytes: float  # from DRAM, a load
    input_loads: int
    input_stride: int
    weight_bytes: float  # from DRAM, a load
    weight_loads: int
    weight_stride: int
    array_cycles: int
    output_elements: float
    read_bytes: float

    @property
    def tiles(self) -> int:
        return self.product.groups * self.over_positions * self.over_channels


def working_bytes(parameters: NpuParameters) -> int:
    """On-chip bytes for the tiles of one operation: half of what feature maps kept between operations leave, since
    the next operation's weights arrive while this one runs."""
    return int(parameters.sram.capacity * (1 - parameters.sram.kept_share) / 2)


def search(parameters: NpuParameters, work: Contraction, operands: Operands) -> list[Tiling]:
    """The most promising tiles for `work` by the estimate, best first: a few of each loop order. When none fits with
    double buffers, the smallest is given and its reduction streams through the buffers in slices.

    Where zeros matter, tiles are estimated for several densities and none falls out of the list for more zeros: so the
    best of them never takes longer.
    """
    product = product_of(work)
    candidates = _candidates(parameters, product)
    room = working_bytes(parameters)
    found: list[tuple[float, int, Tiling]] = []
    smallest: list[tuple[float, int, Tiling]] = []
    for weights_outer in (True, False):
        plan = _Plan(parameters, product, operands, candidates, weights_outer)
        for index in _short_list(parameters, plan, operands, room):
            found.append((float(plan.time[index]), len(found), plan.tiling(index)))
        index = int(np.argmin(plan.need))
        smallest.append((float(plan.need[index]), len(smallest), plan.tiling(index)))
    return [tiling for _, _, tiling in sorted(found)] or [min(smallest)[2]]


def _short_list(parameters: NpuParameters, plan: _Plan, operands: Operands, room: int) -> list[int]:
    """Candidates of a loop order that fit `room` and would be among the best at some density."""
    zeros = min(plan.product.input_density, plan.product.weight_density) < 1
    densities = _DENSITIES if zeros and minds_zeros(parameters.array, parameters.weights) else (1.0,)
    listed: dict[int, None] = {}
    for density in densities:
        product = replace(plan.product, input_density=density, weight_density=density, weight_patterns=())
        assumed = _Plan(parameters, product, operands, plan.tiles, plan.weights_outer)
        time = np.where(assumed.need <= room, assumed.time, np.inf)
        listed.update((int(i), None) for i in np.argsort(time, kind="stable")[:_SHORT_LIST] if time[i] < np.inf)
    return [index for index in listed if plan.need[index] <= room]


def _candidates(parameters: NpuParameters, product: Product) -> Tiles:
    """Tiles in whole blocks of the array, those whose partial sums fit the accumulators."""
    array = parameters.array
    if array.dataflow == "dot_product":
        down, across, deep = array.block_height, array.block_width, array.rows
        across *= down if product.flat else 1
    else:
        down, across = 1, array.columns if array.dataflow == "input_stationary" else array.rows
        deep = array.columns
    heights, widths = _extents(product.height, down), _extents(product.width, across)
    grid = np.meshgrid(heights, widths, _extents(product.channels, deep), indexing="ij")
    tiles = Tiles(*(axis.ravel() for axis in grid))
    if array.dataflow == "output_stationary":
        return tiles
    sums = tiles.positions() * tiles.channels * array.accumulator_width
    held = sums <= max(array.accumulator_bytes // 2, int(sums.min()))
    return Tiles(tiles.height[held], tiles.width[held], tiles.channels[held])


def _extents(extent: int, unit: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tile extents that cut `extent` in 1, 2, 3, 4, 6, 8, 12 ... parts as equal as whole units allow."""
    blocks = -(-extent // unit)
    parts = {factor << shift for shift in range(blocks.bit_length() + 1) for factor in (1, 3)}
    return np.array(sorted({min(-(-blocks // min(part, blocks)) * unit, extent) for part in parts}), np.int64)


@dataclass(frozen=True, slots=True)
class _Side:
    """Inputs or weights: bytes that a tile needs room for and that its load brings, and those of a whole group."""

    room: Float64
    load: Float64
    whole: float
    resident: bool


@dataclass(frozen=True, slots=True)
class _Loads:
    """Transfers of one side from DRAM: bytes of each, how many, and the tiles that each serves."""

    bytes: Float64
    count: Float64
    stride: Float64

    def at(self, index: int) -> tuple[float, int, int]:
        return float(self.bytes[index]), int(self.count[index]), int(self.stride[index])


class _Plan:
    """All candidates under one loop order: with `weights_outer` a tile's weights stay while all positions pass, else
    its inputs stay while all channels pass."""

    def __init__(
        self, parameters: NpuParameters, product: Product, operands: Operands, tiles: Tiles, weights_outer: bool
    ) -> None:
        self.product, self.tiles, self.weights_outer = product, tiles, weights_outer
        self.over_positions, self.over_channels = tiles.counts(product)
        self.count = product.groups * self.over_positions * self.over_channels
        inputs, elements = _inputs(parameters, product, operands, tiles)
        weights = _weights(parameters, product, operands, tiles, self.over_channels)
        self._place(working_bytes(parameters), operands, inputs, weights)
        self.array_cycles = product.groups * group_cycles(parameters.array, product, tiles)
        self.array_cycles = self.array_cycles + self.count * parameters.control.tile_cycles
        fetched_inputs, fetched_weights = fetched_elements(parameters.array, product, tiles, elements)
        stored = operands.weight_bytes * _unmasked_share(parameters, product, operands)
        fetched = fetched_inputs * operands.input_bytes + fetched_weights * stored
        self.read_bytes = product.groups * fetched
        self.output_elements = product.groups * product.height * product.width * product.channels
        self.time = self._estimate(parameters, operands)

    def _place(self, room: int, operands: Operands, inputs: _Side, weights: _Side) -> None:
        """Which side stays on chip whole, which is loaded by the tile, and the room that all of it needs.

        The outer side is loaded once. The inner side is loaded once if a group of it fits beside the rest (twice, when
        the next group's arrives meanwhile), else again for every tile.
        """
        groups = self.product.groups
        outer, inner = (weights, inputs) if self.weights_outer else (inputs, weights)
        outer_count = self.over_channels if self.weights_outer else self.over_positions
        inner_count = self.over_positions if self.weights_outer else self.over_channels
        outputs = 2 * self.tiles.positions() * self.tiles.channels * operands.output_bytes
        fixed = outputs + (0 if outer.resident else 2 * outer.room)
        whole = (0 if inner.resident else 1 if groups == 1 else 2) * inner.whole
        kept = fixed + whole <= room
        self.need = fixed + np.where(kept, whole, 0 if inner.resident else 2 * inner.room)
        self.outer = _Loads(outer.load * (not outer.resident), groups * outer_count, inner_count)
        # A single group kept whole arrives tile by tile; of several, each arrives whole before its first tile.
        by_tile = kept & (groups == 1)
        by_group = kept & (groups > 1)
        count = np.where(by_tile, inner_count, np.where(by_group, groups, self.count))
        size = np.where(kept, groups * inner.whole / count, inner.load)
        stride = np.where(by_group, outer_count * inner_count, 1)
        self.inner = _Loads(size * (not inner.resident), count, stride)

    def _estimate(self, parameters: NpuParameters, operands: Operands) -> Float64:
        """Cycles of the whole product: the busiest resource, and what is not overlapped at the ends."""
        dram, sram = parameters.dram.bandwidth / parameters.clock, parameters.sram.bandwidth / parameters.clock
        written = self.output_elements * operands.output_bytes
        loaded = self.inner.count * self.inner.bytes + self.outer.count * self.outer.bytes
        stored = 0.0 if operands.keep_output else written
        busy = np.maximum.reduce([
            np.broadcast_to(total, self.count.shape)
            for total in (
                self.array_cycles,
                self.output_elements / parameters.vector.lanes,
                (self.read_bytes + written) / sram,
                (loaded + stored) / dram,
            )
        ])  # fmt: skip
        array, read = self.array_cycles / self.count, self.read_bytes / self.count / sram
        output = self.output_elements / self.count / parameters.vector.lanes
        # With two buffers a tile's read starts when the tile before the last is done: its latency shows on short tiles.
        tile = np.maximum(busy / self.count, (parameters.sram.latency * parameters.clock + read + array) / 2)
        total = tile * self.count
        latency = parameters.dram.latency * parameters.clock
        for loads in (self.inner, self.outer):
            group = total / loads.count
            late = (latency + loads.bytes / dram + group) / 2
            buffered = (loads.bytes > 0) & (loads.count > 2) & (loads.count * loads.stride >= self.count)
            total = np.where(buffered & (late > group), late * loads.count, total)
        way_in = latency + (self.inner.bytes + self.outer.bytes) / dram + read + array
        way_out = output + (written / sram + stored / dram) / self.count
        return np.asarray(total - tile + way_in + way_out)

    def tiling(self, index: int) -> Tiling:
        inner, outer = self.inner.at(index), self.outer.at(index)
        inputs, weights = (inner, outer) if self.weights_outer else (outer, inner)
        count = int(self.count[index])
        return Tiling(
            self.product,
            int(self.tiles.height[index]),
            int(self.tiles.width[index]),
            int(self.tiles.channels[index]),
            int(self.over_positions[index]),
            int(self.over_channels[index]),
            self.weights_outer,
            *inputs,
            *weights,
            math.ceil(float(self.array_cycles[index]) / count),
            self.output_elements / count,
            float(self.read_bytes[index]) / count,
        )


def _inputs(parameters: NpuParameters, product: Product, operands: Operands, tiles: Tiles) -> tuple[_Side, Float64]:
    """The input side, halo included, and the elements of a tile's inputs as the on-chip memory counts them.

    The array reads an image position by position: where the channels of one are shorter than a beat (a picture's
    three), each position takes a whole beat on chip, and a whole burst from DRAM.
    """
    depth = product.channels if product.depthwise else product.depth
    short = product.kernel > 1 and depth * operands.input_bytes < parameters.sram.beat
    height = (tiles.height - 1) * product.stride_height + product.kernel_height
    width = (tiles.width - 1) * product.stride_width + product.kernel_width
    tile_depth = tiles.channels if product.depthwise else np.full_like(tiles.channels, depth)
    run = np.full_like(tile_depth, parameters.sram.beat) if short else tile_depth * operands.input_bytes
    burst = np.full_like(tile_depth, parameters.dram.burst) if short else run
    positions = product.height * product.stride_height * product.width * product.stride_width
    whole = positions * (parameters.dram.burst if short else depth * operands.input_bytes)
    size = height * width * burst
    side = _Side(height * width * run, size, whole, operands.inputs_resident)
    return side, height * width * run / operands.input_bytes


def _weights(
    parameters: NpuParameters, product: Product, operands: Operands, tiles: Tiles, over_channels: Float64
) -> _Side:
    """The weight side. Weights are stored encoded and decoded on their way into the array."""
    ratio = parameters.weights.compression_ratio * _unmasked_share(parameters, product, operands)
    room = product.reduction * tiles.channels * operands.weight_bytes * ratio
    whole = product.reduction * product.channels * operands.weight_bytes * ratio
    return _Side(room, whole / over_channels, whole, operands.weights_resident)


def _unmasked_share(parameters: NpuParameters, product: Product, operands: Operands) -> float:
    """Bytes of the weights that are left where zeros are masked out, over all."""
    return masked_share(product.weight_density, 8 * operands.weight_bytes) if parameters.weights.zero_mask else 1.0
