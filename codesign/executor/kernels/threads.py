"""Threads that share the tasks of a kernel.

A kernel takes the numbers of its tasks from a counter, so that a thread that comes late, on a busy machine, costs
nothing but its help. Kernels run without the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from queue import SimpleQueue
from typing import Any


def thread_count() -> int:
    """Threads a kernel is shared among: OMP_NUM_THREADS, as for the BLAS library, or the processors we may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Job:
    """A call that whoever claims first makes, or drops."""

    def __init__(self, kernel: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._kernel, self._arguments = kernel, arguments
        self._claim, self._done = threading.Lock(), threading.Lock()
        self._done.acquire()

    def run(self) -> None:
        """Make the call unless it was dropped."""
        if self._claim.acquire(blocking=False):
            try:
                self._kernel(*self._arguments)
            finally:
                self._done.release()

    def finish(self) -> None:
        """Drop the call if it has not begun, else wait for its end."""
        if not self._claim.acquire(blocking=False):
            self._done.acquire()


@cache
def _helpers(process: int) -> list[SimpleQueue[_Job]]:
    """The queues of this process's threads, which do not outlive a fork."""
    queues: list[SimpleQueue[_Job]] = [SimpleQueue() for _ in range(thread_count() - 1)]
    for queue in queues:
        threading.Thread(target=_serve, args=(queue,), name="codesign-kernel", daemon=True).start()
    return queues


def _serve(queue: SimpleQueue[_Job]) -> None:
    while True:
        queue.get().run()


def share(kernel: Callable[..., None], tasks: int, *arguments: Any) -> None:
    """Call `kernel(counter, *arguments)`, `counter` being the address of an int64, on up to as many threads as there
    are tasks, and return when all are done."""
    counter = ctypes.c_int64(0)
    given = (ctypes.addressof(counter), *arguments)
    jobs = []
    if tasks > 1:
        for queue in _helpers(os.getpid())[: tasks - 1]:
            jobs.append(_Job(kernel, given))
            queue.put(jobs[-1])
    kernel(*given)
    for job in jobs:
        job.finish()
