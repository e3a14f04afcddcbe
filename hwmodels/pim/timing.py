"""The timing rules of a channel: which command may follow which, and when. Plain data, and the state to check it.

A rule reads: after `preceding`, `following` waits `latency`, in the same bank group only or in the whole channel. The
names are JEDEC's (JESD250, GDDR6); multiply and read-result are column commands of all banks, as in SK hynix's AiM.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from hwmodels.pim.parameters import Dram

Int64 = np.ndarray[Any, np.dtype[np.int64]]

ACTIVATE, PRECHARGE, MULTIPLY, READ_RESULT, READ, WRITE, REFRESH = range(7)
LONG_AGO = -(1 << 60)
FOUR_ACTIVATES = 4
ALL = -1  # every bank group of the channel


class Rule(NamedTuple):
    """`following` waits `latency` seconds after `preceding` of the same group, or of any group."""

    preceding: int
    following: int
    same_group: bool
    latency: float


def rules(dram: Dram) -> list[Rule]:
    """Every rule but the four-activate window, which `earliest` keeps."""
    burst = dram.column_bytes / dram.pin_bandwidth
    written = dram.tCWL + burst
    table = [
        Rule(ACTIVATE, PRECHARGE, True, dram.tRAS),
        Rule(ACTIVATE, ACTIVATE, True, dram.tRAS + dram.tRP),
        Rule(ACTIVATE, ACTIVATE, False, dram.tRRD),
        Rule(PRECHARGE, ACTIVATE, True, dram.tRP),
        Rule(PRECHARGE, REFRESH, False, dram.tRP),
        Rule(REFRESH, ACTIVATE, False, dram.tRFC),
        Rule(REFRESH, REFRESH, False, dram.tRFC),
        Rule(MULTIPLY, PRECHARGE, True, dram.tRTP),
        Rule(READ, PRECHARGE, True, dram.tRTP),
        Rule(WRITE, PRECHARGE, True, written + dram.tWR),
        Rule(WRITE, READ, False, written + dram.tWTR),
        Rule(WRITE, MULTIPLY, False, written + dram.tWTR),
    ]
    table += [Rule(ACTIVATE, column, True, dram.tRCD) for column in (MULTIPLY, READ, WRITE)]
    columns = (MULTIPLY, READ_RESULT, READ, WRITE)
    table += [Rule(before, after, False, dram.tCCD) for before in columns for after in columns]
    return table


class Channel(NamedTuple):
    """Rules in picoseconds, (R, 4), and when each command was last issued to each group, (commands, groups)."""

    rules: Int64
    last: Int64
    activates: Int64  # the last four, oldest first
    window: int  # tFAW, picoseconds


def channel(dram: Dram) -> Channel:
    """A channel to which nothing was issued yet."""
    table = [(*rule[:3], round(rule.latency * 1e12)) for rule in rules(dram)]
    groups = dram.banks // dram.activation_group
    return Channel(
        np.array(table, np.int64),
        np.full((REFRESH + 1, groups), LONG_AGO, np.int64),
        np.full(FOUR_ACTIVATES, LONG_AGO, np.int64),
        round(dram.tFAW * 1e12),
    )


@njit(cache=True)
def earliest(state: Channel, command: int, group: int) -> int:
    """Picosecond from which `command` may be issued to `group` (or to ALL)."""
    time = LONG_AGO
    for row in range(state.rules.shape[0]):
        if state.rules[row, 1] != command:
            continue
        last = state.last[state.rules[row, 0]]
        if state.rules[row, 2] == 1 and group != ALL:
            time = max(time, last[group] + state.rules[row, 3])
        else:
            for other in range(last.size):
                time = max(time, last[other] + state.rules[row, 3])
    return max(time, state.activates[0] + state.window) if command == ACTIVATE else time


@njit(cache=True)
def issue(state: Channel, command: int, group: int, time: int) -> None:
    """Issue `command` at `time`, which the rules must allow."""
    assert time >= earliest(state, command, group)
    if group == ALL:
        state.last[command, :] = time
    else:
        state.last[command, group] = time
    if command == ACTIVATE:
        state.activates[:-1] = state.activates[1:]
        state.activates[-1] = time
