"""The GPU device class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from codesign.dtypes import dtype as element_type
from codesign.graph import Graph
from codesign.hardware import Device, MappedOp, MemoryPlan, Parameters, Tasks
from codesign.program import ProgramBuilder, Resource
from codesign.work import Work
from hwmodels.gpu import kernel
from hwmodels.gpu.arithmetic import peak_macs_per_clock, supported
from hwmodels.gpu.mapping import map_operation
from hwmodels.gpu.parameters import GpuParameters
from hwmodels.gpu.runtime import form_kernels
from hwmodels.gpu.traffic import retained_bytes
from hwmodels.residency import plan_cached


class Gpu(Device):
    """Streaming multiprocessors with tensor cores behind one L2 cache and one DRAM."""

    device_class: ClassVar[str] = "gpu"
    parameters_model: ClassVar[type[Parameters]] = GpuParameters
    parameters: GpuParameters

    @property
    def default_dtype(self) -> str:
        return "float16"

    def supports(self, dtype: str) -> bool:
        return supported(dtype)

    def resources(self) -> tuple[Resource, ...]:
        return kernel.resources(self.parameters)

    @property
    def tick_s(self) -> float:
        return kernel.TICK_S

    def plan(self, graph: Graph, works: Sequence[Work]) -> MemoryPlan:
        found = plan_cached(
            graph, works, retained_bytes(self.parameters.l2), self.parameters.dram.capacity, repeated=True
        )
        source = self.provenance.transferred
        note = f"{self.name}'s coefficients were not calibrated: they are those of the {source}"
        return replace(
            found,
            ops=form_kernels(graph, found.ops, works, self.parameters),
            warnings=(*found.warnings, *([note] if source else [])),
        )

    def map(self, op: MappedOp, builder: ProgramBuilder) -> Tasks:
        return map_operation(op, self.parameters, builder)

    @property
    def static_power_W(self) -> float:
        return self.parameters.energy.static

    @property
    def clock_Hz(self) -> float:
        return self.parameters.sm.clock

    @property
    def compute_resources(self) -> tuple[str, ...]:
        return ("sm",)

    def peak_flops(self, dtype: str) -> float | None:
        """Peak of the tensor cores where they know the type, else of the SIMT units, at the sustained clock."""
        if element_type(dtype).kind not in ("float", "int", "uint"):
            return None
        sm = self.parameters.sm
        return 2.0 * peak_macs_per_clock(self.parameters, dtype) * sm.count * sm.clock

    @property
    def main_memory(self) -> tuple[float, int]:
        return self.parameters.dram.bandwidth, self.parameters.dram.capacity

    @property
    def area_mm2(self) -> float | None:
        return self.parameters.area_mm2


DEVICE_CLASS = Gpu
