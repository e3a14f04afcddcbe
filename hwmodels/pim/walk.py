"""A command-level walk of one channel through a product: an independent account of what the event program sums up.

Every activate, precharge, multiply, result read and refresh is issued at the earliest clock the timing rules allow;
pins carry vectors and results in bursts; refresh comes when it is due, wherever the product is then.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from hwmodels.pim.parameters import PimParameters
from hwmodels.pim.product import Product
from hwmodels.pim.timing import (
    ACTIVATE,
    ALL,
    MULTIPLY,
    PRECHARGE,
    READ_RESULT,
    REFRESH,
    Channel,
    Int64,
    channel,
    earliest,
    issue,
)

REFRESHES_SEEN = 32
"""An operation shorter than this many refresh intervals is walked repeatedly, so that refresh has its share."""
MOST_COMMANDS = 1_000_000
"""Column commands walked at most; passes beyond are as long as the mean of the second half of those walked."""

# Positions in the vector of what a product asks for, and in that of the walk's clocks
PASSES, ROUNDS, COMMANDS, A_ROW, PASSES_IN_ROWS, LOAD, RESULT, ADD, SLOTS, LATENCY, INTERVAL, STAYS_OPEN = range(12)
NOW, PINS_FREE, ADDERS_FREE, REFRESH_DUE, IS_OPEN, DONE = range(6)


def walk_ticks(parameters: PimParameters, products: list[Product]) -> int:
    """Picoseconds of one execution of `products`, one after the other, in a stream of equal executions."""
    state, clocks = channel(parameters.dram), np.zeros(6, np.int64)
    clocks[REFRESH_DUE] = round(parameters.dram.tREFI * 1e12)
    demands = [_demand(parameters, product) for product in products]
    executions, skipped = 0, 0
    while executions == 0 or clocks[DONE] < REFRESHES_SEEN * parameters.dram.tREFI * 1e12:
        for demand in demands:
            skipped += _walk_part(state, clocks, demand)
        executions += 1
    return int(clocks[DONE] + skipped) // executions


def _demand(parameters: PimParameters, product: Product) -> Int64:
    dram, asic = parameters.dram, parameters.asic

    def picoseconds(seconds: float) -> int:
        return round(seconds * 1e12)

    return np.array(
        [
            product.passes,
            product.rounds,
            product.commands,
            product.commands_a_row,
            product.passes // product.openings if product.stays_open else product.tiles,
            picoseconds(product.vector_bytes / dram.pin_bandwidth),
            picoseconds(product.result_bytes / product.rounds / dram.pin_bandwidth),
            picoseconds(product.partial_sums / product.rounds / (asic.adders * asic.clock)),
            parameters.mac.buffer_slots,
            picoseconds(dram.tCL),
            picoseconds(dram.tREFI),
            product.stays_open,
        ],
        np.int64,
    )


def _walk_part(state: Channel, clocks: Int64, demand: Int64) -> int:
    """Walk as many passes as MOST_COMMANDS allows; return the picoseconds that the rest would have taken."""
    passes = int(demand[PASSES])
    walked = min(passes, max(4, MOST_COMMANDS // int(demand[ROUNDS] * (demand[COMMANDS] + 1))))
    ends = _walk(state, clocks, demand, walked)
    if walked == passes:
        return 0
    half = walked // 2
    return round((passes - walked) * (ends[walked - 1] - ends[half - 1]) / (walked - half))


@njit(cache=True)
def _open_row(state: Channel, clocks: Int64) -> None:
    """Close what is open and activate every group, each as early as it may."""
    for group in range(state.last.shape[1]):
        if clocks[IS_OPEN] == 1:
            issue(state, PRECHARGE, group, max(clocks[NOW], earliest(state, PRECHARGE, group)))
    for group in range(state.last.shape[1]):
        issue(state, ACTIVATE, group, max(clocks[NOW], earliest(state, ACTIVATE, group)))
    clocks[IS_OPEN] = 1


@njit(cache=True)
def _refresh(state: Channel, clocks: Int64, interval: int) -> None:
    """Close all rows, refresh, and leave the channel closed."""
    if clocks[IS_OPEN] == 1:
        issue(state, PRECHARGE, ALL, max(clocks[NOW], earliest(state, PRECHARGE, ALL)))
    time = max(clocks[NOW], earliest(state, REFRESH, ALL))
    issue(state, REFRESH, ALL, time)
    clocks[IS_OPEN] = 0
    clocks[NOW] = time
    clocks[REFRESH_DUE] += interval


@njit(cache=True)
def _column(state: Channel, clocks: Int64, command: int, not_before: int) -> None:
    """Issue a column command to all banks."""
    time = max(clocks[NOW], earliest(state, command, ALL), not_before)
    issue(state, command, ALL, time)
    clocks[NOW] = time


@njit(cache=True)
def _walk(state: Channel, clocks: Int64, demand: Int64, passes: int) -> Int64:
    """Walk `passes` passes from the end of what was before; return when each pass's results were there."""
    begin = clocks[DONE]
    clocks[NOW] = max(clocks[NOW], begin)
    clocks[PINS_FREE] = max(clocks[PINS_FREE], begin)
    slots = demand[SLOTS]
    used = np.full(slots, begin, np.int64)  # when each buffer slot's last multiply was issued
    ends = np.zeros(passes, np.int64)
    fetched = 0  # passes whose vector is in the buffer, or on its way
    arrival = np.zeros(slots, np.int64)
    in_row = demand[A_ROW]  # commands that the open row has served
    for current in range(passes):
        # Vectors enter as soon as a slot is free: the pins serve them in turn with results.
        while fetched < passes and fetched < current + slots:
            clocks[PINS_FREE] = max(clocks[PINS_FREE], used[fetched % slots]) + demand[LOAD]
            arrival[fetched % slots] = clocks[PINS_FREE]
            fetched += 1
        if current % demand[PASSES_IN_ROWS] == 0:  # back to the first row, or on to the next matrix
            in_row = demand[A_ROW]
        elif demand[STAYS_OPEN] == 1:
            in_row = 0
        for _turn in range(demand[ROUNDS]):
            for _command in range(demand[COMMANDS]):
                refreshed = clocks[NOW] >= clocks[REFRESH_DUE]
                while clocks[NOW] >= clocks[REFRESH_DUE]:
                    _refresh(state, clocks, demand[INTERVAL])
                if in_row == demand[A_ROW] or refreshed:
                    _open_row(state, clocks)
                    in_row %= demand[A_ROW]
                _column(state, clocks, MULTIPLY, arrival[current % slots])
                in_row += 1
            _column(state, clocks, READ_RESULT, clocks[PINS_FREE] - demand[LATENCY])
            clocks[PINS_FREE] = max(clocks[PINS_FREE], clocks[NOW]) + demand[RESULT]
            clocks[ADDERS_FREE] = max(clocks[ADDERS_FREE], clocks[PINS_FREE] + demand[LATENCY]) + demand[ADD]
        used[current % slots] = clocks[NOW]
        ends[current] = clocks[ADDERS_FREE]
    clocks[DONE] = ends[passes - 1]
    return ends
