"""Steady states: whole periods of a repeating run, added at once and exactly.

The dynamic state of a run is: what is in flight and for how long still, who waits and since when, and how far each
edge's source is ahead of what its target's next firing needs. It is compared with an earlier one whenever one busy
task, the *anchor*, has advanced (Brent's scheme: the earlier state is renewed after 1, 2, 4, ... advances, so memory is
one state). When two are equal, what happened between them happens again and again until a task runs out of firings, so
all but the last such period are added by arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from codesign.engine.event import EVENTS, NEVER, NOW, OPEN, Layout, State
from codesign.engine.heap import Int64

MINIMUM_FIRINGS = 4  # a task with fewer firings left is not worth watching
ANCHOR, SEEN, ADVANCES, SAVE_AT, LENGTH, TIME = 0, 1, 2, 3, 4, 5


class Watch(NamedTuple):
    """The anchor, and the earlier state: as compared, and the counters at its time."""

    current: Int64
    saved: Int64
    started: Int64
    done: Int64
    waited: Int64
    marks: Int64  # the positions above


@njit(cache=True)
def _write_sorted(times: Int64, tasks: Int64, base: int, size: int, origin: int, out: Int64, at: int) -> int:
    """Write a heap's entries in order to `out`, times relative to `origin`: by insertion, as heaps are small."""
    begin = at
    for entry in range(base, base + size):
        time, task = times[entry] - origin, tasks[entry]
        slot = at
        while slot > begin and (out[slot - 2] > time or (out[slot - 2] == time and out[slot - 1] > task)):
            out[slot], out[slot + 1] = out[slot - 2], out[slot - 1]
            slot -= 2
        out[slot], out[slot + 1] = time, task
        at += 2
    return at


@njit(cache=True)
def _write_in_flight(p: Layout, s: State, out: Int64) -> int:
    now = s.totals[NOW]
    at = _write_sorted(s.event_time, s.event_task, 0, s.totals[EVENTS], now, out, 0)
    for pool in range(p.servers.size):
        base = p.queue_base[pool]
        out[at], out[at + 1] = -1 - s.queue_size[pool], 0
        if s.flow_size[pool] > 0:
            out[at + 1] = now - s.served_at[pool]
        at = _write_sorted(s.queue_time, s.queue_task, base, s.queue_size[pool], now, out, at + 2)
        at = _write_sorted(s.flow_key, s.flow_task, base, s.flow_size[pool], s.service[pool], out, at)
    return at


