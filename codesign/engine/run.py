"""Running a Program: from its arrays to a Timeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.engine.compiled import compiled
from codesign.engine.event import (
    AMOUNT,
    CANDIDATES,
    DONE,
    DURATION,
    EDGE_COLUMNS,
    ENDED,
    FIRINGS,
    FIRST_START,
    FLOW_END,
    FREE,
    IN_END,
    IN_START,
    IS_CANDIDATE,
    LAST_END,
    LOGGED,
    NEVER,
    NOW,
    OUT_END,
    OUT_START,
    POOL_COLUMNS,
    QUEUE_BASE,
    RATE,
    RESOURCE,
    SERVERS,
    SOURCE,
    TASK_COLUMNS,
    TOTALS,
    WAITED,
    Simulation,
    end_firings,
    next_instant,
    start_all,
)
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


@compiled
def _run(s: Simulation, w: Watch, skip: bool, log: Int64) -> None:
    while True:
        start_all(s, log)
        if skip:
            skip_periods(s, w)
        instant = next_instant(s)
        if instant == NEVER:
            return
        s.total[NOW] = instant
        end_firings(s)


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
    simulation = _begin(program)
    watch = new_watch(program.count.size, len(program.resources), program.edge_source.size, simulation.event.shape[0])
    _run(simulation, watch, skip, log)
    task = simulation.task
    if (task[:, DONE] < program.count).any():
        stuck = int(np.flatnonzero(task[:, DONE] < program.count)[0])
        raise CodesignError(
            f"the program cannot end: task {stuck} ('{program.labels[stuck]}') waits after {task[stuck, DONE]} of "
            f"{program.count[stuck]} firings"
        )
    assert log.shape[0] in (0, int(simulation.total[LOGGED]))
    return Timeline(
        program,
        int(task[:, LAST_END].max()),
        task[:, FIRST_START].copy(),
        task[:, LAST_END].copy(),
        task[:, WAITED].copy(),
        int(program.count.sum()),
        int(simulation.total[ENDED]),
    )


def shared_rate(bytes_per_tick: float | None) -> int:
    """Shared units a tick of a resource's bandwidth, 0 for exclusive servers."""
    return 0 if bytes_per_tick is None else max(1, round(bytes_per_tick * SHARED_UNITS_PER_BYTE))


def _begin(program: Program) -> Simulation:
    """The program's arrays laid out for the event loop, before the first instant."""
    tasks, edges = program.count.size, program.edge_source.size
    pool = np.zeros((len(program.resources), POOL_COLUMNS), np.int64)
    pool[:, SERVERS] = pool[:, FREE] = [resource.servers for resource in program.resources]
    pool[:, RATE] = [shared_rate(resource.bytes_per_tick) for resource in program.resources]
    pool[:, FLOW_END] = NEVER
    pool[:, QUEUE_BASE] = _grouped(program.resource, len(pool))[0][:-1]

    by_target, in_edges = _grouped(program.edge_target, tasks)
    edge = np.empty((edges, EDGE_COLUMNS), np.int64)
    columns = (program.edge_source, program.edge_target, program.edge_base, program.edge_step, program.edge_stride)
    for position, column in enumerate(columns):
        edge[:, position] = column[in_edges]
    by_source, out_edge = _grouped(edge[:, SOURCE], tasks)

    task = np.zeros((tasks, TASK_COLUMNS), np.int64)
    task[:, RESOURCE], task[:, DURATION] = program.resource, program.duration
    task[:, AMOUNT], task[:, FIRINGS] = program.amount, program.count
    task[:, IN_START], task[:, IN_END] = by_target[:-1], by_target[1:]
    task[:, OUT_START], task[:, OUT_END] = by_source[:-1], by_source[1:]
    task[:, FIRST_START], task[:, IS_CANDIDATE] = -1, 1
    total = np.zeros(TOTALS, np.int64)
    total[CANDIDATES] = tasks  # every task is looked at first
    return Simulation(
        task=task,
        pool=pool,
        edge=edge,
        out_edge=out_edge,
        queue=np.zeros((tasks, 2), np.int64),
        flow=np.zeros((tasks, 2), np.int64),
        event=np.zeros((_most_events(program, pool), 2), np.int64),
        candidate=np.arange(tasks, dtype=np.int64),
        woken=np.zeros(len(pool), np.int64),
        shared=np.flatnonzero(pool[:, RATE]),
        open_task=np.zeros(tasks, np.int64),
        total=total,
    )


def _grouped(keys: np.ndarray[Any, Any], groups: int) -> tuple[Int64, Int64]:
    """Positions of `keys` grouped by value: where each group starts (groups + 1 entries), and the positions."""
    start = np.zeros(groups + 1, np.int64)
    np.cumsum(np.bincount(keys, minlength=groups), out=start[1:])
    return start, np.argsort(keys, kind="stable").astype(np.int64)


def _most_events(program: Program, pool: Int64) -> int:
    """The most firings that can be in flight at once: one a server, and those within a transfer's latency."""
    rate = pool[program.resource, RATE]
    in_latency = program.duration * rate // np.maximum(program.amount, 1) + 2
    pipelined = np.minimum(program.count, in_latency)[rate > 0].sum()
    exclusive = np.minimum(pool[pool[:, RATE] == 0, SERVERS], program.count.sum()).sum()
    return int(pipelined + exclusive + 1)
