"""The event loop: runs a Program in numba, exact to the tick.

The semantics are those of `codesign.program`. At each instant, in this order: firings that end are counted; tasks
whose next firing has all it needs join their resource's queue; free servers take from their queue the firing that has
waited longest (ties: the lower task index). Everything is an integer, so a run is reproducible to the tick.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from codesign.engine.heap import Int64, drop_first, push

NEVER = np.iinfo(np.int64).max


class Layout(NamedTuple):
    """What does not change in a run: the program's arrays, its edges grouped by target and by source, and where each
    resource's queue starts. `rate` is shared units a tick, 0 for a resource of exclusive servers."""

    servers: Int64
    rate: Int64
    resource: Int64
    duration: Int64
    amount: Int64
    firings: Int64
    source: Int64
    target: Int64
    base: Int64
    step: Int64
    stride: Int64
    out_start: Int64
    out_edges: Int64
    in_start: Int64
    in_edges: Int64
    queue_base: Int64


class State(NamedTuple):
    """What a run changes. Queues hold (since when, task); flows hold (service needed in all, task); events hold (end,
    task). `service` is what each flow of a shared resource has been served since the start."""

    started: Int64
    done: Int64
    first_start: Int64
    last_end: Int64
    waited: Int64
    queued: Int64
    moving: Int64
    free: Int64
    queue_time: Int64
    queue_task: Int64
    queue_size: Int64
    flow_key: Int64
    flow_task: Int64
    flow_size: Int64
    flow_end: Int64
    service: Int64
    served_at: Int64
    event_time: Int64
    event_task: Int64
    candidates: Int64
    is_candidate: Int64
    open_tasks: Int64
    totals: Int64  # see the positions below


NOW, EVENTS, CANDIDATES, OPEN, LOGGED = 0, 1, 2, 3, 4


