"""Running a Program: from its arrays to a Timeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from codesign.engine.event import LOGGED, NEVER, NOW, Layout, State, end_firings, next_instant, start_all
from codesign.engine.heap import Int64
from codesign.engine.steady import Watch, new_watch, skip_periods
from codesign.errors import CodesignError
from codesign.program import SHARED_UNITS_PER_BYTE, Program


@dataclass(frozen=True)
class Timeline:
    """What a run says of each task, in ticks of the program: first start, last end, and how long its firings, ready
    to go, waited for their resource. `simulated` firings were run; the rest of `firings` were whole periods added."""

    program: Program
    end: int
    first_start: Int64
    last_end: Int64
    waited: Int64
    firings: int
    simulated: int

    @property
    def end_s(self) -> float:
        """Seconds from the start of the first task to the end of the last."""
        return self.end * self.program.tick_s


@njit(cache=True)
def _run(p: Layout, s: State, w: Watch, skip: bool, log: Int64) -> int:
    simulated = 0
    while True:
        start_all(p, s, log)
        if skip:
            skip_periods(p, s, w)
        instant = next_instant(p, s)
        if instant == NEVER:
            return simulated
        s.totals[NOW] = instant
        simulated += end_firings(p, s)


def run(program: Program, *, skip: bool = True) -> Timeline:
    """Run `program` to its end. `skip=False` simulates every firing: the same result, slower.

    Raises CodesignError when tasks wait for each other for ever (a mapper's mistake).
    """
    return _execute(program, skip, np.empty((0, 4), np.int64))


def run_logged(program: Program) -> tuple[Timeline, Int64]:
    """Run without skipping; also return (task, firing, start, end) of every firing, shape (F, 4), by task and firing.

    The end is when the firing releases its dependents; for a transfer it is not logged (-1).
    """
    log = np.empty((int(program.count.sum()), 4), np.int64)
    timeline = _execute(program, False, log)
    return timeline, log[np.lexsort((log[:, 1], log[:, 0]))]


def _execute(program: Program, skip: bool, log: Int64) -> Timeline:
    if program.count.size == 0:
        empty = np.zeros(0, np.int64)
        return Timeline(program, 0, empty, empty, empty, 0, 0)
    layout = _layout(program)
    events = _most_events(program, layout)
    state = _initial_state(layout, events)
    watch = new_watch(program.count.size, len(program.resources), program.edge_source.size, events)
    simulated = int(_run(layout, state, watch, skip, log))
    if (state.done < program.count).any():
        stuck = int(np.flatnonzero(state.done < program.count)[0])
        raise CodesignError(
            f"the program cannot end: task {stuck} ('{program.labels[stuck]}') waits after {state.done[stuck]} of "
            f"{program.count[stuck]} firings"
        )
    assert log.shape[0] in (0, int(state.totals[LOGGED]))
    return Timeline(
        program,
        int(state.last_end.max()),
        state.first_start,
        state.last_end,
        state.waited,
        int(program.count.sum()),
        simulated,
    )


def shared_rate(bytes_per_tick: float | None) -> int:
    """Shared units a tick of a resource's bandwidth, 0 for exclusive servers."""
    return 0 if bytes_per_tick is None else max(1, round(bytes_per_tick * SHARED_UNITS_PER_BYTE))


def _layout(program: Program) -> Layout:
    tasks = program.count.size
    out_start, out_edges = _grouped(program.edge_source, tasks)
    in_start, in_edges = _grouped(program.edge_target, tasks)
    queue_base, _ = _grouped(program.resource, len(program.resources))
    return Layout(
        servers=np.array([resource.servers for resource in program.resources], np.int64),
        rate=np.array([shared_rate(resource.bytes_per_tick) for resource in program.resources], np.int64),
        resource=program.resource,
        duration=program.duration,
        amount=program.amount,
        firings=program.count,
        source=program.edge_source,
        target=program.edge_target,
        base=program.edge_base,
        step=program.edge_step,
        stride=program.edge_stride,
        out_start=out_start,
        out_edges=out_edges,
        in_start=in_start,
        in_edges=in_edges,
        queue_base=queue_base,
    )


def _grouped(keys: np.ndarray[Any, Any], groups: int) -> tuple[Int64, Int64]:
    """Positions of `keys` grouped by value: where each group starts (groups + 1 entries), and the positions."""
    start = np.zeros(groups + 1, np.int64)
    np.cumsum(np.bincount(keys, minlength=groups), out=start[1:])
    return start, np.argsort(keys, kind="stable").astype(np.int64)


def _most_events(program: Program, layout: Layout) -> int:
    """The most firings that can be in flight at once: one a server, and those within a transfer's latency."""
    rate = layout.rate[program.resource]
    shared = rate > 0
    in_latency = program.duration * rate // np.maximum(program.amount, 1) + 2
    pipelined = np.minimum(program.count, in_latency)[shared].sum()
    exclusive = layout.servers[layout.rate == 0].sum()
    return int(pipelined + exclusive + 1)


def _initial_state(p: Layout, events: int) -> State:
    tasks, resources = p.firings.size, p.servers.size

    def zeros(size: int) -> Int64:
        return np.zeros(size, np.int64)

    totals = zeros(5)
    totals[2] = tasks  # every task is looked at first
    return State(
        started=zeros(tasks),
        done=zeros(tasks),
        first_start=np.full(tasks, -1, np.int64),
        last_end=zeros(tasks),
        waited=zeros(tasks),
        queued=zeros(tasks),
        moving=zeros(tasks),
        free=p.servers.copy(),
        queue_time=zeros(tasks),
        queue_task=zeros(tasks),
        queue_size=zeros(resources),
        flow_key=zeros(tasks),
        flow_task=zeros(tasks),
        flow_size=zeros(resources),
        flow_end=np.full(resources, NEVER, np.int64),
        service=zeros(resources),
        served_at=zeros(resources),
        event_time=zeros(events),
        event_task=zeros(events),
        candidates=np.arange(tasks, dtype=np.int64),
        is_candidate=np.ones(tasks, np.int64),
        open_tasks=zeros(tasks),
        totals=totals,
    )
