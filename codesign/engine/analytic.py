"""The analytic bound: the least time a Program can take, without running it.

No schedule is shorter than any resource's total demand, nor than the longest chain of tasks that must follow each
other. Both are computed from the program that the event engine runs, so the bound and the run cannot disagree on what
there is to do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from codesign.engine.heap import Int64
from codesign.engine.run import shared_rate
from codesign.program import Program

Float64 = np.ndarray[Any, np.dtype[np.float64]]


def demand_ticks(program: Program) -> Float64:
    """(T,) ticks that each task keeps its whole resource busy: over all servers, or at the full shared bandwidth."""
    servers = np.array([resource.servers for resource in program.resources])[program.resource]
    rate = np.array([shared_rate(resource.bytes_per_tick) for resource in program.resources])[program.resource]
    exclusive = program.duration * program.count / servers
    shared = program.amount * program.count / np.maximum(rate, 1)
    return np.where(rate > 0, shared, exclusive)


def lower_bound_ticks(program: Program) -> tuple[float, Float64]:
    """Least ticks of the whole program, and (T,) the earliest tick at which each task can have ended."""
    if program.count.size == 0:
        return 0.0, np.zeros(0)
    demand = demand_ticks(program)
    rate = np.array([shared_rate(resource.bytes_per_tick) for resource in program.resources])[program.resource]
    firing = program.duration + np.where(rate > 0, program.amount / np.maximum(rate, 1), 0.0)
    busiest = np.bincount(program.resource, weights=demand).max()
    ends = _longest_chain(
        demand.astype(np.float64),
        firing.astype(np.float64),
        program.edge_source,
        program.edge_target,
        program.edge_base,
        program.edge_step,
    )
    return max(float(busiest), float(ends.max())), ends


@njit(cache=True)
def _longest_chain(
    demand: Float64, firing: Float64, source: Int64, target: Int64, base: Int64, step: Int64
) -> Float64:  # fmt: skip
    """Earliest ends. Mappers add edges towards later tasks except those that free buffers, which bound nothing here,
    so one pass over the tasks in order, edges grouped by target, is a topological walk."""
    tasks = demand.size
    start = np.zeros(tasks)
    end = np.zeros(tasks)
    order = np.argsort(target, kind="mergesort")
    position = 0
    for task in range(tasks):
        while position < order.size and target[order[position]] == task:
            edge = order[position]
            position += 1
            origin = source[edge]
            if origin >= task or base[edge] <= 0:
                continue
            if step[edge] == 0:
                start[task] = max(start[task], end[origin])
            else:
                start[task] = max(start[task], start[origin] + firing[origin])
        end[task] = start[task] + max(demand[task], firing[task])
    return end
