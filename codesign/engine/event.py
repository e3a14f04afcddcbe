"""The event loop: runs a Program in numba, exact to the tick.

The semantics are those of `codesign.program`. At each instant, in this order: firings that end are counted; tasks
whose next firing has all it needs join their resource's queue; free servers take from their queue the firing that has
waited longest (ties: the lower task index). Everything is an integer, so a run is reproducible to the tick.

Tasks, resources (pools) and edges are rows of one array each, so that what is used together lies together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from codesign.engine.compiled import inlined
from codesign.engine.heap import Int64, drop_first, push

NEVER = np.iinfo(np.int64).max

# Columns of a task's row: what does not change, then what does. Its edges inwards are rows IN_START to IN_END of the
# edges, its edges outwards are listed from OUT_START to OUT_END of `out_edge`.
RESOURCE, DURATION, AMOUNT, FIRINGS, IN_START, IN_END, OUT_START, OUT_END = range(8)
STARTED, DONE, FIRST_START, LAST_END, WAITED, QUEUED, MOVING, IS_CANDIDATE = range(8, 16)
TASK_COLUMNS = 16
# Columns of a pool's row. RATE is shared units a tick, 0 for exclusive servers; SERVICE is what each flow of a shared
# pool has been served since the start, as of the instant SERVED_AT.
SERVERS, RATE, QUEUE_BASE, FREE, QUEUE_SIZE, FLOW_SIZE, FLOW_END, SERVICE, SERVED_AT, IS_WOKEN = range(10)
POOL_COLUMNS = 10
# Columns of an edge's row, see `codesign.program`.
SOURCE, TARGET, BASE, STEP, STRIDE = range(5)
EDGE_COLUMNS = 5
# Positions in `total`.
NOW, EVENTS, CANDIDATES, WOKEN, OPEN, LOGGED, ENDED = range(7)
TOTALS = 7


class Simulation(NamedTuple):
    """A program and the state of its run.

    `queue` holds, pool after pool, (since when, task) of what waits; `flow` (service needed in all, task) of what moves
    through a shared pool; `event` (end, task) of what is in progress. `open_task` lists tasks that have started.
    """

    task: Int64  # (T, TASK_COLUMNS)
    pool: Int64  # (R, POOL_COLUMNS)
    edge: Int64  # (E, EDGE_COLUMNS), by target
    out_edge: Int64  # (E,) rows of `edge`, by source
    queue: Int64  # (T, 2)
    flow: Int64  # (T, 2)
    event: Int64  # (most events, 2)
    candidate: Int64  # (T,) tasks whose next firing may have become ready
    woken: Int64  # (R,) pools in which something may have become able to start
    shared: Int64  # rows of `pool` whose bandwidth is shared
    open_task: Int64  # (T,)
    total: Int64  # (TOTALS,)


@inlined
def ready(s: Simulation, task: int) -> bool:
    """Whether the next firing of `task` has all its edges ask for."""
    firing = s.task[task, STARTED]
    if firing >= s.task[task, FIRINGS]:
        return False
    for edge in range(s.task[task, IN_START], s.task[task, IN_END]):
        source = s.edge[edge, SOURCE]
        advance = firing if s.edge[edge, STRIDE] == 1 else firing // s.edge[edge, STRIDE]
        needed = s.edge[edge, BASE] + advance * s.edge[edge, STEP]
        if s.task[source, DONE] < min(needed, s.task[source, FIRINGS]):
            return False
    return True


@inlined
def nominate(s: Simulation, task: int) -> None:
    """Have `task` looked at again before time moves on."""
    if s.task[task, IS_CANDIDATE] == 0 and s.task[task, QUEUED] == 0:
        s.task[task, IS_CANDIDATE] = 1
        s.candidate[s.total[CANDIDATES]] = task
        s.total[CANDIDATES] += 1


@inlined
def wake(s: Simulation, pool: int) -> None:
    """Have who waits for `pool`, if any, looked at before time moves on."""
    if s.pool[pool, QUEUE_SIZE] > 0 and s.pool[pool, IS_WOKEN] == 0:
        s.pool[pool, IS_WOKEN] = 1
        s.woken[s.total[WOKEN]] = pool
        s.total[WOKEN] += 1


@inlined
def enqueue(s: Simulation, task: int) -> None:
    pool = s.task[task, RESOURCE]
    push(s.queue, s.pool[pool, QUEUE_BASE], s.pool[pool, QUEUE_SIZE], s.total[NOW], task)
    s.pool[pool, QUEUE_SIZE] += 1
    s.task[task, QUEUED] = 1
    wake(s, pool)


@inlined
def enqueue_ready(s: Simulation) -> None:
    for position in range(s.total[CANDIDATES]):
        task = s.candidate[position]
        s.task[task, IS_CANDIDATE] = 0
        if s.task[task, QUEUED] == 0 and ready(s, task):
            enqueue(s, task)
    s.total[CANDIDATES] = 0


@inlined
def begin(s: Simulation, task: int, since: int, end: int, log: Int64) -> None:
    """Start the next firing of `task`, which has waited since `since` and ends at `end`."""
    now = s.total[NOW]
    s.task[task, WAITED] += now - since
    s.task[task, QUEUED] = 0
    if s.task[task, STARTED] == 0:
        s.task[task, FIRST_START] = now
        s.open_task[s.total[OPEN]] = task
        s.total[OPEN] += 1
    if log.shape[0] > 0:
        row = s.total[LOGGED]
        log[row, 0], log[row, 1], log[row, 2], log[row, 3] = task, s.task[task, STARTED], now, end
        s.total[LOGGED] = row + 1
    s.task[task, STARTED] += 1


@inlined
def schedule_end(s: Simulation, task: int, time: int) -> None:
    push(s.event, 0, s.total[EVENTS], time, task)
    s.total[EVENTS] += 1


@inlined
def grant_servers(s: Simulation, pool: int, log: Int64) -> None:
    """Free servers of an exclusive resource take the longest waiting firings."""
    first = s.pool[pool, QUEUE_BASE]
    while s.pool[pool, FREE] > 0 and s.pool[pool, QUEUE_SIZE] > 0:
        since, task = s.queue[first, 0], s.queue[first, 1]
        drop_first(s.queue, first, s.pool[pool, QUEUE_SIZE])
        s.pool[pool, QUEUE_SIZE] -= 1
        s.pool[pool, FREE] -= 1
        end = s.total[NOW] + s.task[task, DURATION]
        begin(s, task, since, end, log)
        schedule_end(s, task, end)
        if ready(s, task):
            enqueue(s, task)


@inlined
def serve_flows(s: Simulation, pool: int) -> None:
    """Bring a shared resource's service up to now: every flow has had an equal part."""
    if s.pool[pool, FLOW_SIZE] > 0:
        served = s.pool[pool, RATE] * (s.total[NOW] - s.pool[pool, SERVED_AT])
        s.pool[pool, SERVICE] += served // s.pool[pool, FLOW_SIZE]
    s.pool[pool, SERVED_AT] = s.total[NOW]


