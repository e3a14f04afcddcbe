"""The CPU device class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from codesign.dtypes import dtype as element_type
from codesign.graph import Graph
from codesign.hardware import Device, MappedOp, MemoryPlan, Parameters, Tasks
from codesign.program import ProgramBuilder, Resource
from codesign.work import Work
from hwmodels.cpu import loop
from hwmodels.cpu.mapping import macs_per_clock, map_operation
from hwmodels.cpu.parameters import CpuParameters
from hwmodels.residency import plan_cached


class Cpu(Device):
    """SIMD cores with private caches, a shared cache and DRAM, called by a framework operator by operator."""

    device_class: ClassVar[str] = "cpu"
    parameters_model: ClassVar[type[Parameters]] = CpuParameters
    parameters: CpuParameters

    @property
    def default_dtype(self) -> str:
        return "float32"

    def supports(self, dtype: str) -> bool:
        return element_type(dtype).kind != "string"

    def resources(self) -> tuple[Resource, ...]:
        return loop.resources(self.parameters)

    @property
    def tick_s(self) -> float:
        return loop.TICK_S

    def plan(self, graph: Graph, works: Sequence[Work]) -> MemoryPlan:
        return plan_cached(graph, works, self.parameters.cache.l3, self.parameters.dram.capacity)

    def map(self, op: MappedOp, builder: ProgramBuilder) -> Tasks:
        return map_operation(op, self.parameters, builder)

    @property
    def static_power_W(self) -> float:
        return self.parameters.energy.static

    @property
    def clock_Hz(self) -> float:
        return self.parameters.core.clock

    @property
    def compute_resources(self) -> tuple[str, ...]:
        return ("core",)

    def peak_flops(self, dtype: str) -> float | None:
        if element_type(dtype).kind not in ("float", "int", "uint"):
            return None
        core = self.parameters.core
        return 2.0 * macs_per_clock(self.parameters, dtype) * core.count * core.clock

    @property
    def main_memory(self) -> tuple[float, int]:
        return self.parameters.dram.bandwidth, self.parameters.dram.capacity

    @property
    def area_mm2(self) -> float | None:
        return self.parameters.area_mm2


DEVICE_CLASS = Cpu
