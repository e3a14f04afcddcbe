"""The Program semantics in plain Python with heapq, written to be read: what the numba engine is held against."""

from __future__ import annotations

import heapq

import numpy as np

from codesign.engine.run import shared_rate
from codesign.program import Program


class HeapSimulator:
    def __init__(self, program: Program) -> None:
        self.program = program
        tasks = range(len(program.count))
        self.count = [int(n) for n in program.count]
        self.started = [0 for _ in tasks]
        self.done = [0 for _ in tasks]
        self.in_edges = {task: [] for task in tasks}
        columns = [getattr(program, "edge_" + part) for part in ("source", "target", "base", "step", "stride")]
        edges = np.stack(columns, axis=1).tolist()
        for source, target, base, step, stride in edges:
            self.in_edges[target].append((source, base, step, stride))
        self.waiting = {}  # task -> since
        self.transfers = {index: {} for index in range(len(program.resources))}  # resource -> task -> service needed
        self.rate = [shared_rate(resource.bytes_per_tick) for resource in program.resources]
        self.free = [resource.servers for resource in program.resources]
        self.service = [0] * len(self.rate)
        self.served_at = [0] * len(self.rate)
        self.events = []
        self.now = 0
        self.log = []

    def ready(self, task: int) -> bool:
        firing = self.started[task]
        return firing < self.count[task] and all(
            self.done[source] >= min(base + firing // stride * step, self.count[source])
            for source, base, step, stride in self.in_edges[task]
        )

    def serve(self, pool: int) -> None:
        if self.transfers[pool]:
            self.service[pool] += self.rate[pool] * (self.now - self.served_at[pool]) // len(self.transfers[pool])
        self.served_at[pool] = self.now

    def begin(self, task: int) -> None:
        pool = int(self.program.resource[task])
        self.log.append((task, self.started[task], self.now))
        self.started[task] += 1
        del self.waiting[task]
        if self.rate[pool]:
            self.transfers[pool][task] = self.service[pool] + int(self.program.amount[task])
        else:
            self.free[pool] -= 1
            heapq.heappush(self.events, (self.now + int(self.program.duration[task]), task))

    def start_all(self) -> None:
        progress = True
        while progress:
            progress = False
            for task in range(len(self.count)):
                if task not in self.waiting and self.ready(task):
                    self.waiting[task] = self.now
            for task in sorted(self.waiting, key=lambda task: (self.waiting[task], task)):
                pool = int(self.program.resource[task])
                if self.rate[pool]:
                    if task not in self.transfers[pool]:
                        self.serve(pool)
                        self.begin(task)
                        progress = True
                elif self.free[pool]:
                    self.begin(task)
                    progress = True
                    break  # its own next firing may be ready and must queue behind those that waited longer

    def flow_end(self, pool: int) -> int | None:
        flows = self.transfers[pool]
        if not flows:
            return None
        needed = max(min(flows.values()) - self.service[pool], 0) * len(flows)
        return self.served_at[pool] + -(-needed // self.rate[pool])

    def run(self) -> int:
        while True:
            self.start_all()
            ends = {pool: end for pool in self.transfers if (end := self.flow_end(pool)) is not None}
            instants = [*ends.values(), *(time for time, _ in self.events[:1])]
            if not instants:
                assert self.done == self.count, "deadlock"
                return self.now
            self.now = min(instants)
            for pool, end in ends.items():
                if end == self.now:
                    self.serve(pool)
                    for task in [t for t, key in self.transfers[pool].items() if key <= self.service[pool]]:
                        del self.transfers[pool][task]
                        heapq.heappush(self.events, (self.now + int(self.program.duration[task]), task))
            while self.events and self.events[0][0] == self.now:
                _, task = heapq.heappop(self.events)
                pool = int(self.program.resource[task])
                self.free[pool] += 0 if self.rate[pool] else 1
                self.done[task] += 1
