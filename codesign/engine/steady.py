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

from codesign.engine.compiled import compiled, inlined
from codesign.engine.event import (
    BASE,
    DONE,
    ENDED,
    EVENTS,
    FIRINGS,
    FLOW_END,
    FLOW_SIZE,
    IN_END,
    IN_START,
    NEVER,
    NOW,
    OPEN,
    OUT_END,
    OUT_START,
    QUEUE_BASE,
    QUEUE_SIZE,
    SERVED_AT,
    SERVICE,
    SOURCE,
    STARTED,
    STEP,
    STRIDE,
    TARGET,
    WAITED,
    Simulation,
)
from codesign.engine.heap import Int64

MINIMUM_FIRINGS = 4  # a task with fewer firings left is not worth watching
PATIENCE = 1 << 14  # advances of an anchor after which a run is taken not to repeat
ANCHOR, SEEN, ADVANCES, SAVE_AT, LENGTH, TIME, LOOK_AT = range(7)


class Watch(NamedTuple):
    """The anchor, and the earlier state: as compared, and the counters at its time."""

    current: Int64
    saved: Int64
    counters: Int64  # (T, 3) firings started, done, and time waited
    mark: Int64  # the positions above


@compiled
def _write_sorted(heap: Int64, base: int, size: int, origin: int, out: Int64, at: int) -> int:
    """Write a heap's entries in order to `out`, times relative to `origin`: by insertion, as heaps are small."""
    begin = at
    for entry in range(base, base + size):
        time, task = heap[entry, 0] - origin, heap[entry, 1]
        slot = at
        while slot > begin and (out[slot - 2] > time or (out[slot - 2] == time and out[slot - 1] > task)):
            out[slot], out[slot + 1] = out[slot - 2], out[slot - 1]
            slot -= 2
        out[slot], out[slot + 1] = time, task
        at += 2
    return at


@compiled
def _write_in_flight(s: Simulation, out: Int64) -> int:
    now = s.total[NOW]
    at = _write_sorted(s.event, 0, s.total[EVENTS], now, out, 0)
    for pool in range(s.pool.shape[0]):
        base, waiting, moving = s.pool[pool, QUEUE_BASE], s.pool[pool, QUEUE_SIZE], s.pool[pool, FLOW_SIZE]
        out[at], out[at + 1] = -1 - waiting, 0
        if moving > 0:
            out[at + 1] = now - s.pool[pool, SERVED_AT]
        at = _write_sorted(s.queue, base, waiting, now, out, at + 2)
        at = _write_sorted(s.flow, base, moving, s.pool[pool, SERVICE], out, at)
    return at


@compiled
def _forget_ended(s: Simulation) -> None:
    """Keep in the list of open tasks only those that have firings to come or in flight."""
    kept = 0
    for entry in range(s.total[OPEN]):
        task = s.open_task[entry]
        if s.task[task, DONE] < s.task[task, FIRINGS]:
            s.open_task[kept] = task
            kept += 1
    s.total[OPEN] = kept