@inlined
def predict_flow_end(s: Simulation, pool: int) -> None:
    """Set when the flow that is nearest its end gets there, if no other joins or leaves."""
    if s.pool[pool, FLOW_SIZE] == 0:
        s.pool[pool, FLOW_END] = NEVER
        return
    rate = s.pool[pool, RATE]
    needed = max(s.flow[s.pool[pool, QUEUE_BASE], 0] - s.pool[pool, SERVICE], 0) * s.pool[pool, FLOW_SIZE]
    s.pool[pool, FLOW_END] = s.total[NOW] + (needed + rate - 1) // rate


@inlined
def admit_flows(s: Simulation, pool: int, log: Int64) -> None:
    """Every waiting task of a shared resource that moves nothing yet starts its transfer."""
    first = s.pool[pool, QUEUE_BASE]
    waiting = s.pool[pool, QUEUE_SIZE]
    s.pool[pool, QUEUE_SIZE] = 0
    joined = False
    for entry in range(first, first + waiting):
        since, task = s.queue[entry, 0], s.queue[entry, 1]
        if s.task[task, MOVING] == 1:  # stays; entries only move towards the front, so none is overwritten unread
            push(s.queue, first, s.pool[pool, QUEUE_SIZE], since, task)
            s.pool[pool, QUEUE_SIZE] += 1
            continue
        if not joined:
            joined = True
            serve_flows(s, pool)
        begin(s, task, since, -1, log)
        s.task[task, MOVING] = 1
        push(s.flow, first, s.pool[pool, FLOW_SIZE], s.pool[pool, SERVICE] + s.task[task, AMOUNT], task)
        s.pool[pool, FLOW_SIZE] += 1
        nominate(s, task)
    if joined:
        predict_flow_end(s, pool)


@inlined
def end_flows(s: Simulation, pool: int) -> None:
    """Flows that have had their amount leave; their firing ends after its latency."""
    first = s.pool[pool, QUEUE_BASE]
    serve_flows(s, pool)
    while s.pool[pool, FLOW_SIZE] > 0 and s.flow[first, 0] <= s.pool[pool, SERVICE]:
        task = s.flow[first, 1]
        drop_first(s.flow, first, s.pool[pool, FLOW_SIZE])
        s.pool[pool, FLOW_SIZE] -= 1
        s.task[task, MOVING] = 0
        schedule_end(s, task, s.total[NOW] + s.task[task, DURATION])
    predict_flow_end(s, pool)
    wake(s, pool)


@inlined
def start_all(s: Simulation, log: Int64) -> None:
    """Give what is free to who waits, until nothing more can start now."""
    while True:
        enqueue_ready(s)
        for position in range(s.total[WOKEN]):
            pool = s.woken[position]
            if s.pool[pool, RATE] == 0:
                grant_servers(s, pool, log)
            else:
                admit_flows(s, pool, log)
            s.pool[pool, IS_WOKEN] = 0
        s.total[WOKEN] = 0
        if s.total[CANDIDATES] == 0:
            return


@inlined
def next_instant(s: Simulation) -> int:
    """When something ends next; NEVER when nothing is in progress."""
    instant = s.event[0, 0] if s.total[EVENTS] > 0 else NEVER
    for pool in s.shared:
        instant = min(instant, s.pool[pool, FLOW_END])
    return instant


@inlined
def end_firings(s: Simulation) -> None:
    """Count the firings that end now, free their servers, and nominate who waited for them."""
    now = s.total[NOW]
    for pool in s.shared:
        if s.pool[pool, FLOW_END] == now:
            end_flows(s, pool)
    while s.total[EVENTS] > 0 and s.event[0, 0] == now:
        task = s.event[0, 1]
        drop_first(s.event, 0, s.total[EVENTS])
        s.total[EVENTS] -= 1
        pool = s.task[task, RESOURCE]
        if s.pool[pool, RATE] == 0:
            s.pool[pool, FREE] += 1
            wake(s, pool)
        s.task[task, DONE] += 1
        s.task[task, LAST_END] = now
        s.total[ENDED] += 1
        for position in range(s.task[task, OUT_START], s.task[task, OUT_END]):
            nominate(s, s.edge[s.out_edge[position], TARGET])
