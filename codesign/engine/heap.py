"""Binary heaps of (time, task) pairs in flat arrays: the only data structure of the event loop."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Int64 = np.ndarray[Any, np.dtype[np.int64]]


@njit(cache=True, inline="always")
def _before(time: int, task: int, other_time: int, other_task: int) -> bool:
    return time < other_time or (time == other_time and task < other_task)


@njit(cache=True)
def push(times: Int64, tasks: Int64, base: int, size: int, time: int, task: int) -> None:
    """Add (time, task) to the heap of `size` entries that starts at `base`."""
    hole = size
    while hole > 0:
        parent = (hole - 1) >> 1
        if not _before(time, task, times[base + parent], tasks[base + parent]):
            break
        times[base + hole] = times[base + parent]
        tasks[base + hole] = tasks[base + parent]
        hole = parent
    times[base + hole] = time
    tasks[base + hole] = task


@njit(cache=True)
def drop_first(times: Int64, tasks: Int64, base: int, size: int) -> None:
    """Remove the least entry of the heap of `size` entries that starts at `base`."""
    last = size - 1
    time = times[base + last]
    task = tasks[base + last]
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= last:
            break
        if child + 1 < last and _before(
            times[base + child + 1], tasks[base + child + 1], times[base + child], tasks[base + child]
        ):
            child += 1
        if not _before(times[base + child], tasks[base + child], time, task):
            break
        times[base + hole] = times[base + child]
        tasks[base + hole] = tasks[base + child]
        hole = child
    times[base + hole] = time
    tasks[base + hole] = task
