"""Program: the tasks a device's mapper writes and the engine runs.

A program is a graph of *tasks* on named *resources*. A task fires `count` times; each firing holds one server of its
resource for `duration` ticks, or moves `amount` units through a resource whose bandwidth is shared. An *edge* lets
firing j of its target start once its source has completed `base + (j // stride) * step` firings (never more than the
source has). The four forms a mapper needs:

    each firing after the source's same firing          base=1,     step=1
    all of the source before any of the target          base=count, step=0     (a barrier)
    one load serves `n` computes                        base=1,     step=1, stride=n
    one store after every `n` computes                  base=n,     step=n
    a buffer of `n` slots freed by a later task         edge from the later task back: base=1-n, step=1

Time is counted in integer ticks of `tick_s` seconds. Energy is joules a firing, by component.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

SHARED_UNITS_PER_BYTE = 1 << 16
"""Bandwidth is kept in units of 1/65536 byte a tick, so that a slow memory on a fast clock has an integer rate."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A named thing that tasks need.

    With `bytes_per_tick` unset it has `servers` identical exclusive servers, granted first come, first served (ties:
    the earlier task). With it set, all tasks that are moving data share that bandwidth equally (processor sharing);
    a task moves one firing at a time, and the `duration` of each firing is a latency that follows, overlapped with
    the next firing's transfer.
    """

    name: str
    servers: int = 1
    bytes_per_tick: float | None = None


@dataclass(frozen=True)
class Program:
    """The arrays the engine runs; T tasks, E edges, C energy components, R resources."""

    resources: tuple[Resource, ...]
    tick_s: float
    resource: np.ndarray[Any, np.dtype[np.int64]]  # (T,) index into resources
    duration: np.ndarray[Any, np.dtype[np.int64]]  # (T,) ticks a firing; for a shared resource the latency added after
    amount: np.ndarray[Any, np.dtype[np.int64]]  # (T,) shared units a firing (bytes * SHARED_UNITS_PER_BYTE), else 0
    count: np.ndarray[Any, np.dtype[np.int64]]  # (T,) firings, at least 1
    edge_source: np.ndarray[Any, np.dtype[np.int64]]  # (E,)
    edge_target: np.ndarray[Any, np.dtype[np.int64]]  # (E,)
    edge_base: np.ndarray[Any, np.dtype[np.int64]]  # (E,)
    edge_step: np.ndarray[Any, np.dtype[np.int64]]  # (E,)
    edge_stride: np.ndarray[Any, np.dtype[np.int64]]  # (E,)
    components: tuple[str, ...]
    energy_J: np.ndarray[Any, np.dtype[np.float64]]  # (T, C) joules a firing
    op: np.ndarray[Any, np.dtype[np.int64]]  # (T,) index of the operation the task belongs to, -1 for none
    labels: tuple[str, ...]  # (T,) what the task does: "load weights", "matrix multiply"


@dataclass(frozen=True, slots=True)
class Fragment:
    """What a mapper wrote for one operation, task indices counted from its first task: to be written again."""

    tasks: tuple[tuple[int, int, int, int, str], ...]
    energy: tuple[tuple[int, str, float], ...]
    edges: tuple[tuple[int, int, int, int, int], ...]


class ProgramBuilder:
    """Collects tasks and edges, then freezes them into a Program."""

    def __init__(self, resources: tuple[Resource, ...], tick_s: float) -> None:
        self.resources = resources
        self.tick_s = tick_s
        self._index = {resource.name: position for position, resource in enumerate(resources)}
        self._tasks: list[tuple[int, int, int, int, int, str]] = []
        self._energy: list[tuple[int, str, float]] = []
        self._edges: list[tuple[int, int, int, int, int]] = []
        self.current_op = -1

    def ticks(self, seconds: float) -> int:
        """`seconds` as a whole number of ticks, rounded up."""
        return int(-(-seconds // self.tick_s))

    def task(
        self,
        label: str,
        resource: str,
        *,
        duration: int = 0,
        bytes: float = 0.0,
        count: int = 1,
        energy_J: Mapping[str, float] | None = None,
        after: tuple[int, ...] = (),
    ) -> int:
        """Add a task and return its index. `after` lists tasks that must be wholly done before it starts.

        `duration` is ticks a firing, `bytes` moved a firing on a shared resource, `energy_J` joules a firing.
        """
        index = len(self._tasks)
        amount = max(1, round(bytes * SHARED_UNITS_PER_BYTE)) if bytes else 0
        self._tasks.append((self._index[resource], int(duration), amount, int(count), self.current_op, label))
        for component, joules in (energy_J or {}).items():
            self._energy.append((index, component, joules))
        for source in after:
            self.barrier(source, index)
        return index

    def edge(self, source: int, target: int, *, base: int, step: int, stride: int = 1) -> None:
        """The general form: firing j of `target` needs `base + (j // stride) * step` firings of `source`."""
        self._edges.append((source, target, base, step, stride))

    def each(self, source: int, target: int, *, stride: int = 1) -> None:
        """Firing j of `target` needs firing j // stride of `source`: one source firing serves `stride` targets."""
        self._edges.append((source, target, 1, 1, stride))

    def every(self, source: int, target: int, firings: int) -> None:
        """Firing j of `target` needs `firings` more firings of `source` than firing j - 1 did."""
        self._edges.append((source, target, firings, firings, 1))

    def buffer(self, producer: int, consumer: int, slots: int, *, stride: int = 1) -> None:
        """`producer` fills one of `slots` places that `consumer` frees after each `stride` of its firings."""
        self._edges.append((consumer, producer, (1 - slots) * stride, stride, 1))

    def barrier(self, source: int, target: int) -> None:
        """All firings of `source` end before the first of `target` starts."""
        self._edges.append((source, target, self._tasks[source][3], 0, 1))

    def mark(self) -> tuple[int, int, int]:
        """The place reached, from which `fragment` copies."""
        return len(self._tasks), len(self._energy), len(self._edges)

    def fragment(self, mark: tuple[int, int, int]) -> Fragment:
        """What was written since `mark`; its edges must stay within it."""
        first, energy, edges = mark
        return Fragment(
            tuple((task[0], task[1], task[2], task[3], task[5]) for task in self._tasks[first:]),
            tuple((task - first, component, joules) for task, component, joules in self._energy[energy:]),
            tuple((edge[0] - first, edge[1] - first, *edge[2:]) for edge in self._edges[edges:]),
        )

    def append(self, fragment: Fragment) -> int:
        """Write a fragment for the current operation; returns the index of its first task."""
        first, op = len(self._tasks), self.current_op
        self._tasks += [(task[0], task[1], task[2], task[3], op, task[4]) for task in fragment.tasks]
        self._energy += [(task + first, component, joules) for task, component, joules in fragment.energy]
        self._edges += [(edge[0] + first, edge[1] + first, *edge[2:]) for edge in fragment.edges]
        return first

    def build(self) -> Program:
        columns = np.array([task[:5] for task in self._tasks], dtype=np.int64).reshape(-1, 5).T
        edges = np.array(self._edges, dtype=np.int64).reshape(-1, 5).T
        components = tuple(sorted({component for _, component, _ in self._energy}))
        energy = np.zeros((len(self._tasks), len(components)))
        position = {component: column for column, component in enumerate(components)}
        for task, component, joules in self._energy:
            energy[task, position[component]] += joules
        resource, duration, amount, count, op = (np.ascontiguousarray(column) for column in columns)
        source, target, base, step, stride = (np.ascontiguousarray(column) for column in edges)
        return Program(
            resources=self.resources,
            tick_s=self.tick_s,
            resource=resource,
            duration=duration,
            amount=amount,
            count=count,
            edge_source=source,
            edge_target=target,
            edge_base=base,
            edge_step=step,
            edge_stride=stride,
            components=components,
            energy_J=energy,
            op=op,
            labels=tuple(task[5] for task in self._tasks),
        )