@compiled
def _write_slacks(s: Simulation, out: Int64, at: int) -> int:
    """Write how far each live edge's source is ahead. Barriers are left out: their source is open or their target may
    start, and neither changes while no task runs out."""
    for entry in range(s.total[OPEN]):
        task = s.open_task[entry]
        out[at] = task
        at += 1
        firing = s.task[task, STARTED]
        for edge in range(s.task[task, IN_START], s.task[task, IN_END]):
            source = s.edge[edge, SOURCE]
            ended = s.task[source, DONE] == s.task[source, FIRINGS]
            if s.edge[edge, STEP] == 0 or ended or firing == s.task[task, FIRINGS]:
                continue
            needed = s.edge[edge, BASE] + (firing // s.edge[edge, STRIDE]) * s.edge[edge, STEP]
            out[at] = s.task[source, DONE] - needed
            out[at + 1] = firing % s.edge[edge, STRIDE]
            at += 2
        for position in range(s.task[task, OUT_START], s.task[task, OUT_END]):
            edge = s.out_edge[position]
            if s.edge[edge, STEP] != 0 and s.task[s.edge[edge, TARGET], STARTED] == 0:
                out[at], out[at + 1] = s.task[task, DONE] - s.edge[edge, BASE], edge
                at += 2
    return at


@compiled
def _same(w: Watch, length: int) -> bool:
    if length != w.mark[LENGTH]:
        return False
    same = 0
    while same < length and w.current[same] == w.saved[same]:
        same += 1
    return same == length


@compiled
def _save(s: Simulation, w: Watch, length: int) -> None:
    w.mark[LENGTH] = length
    w.mark[TIME] = s.total[NOW]
    for position in range(length):
        w.saved[position] = w.current[position]
    for entry in range(s.total[OPEN]):
        task = s.open_task[entry]
        w.counters[task, 0] = s.task[task, STARTED]
        w.counters[task, 1] = s.task[task, DONE]
        w.counters[task, 2] = s.task[task, WAITED]


@compiled
def _whole_periods(s: Simulation, w: Watch) -> int:
    """How often the period can repeat while every task that advances in it still has a firing left after it."""
    periods = NEVER
    for entry in range(s.total[OPEN]):
        task = s.open_task[entry]
        advance = s.task[task, STARTED] - w.counters[task, 0]
        if advance > 0:
            periods = min(periods, (s.task[task, FIRINGS] - 1 - s.task[task, STARTED]) // advance)
    return 0 if periods == NEVER else max(periods, 0)


@compiled
def _repeat(s: Simulation, w: Watch, periods: int) -> None:
    shift = periods * (s.total[NOW] - w.mark[TIME])
    for entry in range(s.total[OPEN]):
        task = s.open_task[entry]
        s.task[task, STARTED] += periods * (s.task[task, STARTED] - w.counters[task, 0])
        s.task[task, DONE] += periods * (s.task[task, DONE] - w.counters[task, 1])
        s.task[task, WAITED] += periods * (s.task[task, WAITED] - w.counters[task, 2])
    for pool in range(s.pool.shape[0]):
        base = s.pool[pool, QUEUE_BASE]
        for waiting in range(base, base + s.pool[pool, QUEUE_SIZE]):
            s.queue[waiting, 0] += shift
        s.pool[pool, SERVED_AT] += shift
        if s.pool[pool, FLOW_END] != NEVER:
            s.pool[pool, FLOW_END] += shift
    for in_flight in range(s.total[EVENTS]):
        s.event[in_flight, 0] += shift
    s.total[NOW] += shift


@compiled
def _choose_anchor(s: Simulation, w: Watch) -> None:
    """Watch the open task with the most firings left. With none, look again only after as many firings as there are
    open tasks, so that looking never costs more than running."""
    _forget_ended(s)
    w.mark[ANCHOR] = -1
    w.mark[LOOK_AT] = s.total[ENDED] + s.total[OPEN]
    most = MINIMUM_FIRINGS
    for entry in range(s.total[OPEN]):
        task = s.open_task[entry]
        left = s.task[task, FIRINGS] - s.task[task, STARTED]
        if left > most:
            most = left
            w.mark[ANCHOR] = task
    if w.mark[ANCHOR] >= 0:
        w.mark[SEEN] = s.task[w.mark[ANCHOR], DONE]
        w.mark[ADVANCES] = 0
        w.mark[SAVE_AT] = 1
        w.mark[LENGTH] = -1


@compiled
def _compare(s: Simulation, w: Watch) -> None:
    """The anchor has advanced: add whole periods when the state is one seen before, else remember it now and then."""
    _forget_ended(s)
    length = _write_slacks(s, w.current, _write_in_flight(s, w.current))
    if _same(w, length):
        periods = _whole_periods(s, w)
        if periods > 0:
            _repeat(s, w, periods)
        _choose_anchor(s, w)
    elif w.mark[ADVANCES] == w.mark[SAVE_AT]:
        w.mark[SAVE_AT] *= 2
        _save(s, w, length)


@inlined
def skip_periods(s: Simulation, w: Watch) -> None:
    """Look for a steady state, and add its periods when there is one. Called when nothing more can start now."""
    anchor = w.mark[ANCHOR]
    if anchor < 0 or s.task[anchor, STARTED] == s.task[anchor, FIRINGS]:
        if s.total[ENDED] >= w.mark[LOOK_AT]:
            _choose_anchor(s, w)
        return
    if s.task[anchor, DONE] != w.mark[SEEN] and w.mark[ADVANCES] < PATIENCE:
        w.mark[SEEN] = s.task[anchor, DONE]
        w.mark[ADVANCES] += 1
        _compare(s, w)


def new_watch(tasks: int, resources: int, edges: int, events: int) -> Watch:
    """Room for the largest state of a program of that size."""
    room = 2 * events + 2 * resources + 5 * tasks + 4 * edges + 8
    mark = np.array([-1, 0, 0, 1, -1, 0, 0], np.int64)
    return Watch(np.empty(room, np.int64), np.empty(room, np.int64), np.zeros((tasks, 3), np.int64), mark)
