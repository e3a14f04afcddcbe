"""Binary heaps of (time, task) rows in one flat array: the only data structure of the event loop."""

from __future__ import annotations

from typing import Any

import numpy as np

from codesign.engine.compiled import inlined

Int64 = np.ndarray[Any, np.dtype[np.int64]]


@inlined
def _before(time: int, task: int, other_time: int, other_task: int) -> bool:
    return time < other_time or (time == other_time and task < other_task)


@inlined
def push(heap: Int64, base: int, size: int, time: int, task: int) -> None:
    """Add (time, task) to the heap of `size` rows that starts at row `base`."""
    hole = size
    while hole > 0:
        parent = (hole - 1) >> 1
        if not _before(time, task, heap[base + parent, 0], heap[base + parent, 1]):
            break
        heap[base + hole, 0] = heap[base + parent, 0]
        heap[base + hole, 1] = heap[base + parent, 1]
        hole = parent
    heap[base + hole, 0] = time
    heap[base + hole, 1] = task


@inlined
def drop_first(heap: Int64, base: int, size: int) -> None:
    """Remove the least row of the heap of `size` rows that starts at row `base`."""
    last = size - 1
    time = heap[base + last, 0]
    task = heap[base + last, 1]
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= last:
            break
        if child + 1 < last and _before(
            heap[base + child + 1, 0], heap[base + child + 1, 1], heap[base + child, 0], heap[base + child, 1]
        ):
            child += 1
        if not _before(heap[base + child, 0], heap[base + child, 1], time, task):
            break
        heap[base + hole, 0] = heap[base + child, 0]
        heap[base + hole, 1] = heap[base + child, 1]
        hole = child
    heap[base + hole, 0] = time
    heap[base + hole, 1] = task