@njit(cache=True)
def ready(p: Layout, s: State, task: int) -> bool:
    """Whether the next firing of `task` has all its edges ask for."""
    firing = s.started[task]
    if firing >= p.firings[task]:
        return False
    for position in range(p.in_start[task], p.in_start[task + 1]):
        edge = p.in_edges[position]
        source = p.source[edge]
        needed = p.base[edge] + (firing // p.stride[edge]) * p.step[edge]
        if s.done[source] < min(needed, p.firings[source]):
            return False
    return True


@njit(cache=True)
def nominate(s: State, task: int) -> None:
    """Have `task` looked at again before time moves on."""
    if s.is_candidate[task] == 0 and s.queued[task] == 0:
        s.is_candidate[task] = 1
        s.candidates[s.totals[CANDIDATES]] = task
        s.totals[CANDIDATES] += 1


@njit(cache=True)
def enqueue(p: Layout, s: State, task: int) -> None:
    pool = p.resource[task]
    push(s.queue_time, s.queue_task, p.queue_base[pool], s.queue_size[pool], s.totals[NOW], task)
    s.queue_size[pool] += 1
    s.queued[task] = 1


@njit(cache=True)
def enqueue_ready(p: Layout, s: State) -> None:
    for position in range(s.totals[CANDIDATES]):
        task = s.candidates[position]
        s.is_candidate[task] = 0
        if s.queued[task] == 0 and ready(p, s, task):
            enqueue(p, s, task)
    s.totals[CANDIDATES] = 0


@njit(cache=True)
def begin(s: State, task: int, since: int, end: int, log: Int64) -> None:
    """Start the next firing of `task`, which has waited since `since` and ends at `end`."""
    now = s.totals[NOW]
    s.waited[task] += now - since
    s.queued[task] = 0
    if s.started[task] == 0:
        s.first_start[task] = now
        s.open_tasks[s.totals[OPEN]] = task
        s.totals[OPEN] += 1
    if log.shape[0] > 0:
        row = s.totals[LOGGED]
        log[row, 0], log[row, 1], log[row, 2], log[row, 3] = task, s.started[task], now, end
        s.totals[LOGGED] = row + 1
    s.started[task] += 1


@njit(cache=True)
def schedule_end(s: State, task: int, time: int) -> None:
    push(s.event_time, s.event_task, 0, s.totals[EVENTS], time, task)
    s.totals[EVENTS] += 1


@njit(cache=True)
def grant_servers(p: Layout, s: State, pool: int, log: Int64) -> None:
    """Free servers of an exclusive resource take the longest waiting firings."""
    first = p.queue_base[pool]
    while s.free[pool] > 0 and s.queue_size[pool] > 0:
        task, since = s.queue_task[first], s.queue_time[first]
        drop_first(s.queue_time, s.queue_task, first, s.queue_size[pool])
        s.queue_size[pool] -= 1
        s.free[pool] -= 1
        end = s.totals[NOW] + p.duration[task]
        begin(s, task, since, end, log)
        schedule_end(s, task, end)
        if ready(p, s, task):
            enqueue(p, s, task)


@njit(cache=True)
def serve_flows(p: Layout, s: State, pool: int) -> None:
    """Bring a shared resource's service up to now: every flow has had an equal part."""
    if s.flow_size[pool] > 0:
        s.service[pool] += (p.rate[pool] * (s.totals[NOW] - s.served_at[pool])) // s.flow_size[pool]
    s.served_at[pool] = s.totals[NOW]


@njit(cache=True)
def predict_flow_end(p: Layout, s: State, pool: int) -> None:
    """Set when the flow that is nearest its end gets there, if no other joins or leaves."""
    if s.flow_size[pool] == 0:
        s.flow_end[pool] = NEVER
        return
    needed = max(s.flow_key[p.queue_base[pool]] - s.service[pool], 0) * s.flow_size[pool]
    s.flow_end[pool] = s.totals[NOW] + (needed + p.rate[pool] - 1) // p.rate[pool]


@njit(cache=True)
def admit_flows(p: Layout, s: State, pool: int, log: Int64) -> None:
    """Every waiting task of a shared resource that moves nothing yet starts its transfer."""
    first = p.queue_base[pool]
    waiting = s.queue_size[pool]
    s.queue_size[pool] = 0
    joined = False
    for entry in range(first, first + waiting):
        since, task = s.queue_time[entry], s.queue_task[entry]
        if s.moving[task] == 1:  # stays; entries only move towards the front, so none is overwritten unread
            push(s.queue_time, s.queue_task, first, s.queue_size[pool], since, task)
            s.queue_size[pool] += 1
            continue
        if not joined:
            joined = True
            serve_flows(p, s, pool)
        begin(s, task, since, -1, log)
        s.moving[task] = 1
        push(s.flow_key, s.flow_task, first, s.flow_size[pool], s.service[pool] + p.amount[task], task)
        s.flow_size[pool] += 1
        nominate(s, task)
    if joined:
        predict_flow_end(p, s, pool)


@njit(cache=True)
def end_flows(p: Layout, s: State, pool: int) -> None:
    """Flows that have had their amount leave; their firing ends after its latency."""
    first = p.queue_base[pool]
    serve_flows(p, s, pool)
    while s.flow_size[pool] > 0 and s.flow_key[first] <= s.service[pool]:
        task = s.flow_task[first]
        drop_first(s.flow_key, s.flow_task, first, s.flow_size[pool])
        s.flow_size[pool] -= 1
        s.moving[task] = 0
        schedule_end(s, task, s.totals[NOW] + p.duration[task])
    predict_flow_end(p, s, pool)


@njit(cache=True)
def start_all(p: Layout, s: State, log: Int64) -> None:
    """Give what is free to who waits, until nothing more can start now."""
    while True:
        enqueue_ready(p, s)
        for pool in range(p.servers.size):
            if s.queue_size[pool] > 0:
                if p.rate[pool] == 0:
                    grant_servers(p, s, pool, log)
                else:
                    admit_flows(p, s, pool, log)
        if s.totals[CANDIDATES] == 0:
            return


@njit(cache=True)
def next_instant(p: Layout, s: State) -> int:
    """When something ends next; NEVER when nothing is in progress."""
    instant = s.event_time[0] if s.totals[EVENTS] > 0 else NEVER
    for pool in range(p.servers.size):
        instant = min(instant, s.flow_end[pool])
    return instant


@njit(cache=True)
def end_firings(p: Layout, s: State) -> int:
    """Count the firings that end now, free their servers, and nominate who waited for them. Returns how many."""
    now = s.totals[NOW]
    for pool in range(p.servers.size):
        if s.flow_end[pool] == now:
            end_flows(p, s, pool)
    ended = 0
    while s.totals[EVENTS] > 0 and s.event_time[0] == now:
        task = s.event_task[0]
        drop_first(s.event_time, s.event_task, 0, s.totals[EVENTS])
        s.totals[EVENTS] -= 1
        if p.rate[p.resource[task]] == 0:
            s.free[p.resource[task]] += 1
        s.done[task] += 1
        s.last_end[task] = now
        ended += 1
        for position in range(p.out_start[task], p.out_start[task + 1]):
            nominate(s, p.target[p.out_edges[position]])
    return ended
