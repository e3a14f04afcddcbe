"""The NPU device class: an array, its memories, a vector unit and a host, as the engine's resources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from codesign.dtypes import DTYPES
from codesign.graph import Graph
from codesign.hardware import Device, MappedOp, MemoryPlan, Parameters, Provenance, Tasks
from codesign.program import ProgramBuilder, Resource
from codesign.work import Move, Work
from hwmodels.npu.array import macs_per_cycle
from hwmodels.npu.mapping import Pipelines, pipelines
from hwmodels.npu.parameters import NpuParameters
from hwmodels.npu.pipeline import costs_of, emit, resources_of
from hwmodels.npu.plan import plan


class Npu(Device):
    """An edge NPU; see `NpuParameters` for what can be changed."""

    device_class: ClassVar[str] = "npu"
    parameters_model: ClassVar[type[Parameters]] = NpuParameters
    fidelities: ClassVar[tuple[str, ...]] = ("analytic", "event", "cycle")
    parameters: NpuParameters

    def __init__(self, name: str, parameters: NpuParameters, provenance: Provenance) -> None:
        super().__init__(name, parameters, provenance)
        self._pipelines: dict[tuple[Work, tuple[bool, ...], bool], Pipelines] = {}
        self._cycles: dict[tuple[Work, tuple[bool, ...], bool, int, tuple[float, ...]], int] = {}
        self.costs = costs_of(parameters)

    @property
    def default_dtype(self) -> str:
        return self.parameters.array.dtypes[0]

    def supports(self, dtype: str) -> bool:
        return dtype in DTYPES and DTYPES[dtype].kind not in ("string", "complex")

    def resources(self) -> tuple[Resource, ...]:
        return resources_of(self.parameters)

    @property
    def tick_s(self) -> float:
        return 1 / self.parameters.clock

    def plan(self, graph: Graph, works: Sequence[Work]) -> MemoryPlan:
        return plan(self.parameters, graph, works)

    def pipelines(self, op: MappedOp) -> Pipelines:
        """The pipelines of `op`, found once for equal work and residency."""
        key = (op.work, op.resident, op.keep_output)
        found = self._pipelines.get(key)
        if found is None:
            found = self._pipelines[key] = pipelines(self.parameters, op)
        return found

    def map(self, op: MappedOp, builder: ProgramBuilder) -> Tasks:
        if _is_view(op.work):
            return Tasks((), ())
        first, *others = self.pipelines(op)
        tasks = emit(first, self.costs, builder)
        entry, early, last = tasks.entry, tasks.early, tasks.exit
        for pipeline in others:
            tasks = emit(pipeline, self.costs, builder, after=last)
            early += tasks.early
            last = tasks.exit
        return Tasks(entry=entry, exit=last, early=early)

    def cycle_ticks(self, op: MappedOp) -> int:
        """Cycles of one operation by itself, walked cycle by cycle instead of by events."""
        return self._walk(op, 0, ())

    def cycle_ends(self, ops: Sequence[MappedOp]) -> list[int]:
        """Each operation's first weights are fetched while the operation before it runs, through the same port."""
        from hwmodels.npu.cycle import ahead_bytes

        busy = [index for index, op in enumerate(ops) if not _is_view(op.work)]
        ahead = {index: ahead_bytes(self.pipelines(ops[index])[0]) for index in busy}
        following = dict(zip(busy, [ahead[index] for index in busy[1:]] + [()], strict=True))
        ends, end, last = [], 0, 0
        for index, op in enumerate(ops):
            if index in following:
                last = self._walk(op, last, following[index])
                end += last
            ends.append(end)
        return ends

    def _walk(self, op: MappedOp, before: int, guests: tuple[float, ...]) -> int:
        """Cycles of `op` when the operation before it took `before` cycles and the next one fetches `guests`."""
        from hwmodels.npu.cycle import longest_head_start, walk

        if _is_view(op.work):
            return 0
        first, *others = self.pipelines(op)
        head_start = min(before, longest_head_start(self.parameters, self.costs, first))
        key = (op.work, op.resident, op.keep_output, head_start, guests)
        if key not in self._cycles:
            ticks = walk(self.parameters, self.costs, first, head_start, guests)
            self._cycles[key] = ticks + sum(walk(self.parameters, self.costs, later) for later in others)
        return self._cycles[key]

    @property
    def static_power_W(self) -> float:
        return self.parameters.energy.leakage_per_mm2 * self.area_mm2

    @property
    def clock_Hz(self) -> float:
        return self.parameters.clock

    @property
    def compute_resources(self) -> tuple[str, ...]:
        return ("mac_array", "vector")

    def peak_flops(self, dtype: str) -> float | None:
        if dtype not in self.parameters.array.dtypes:
            return 2 * self.parameters.host.clock * self.parameters.host.macs_per_cycle
        slower = max(DTYPES[dtype].bits // 8, 1)
        return 2 * macs_per_cycle(self.parameters.array) * self.parameters.clock / slower

    @property
    def main_memory(self) -> tuple[float, int]:
        return self.parameters.dram.bandwidth, self.parameters.dram.capacity

    @property
    def area_mm2(self) -> float:
        """Array, memories and vector unit by their counts, and a fixed part; 16-bit units are not counted apart."""
        parameters = self.parameters
        memory = parameters.sram.capacity + 2 * parameters.array.accumulator_bytes
        return (
            parameters.area.fixed
            + macs_per_cycle(parameters.array) * parameters.area.mac
            + memory * parameters.area.sram_byte
            + parameters.vector.lanes * parameters.area.lane
        )


def _is_view(work: Work) -> bool:
    return isinstance(work, Move) and work.free


DEVICE_CLASS = Npu