@njit(cache=True)
def _write_slacks(p: Layout, s: State, out: Int64, at: int) -> int:
    """Write how far each live edge's source is ahead; forget tasks that have ended. Barriers are left out: their
    source is open or their target may start, and neither changes while no task runs out."""
    kept = 0
    for entry in range(s.totals[OPEN]):
        task = s.open_tasks[entry]
        if s.done[task] == p.firings[task]:
            continue
        s.open_tasks[kept] = task
        kept += 1
        out[at] = task
        at += 1
        firing = s.started[task]
        for position in range(p.in_start[task], p.in_start[task + 1]):
            edge = p.in_edges[position]
            source = p.source[edge]
            if p.step[edge] == 0 or s.done[source] == p.firings[source] or firing == p.firings[task]:
                continue
            out[at] = s.done[source] - p.base[edge] - (firing // p.stride[edge]) * p.step[edge]
            out[at + 1] = firing % p.stride[edge]
            at += 2
        for position in range(p.out_start[task], p.out_start[task + 1]):
            edge = p.out_edges[position]
            if p.step[edge] != 0 and s.started[p.target[edge]] == 0:
                out[at], out[at + 1] = s.done[task] - p.base[edge], edge
                at += 2
    s.totals[OPEN] = kept
    return at


@njit(cache=True)
def _same(w: Watch, length: int) -> bool:
    return length == w.marks[LENGTH] and bool(np.all(w.current[:length] == w.saved[:length]))


@njit(cache=True)
def _save(s: State, w: Watch, length: int) -> None:
    w.marks[LENGTH] = length
    w.marks[TIME] = s.totals[NOW]
    w.saved[:length] = w.current[:length]
    for entry in range(s.totals[OPEN]):
        task = s.open_tasks[entry]
        w.started[task], w.done[task], w.waited[task] = s.started[task], s.done[task], s.waited[task]


@njit(cache=True)
def _whole_periods(p: Layout, s: State, w: Watch) -> int:
    """How often the period can repeat while every task that advances in it still has a firing left after it."""
    periods = NEVER
    for entry in range(s.totals[OPEN]):
        task = s.open_tasks[entry]
        advance = s.started[task] - w.started[task]
        if advance > 0:
            periods = min(periods, (p.firings[task] - 1 - s.started[task]) // advance)
    return 0 if periods == NEVER else max(periods, 0)


@njit(cache=True)
def _repeat(p: Layout, s: State, w: Watch, periods: int) -> None:
    shift = periods * (s.totals[NOW] - w.marks[TIME])
    for entry in range(s.totals[OPEN]):
        task = s.open_tasks[entry]
        s.started[task] += periods * (s.started[task] - w.started[task])
        s.done[task] += periods * (s.done[task] - w.done[task])
        s.waited[task] += periods * (s.waited[task] - w.waited[task])
    for pool in range(p.servers.size):
        base = p.queue_base[pool]
        s.queue_time[base : base + s.queue_size[pool]] += shift
        s.served_at[pool] += shift
        if s.flow_end[pool] != NEVER:
            s.flow_end[pool] += shift
    s.event_time[: s.totals[EVENTS]] += shift
    s.totals[NOW] += shift


@njit(cache=True)
def _choose_anchor(p: Layout, s: State, w: Watch) -> None:
    """Watch the open task with the most firings left."""
    w.marks[ANCHOR] = -1
    most = MINIMUM_FIRINGS
    for entry in range(s.totals[OPEN]):
        task = s.open_tasks[entry]
        if p.firings[task] - s.started[task] > most:
            most = p.firings[task] - s.started[task]
            w.marks[ANCHOR] = task
    if w.marks[ANCHOR] >= 0:
        w.marks[SEEN] = s.done[w.marks[ANCHOR]]
        w.marks[ADVANCES] = 0
        w.marks[SAVE_AT] = 1
        w.marks[LENGTH] = -1


@njit(cache=True)
def skip_periods(p: Layout, s: State, w: Watch) -> None:
    """Look for a steady state, and add its periods when there is one. Called when nothing more can start now."""
    anchor = w.marks[ANCHOR]
    if anchor < 0 or s.started[anchor] == p.firings[anchor]:
        _choose_anchor(p, s, w)
        return
    if s.done[anchor] == w.marks[SEEN]:
        return
    w.marks[SEEN] = s.done[anchor]
    w.marks[ADVANCES] += 1
    length = _write_slacks(p, s, w.current, _write_in_flight(p, s, w.current))
    if _same(w, length):
        periods = _whole_periods(p, s, w)
        if periods > 0:
            _repeat(p, s, w, periods)
        _choose_anchor(p, s, w)
    elif w.marks[ADVANCES] == w.marks[SAVE_AT]:
        w.marks[SAVE_AT] *= 2
        _save(s, w, length)


def new_watch(tasks: int, resources: int, edges: int, events: int) -> Watch:
    """Room for the largest state of a program of that size."""
    room = 2 * events + 2 * resources + 5 * tasks + 4 * edges + 8
    marks = np.array([-1, 0, 0, 1, -1, 0], np.int64)
    return Watch(
        np.empty(room, np.int64),
        np.empty(room, np.int64),
        np.zeros(tasks, np.int64),
        np.zeros(tasks, np.int64),
        np.zeros(tasks, np.int64),
        marks,
    )
