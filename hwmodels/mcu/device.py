"""The microcontroller device class: one core that runs one kernel after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from codesign.dtypes import DTYPES
from codesign.graph import Graph
from codesign.hardware import Device, MappedOp, MemoryPlan, Parameters, Provenance, Tasks
from codesign.program import ProgramBuilder, Resource
from codesign.work import Move, Work
from hwmodels.deployment import deployed_type
from hwmodels.mcu.cost import Cost, cost_of
from hwmodels.mcu.kernels import MATRIX_FLOAT, MATRIX_INT8, cycles_per_mac
from hwmodels.mcu.parameters import McuParameters
from hwmodels.mcu.plan import plan


class Mcu(Device):
    """A microcontroller; see `McuParameters` for what can be changed."""

    device_class: ClassVar[str] = "mcu"
    parameters_model: ClassVar[type[Parameters]] = McuParameters
    parameters: McuParameters

    def __init__(self, name: str, parameters: McuParameters, provenance: Provenance) -> None:
        super().__init__(name, parameters, provenance)
        self._costs: dict[Work, Cost] = {}

    @property
    def default_dtype(self) -> str:
        return "int8"

    def supports(self, dtype: str) -> bool:
        return dtype in ("int8", "uint8", "float32")

    def resources(self) -> tuple[Resource, ...]:
        flash = self.parameters.flash
        return (
            Resource("core"),
            Resource("flash", bytes_per_tick=flash.line_bytes / (flash.wait_states + 1)),
            Resource("sram", bytes_per_tick=self.parameters.sram.bytes_per_cycle),
        )

    @property
    def tick_s(self) -> float:
        return 1 / self.parameters.core.clock

    def plan(self, graph: Graph, works: Sequence[Work]) -> MemoryPlan:
        return plan(self.parameters, graph, works, deployed_type(graph, works))

    def map(self, op: MappedOp, builder: ProgramBuilder) -> Tasks:
        """The call, then the kernel; its traffic passes beside it, since the core's cycles hold the stalls already."""
        work = op.work
        if isinstance(work, Move) and work.free:
            return Tasks((), ())
        cost = self._costs.get(work)
        if cost is None:
            cost = self._costs[work] = cost_of(self.parameters, work)
        energy, call_cycles = self.parameters.energy, self.parameters.runtime.call_cycles
        cycles = max(1, math.ceil(cost.cycles))
        joules_a_cycle = energy.supply * energy.active_current
        call = builder.task("call", "core", duration=call_cycles, energy_J={"core": call_cycles * joules_a_cycle})
        kernel = builder.task(
            cost.label, "core", duration=cycles, energy_J={"core": cycles * joules_a_cycle}, after=(call,)
        )
        last = [kernel]
        if cost.flash_bytes:
            joules = {"flash": cost.flash_bytes * energy.flash_byte}
            last.append(builder.task("read weights", "flash", bytes=cost.flash_bytes, energy_J=joules, after=(call,)))
        if cost.sram_bytes:
            joules = {"sram": cost.sram_bytes * energy.sram_byte}
            last.append(builder.task("activations", "sram", bytes=cost.sram_bytes, energy_J=joules, after=(call,)))
        return Tasks(entry=(call,), exit=tuple(last))

    @property
    def static_power_W(self) -> float:
        return self.parameters.energy.supply * self.parameters.energy.static_current

    @property
    def clock_Hz(self) -> float:
        return self.parameters.core.clock

    @property
    def compute_resources(self) -> tuple[str, ...]:
        return ("core",)

    def peak_flops(self, dtype: str) -> float:
        """Of the inner loop with weights at hand: the core can do no better than its own instructions."""
        is_float = DTYPES[dtype].is_float
        loop = MATRIX_FLOAT if is_float else MATRIX_INT8
        return 2 * self.parameters.core.clock / cycles_per_mac(self.parameters, loop, False, is_float)

    @property
    def main_memory(self) -> tuple[float, int]:
        """Flash, which holds the weights."""
        flash = self.parameters.flash
        return flash.line_bytes / (flash.wait_states + 1) * self.parameters.core.clock, flash.capacity


DEVICE_CLASS = Mcu
