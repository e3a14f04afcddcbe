"""A pipeline cycle by cycle: a clock, registers and counters instead of events.

The same stages as `pipeline.emit` writes, each moved on in every cycle by what its port or unit does, with the array's
cycles taken tile by tile from its own walk. It shares no code with the event engine, so that the two check each other.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from hwmodels.npu import array_walk
from hwmodels.npu.parameters import NpuParameters
from hwmodels.npu.pipeline import Costs, Pipeline
from hwmodels.npu.tiling import Tiling

Int64 = np.ndarray[Any, np.dtype[np.int64]]
Float64 = np.ndarray[Any, np.dtype[np.float64]]

MOST_TILES = 512
"""Tiles walked of a longer pipeline; the rate of their second half extends to the rest."""


def walk(
    parameters: NpuParameters, costs: Costs, pipeline: Pipeline, head_start: int = 0, guests: tuple[float, ...] = ()
) -> int:
    """Cycles from the start of `pipeline` to its last byte written.

    Weights are fetched from `head_start` cycles before, while another operation runs. `guests` are the transfers of the
    next operation that share the DRAM port from the start, in bytes.
    """
    group = max((load.stride for load in pipeline.loads), default=1)
    tiles = pipeline.tiles
    walked = tiles if tiles <= MOST_TILES else min(tiles, max(MOST_TILES, 4 * group))
    dram = parameters.dram.bandwidth / parameters.clock
    ends = _walk(
        _durations(parameters, pipeline, walked),
        np.array([load.bytes for load in pipeline.loads], np.float64),
        np.array([load.count for load in pipeline.loads], np.int64),
        np.array([load.stride for load in pipeline.loads], np.int64),
        np.array([load.weights for load in pipeline.loads], np.bool_),
        np.array([load.count > 2 and load.count * load.stride >= tiles for load in pipeline.loads], np.bool_),
        np.array([pipeline.read_bytes, pipeline.write_bytes, pipeline.store_bytes], np.float64),
        np.array(guests, np.float64),
        head_start,
        pipeline.start_cycles,
        pipeline.output_cycles,
        dram,
        parameters.sram.bandwidth / parameters.clock,
        costs.dram_latency,
        costs.sram_latency,
    )
    half = walked // 2
    beyond = (tiles - walked) * (ends[-1] - ends[half - 1]) / (walked - half) if tiles > walked else 0.0
    return int(ends[-1]) + round(float(beyond)) - head_start


def ahead_bytes(pipeline: Pipeline) -> tuple[float, ...]:
    """What each load of weights may bring before `pipeline` starts: two tiles, as there are buffers for."""
    return tuple(load.bytes * min(2, load.count) for load in pipeline.loads if load.weights)


def longest_head_start(parameters: NpuParameters, costs: Costs, pipeline: Pipeline) -> int:
    """Cycles before the start of `pipeline` from which on there is nothing more to fetch."""
    ahead = sum(ahead_bytes(pipeline))
    return math.ceil(ahead * parameters.clock / parameters.dram.bandwidth) + 2 * costs.dram_latency if ahead else 0


def _durations(parameters: NpuParameters, pipeline: Pipeline, walked: int) -> Int64:
    """Cycles of the compute stage for each tile."""
    tiling = pipeline.detail
    if tiling is None:
        return np.full(walked, pipeline.engine_cycles, np.int64)
    rows, columns, channels = _extents(tiling, np.arange(walked))
    shapes, which = np.unique(np.stack([rows, columns, channels], axis=1), axis=0, return_inverse=True)
    cycles = [
        array_walk.tile_cycles(parameters.array, tiling.product, int(height), int(width), int(depth))
        for height, width, depth in shapes
    ]
    return np.array(cycles, np.int64)[which.ravel()] + parameters.control.tile_cycles


def _extents(tiling: Tiling, index: Int64) -> tuple[Int64, Int64, Int64]:
    """Rows, columns and channels of the tiles, in the order they are computed in; those at an edge are smaller."""
    product = tiling.product
    within = index % (tiling.over_positions * tiling.over_channels)
    if tiling.weights_outer:
        channel, position = np.divmod(within, tiling.over_positions)
    else:
        position, channel = np.divmod(within, tiling.over_channels)
    row, column = np.divmod(position, -(-product.width // tiling.width))
    return (
        np.minimum(tiling.height, product.height - row * tiling.height),
        np.minimum(tiling.width, product.width - column * tiling.width),
        np.minimum(tiling.channels, product.channels - channel * tiling.channels),
    )


@njit(cache=True)
def _walk(
    durations: Int64, load_bytes: Float64, load_count: Int64, load_stride: Int64, weights: Any, buffered: Any,
    moved: Float64, guests: Float64, head_start: int, start: int, output_cycles: int, dram: float, sram: float,
    dram_latency: int, sram_latency: int,
) -> Int64:  # fmt: skip
    """(tiles,) the cycle in which each tile's last stage ends."""
    tiles, loads = durations.size, load_bytes.size
    read_bytes, write_bytes, store_bytes = moved
    sent, left = np.zeros(loads, np.int64), np.zeros(loads)  # transfers done of each load; bytes left of the current
    arrival = np.zeros((loads, tiles + 4), np.int64)
    arrived = np.zeros(loads, np.int64)
    guest_left = guests.copy()
    # Counters: reads sent, reads arrived, tiles computed, put out, written, stored.
    read_sent, read_there, computed, put, written, stored = 0, 0, 0, 0, 0, 0
    read_left, write_left, store_left = 0.0, 0.0, 0.0
    read_arrival = np.zeros(tiles, np.int64)
    compute_left, output_left = 0, 0
    ends = np.zeros(tiles, np.int64)
    cycle = 0
    while stored < tiles:
        # What starts in this cycle, seen from the state at its begin.
        active = 0
        for load in range(loads):
            while arrived[load] < sent[load] and arrival[load, arrived[load]] <= cycle:
                arrived[load] += 1
            needed = min(load_count[load], (tiles - 1) // load_stride[load] + 1)
            room = not buffered[load] or (sent[load] - 1) * load_stride[load] <= computed
            allowed = weights[load] or cycle >= head_start
            if left[load] <= 0 and sent[load] < needed and room and allowed:
                left[load] = load_bytes[load]
            if left[load] > 0:
                active += 1
        if cycle >= head_start:
            active += (guest_left > 0).sum()
        if store_left <= 0 and store_bytes > 0 and stored < written:
            store_left = store_bytes
        if store_left > 0:
            active += 1
        while read_there < read_sent and read_arrival[read_there] <= cycle:
            read_there += 1
        begun = cycle >= head_start + start
        free = begun and read_left <= 0 and read_bytes > 0 and read_sent < tiles and read_sent < computed + 2
        if free and _loaded(arrived, load_count, load_stride, read_sent):
            read_left = read_bytes
        if write_left <= 0 and write_bytes > 0 and written < put and written < stored + 2:
            write_left = write_bytes
        if begun and compute_left <= 0 and computed < tiles and computed < put + 2:
            ready = computed < read_there if read_bytes > 0 else _loaded(arrived, load_count, load_stride, computed)
            if ready:
                compute_left = durations[computed]
        if output_left <= 0 and output_cycles > 0 and put < computed and put < written + 2:
            output_left = output_cycles
        # One cycle of each port and unit.
        cycle += 1
        share = dram / active if active > 0 else dram
        if cycle > head_start:
            guest_left -= share
        for load in range(loads):
            if left[load] > 0:
                left[load] -= share
                if left[load] <= 1e-9:
                    left[load] = 0.0
                    if sent[load] < arrival.shape[1]:
                        arrival[load, sent[load]] = cycle + dram_latency
                    sent[load] += 1
        if store_left > 0:
            store_left -= share
            if store_left <= 1e-9:
                store_left = 0.0
                ends[stored] = cycle
                stored += 1
        both = 2.0 if read_left > 0 and write_left > 0 else 1.0
        if read_left > 0:
            read_left -= sram / both
            if read_left <= 1e-9:
                read_left = 0.0
                read_arrival[read_sent] = cycle + sram_latency
                read_sent += 1
        if write_left > 0:
            write_left -= sram / both
            if write_left <= 1e-9:
                write_left = 0.0
                written += 1
        if compute_left > 0:
            compute_left -= 1
            if compute_left == 0:
                computed += 1
        if output_left > 0:
            output_left -= 1
            if output_left == 0:
                put += 1
        # Stages that a pipeline does not have pass their tiles on at once.
        if output_cycles == 0:
            put = computed
        if write_bytes <= 0:
            written = put
        if store_bytes <= 0:
            while stored < written:
                ends[stored] = cycle
                stored += 1
    return ends


@njit(cache=True)
def _loaded(arrived: Int64, count: Int64, stride: Int64, tile: int) -> bool:
    """Whether every load that `tile` needs has arrived."""
    missing = 0
    for load in range(arrived.size):
        missing += arrived[load] < min(tile // stride[load] + 1, count[load])
    return missing == 0
