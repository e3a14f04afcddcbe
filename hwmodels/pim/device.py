"""The PIM device class: products in the banks of a DRAM, the rest on the ASIC that drives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import ClassVar

from codesign.dtypes import dtype as element_type
from codesign.graph import Graph
from codesign.hardware import Device, MappedOp, MemoryPlan, Parameters, Tasks
from codesign.program import ProgramBuilder, Resource
from codesign.work import Work
from hwmodels.pim import tasks
from hwmodels.pim.mapping import bank_products, map_op
from hwmodels.pim.parameters import PimParameters
from hwmodels.pim.product import Product, lanes


class PimDevice(Device):
    """DRAM channels whose banks multiply, driven by an ASIC. Times are counted in picoseconds."""

    device_class: ClassVar[str] = "pim"
    parameters_model: ClassVar[type[Parameters]] = PimParameters
    fidelities: ClassVar[tuple[str, ...]] = ("analytic", "event", "cycle")
    parameters: PimParameters

    @property
    def default_dtype(self) -> str:
        return self.parameters.mac.dtypes[0]

    def supports(self, dtype: str) -> bool:
        """Any number: the banks multiply `mac.dtypes`, the ASIC the others."""
        return element_type(dtype).kind in ("float", "int", "uint", "bool")

    def resources(self) -> tuple[Resource, ...]:
        return tasks.resources(self.parameters)

    @property
    def tick_s(self) -> float:
        return tasks.TICK_S

    def plan(self, graph: Graph, works: Sequence[Work]) -> MemoryPlan:
        from hwmodels.pim.plan import plan

        return plan(graph, works, self.parameters)

    def map(self, op: MappedOp, builder: ProgramBuilder) -> Tasks:
        return map_op(op, tasks.Writer(self.parameters, builder))

    def cycle_ticks(self, op: MappedOp) -> int:
        """Ticks of one operation with its products walked command by command, in a stream of equal operations.

        What is not a product in the banks has no finer model and takes the event engine's time.
        """
        return _cycle_ticks(self.parameters, replace(op, name=""))

    @property
    def static_power_W(self) -> float:
        """Standby and refresh of the channels, and what the ASIC draws whatever it does."""
        return self.parameters.static_power_W

    @property
    def clock_Hz(self) -> float:
        """The rate of column commands, which is the units' clock."""
        return 1 / self.parameters.dram.tCCD

    @property
    def compute_resources(self) -> tuple[str, ...]:
        return (tasks.BANKS, tasks.ADDERS, tasks.MULTIPLIERS)

    def peak_flops(self, dtype: str) -> float:
        """Of the banks for the types they multiply, else of the ASIC (16 bits at a time)."""
        element, asic, dram = element_type(dtype), self.parameters.asic, self.parameters.dram
        if element.name in self.parameters.mac.dtypes:
            return 2 * dram.channels * dram.banks * lanes(self.parameters, element.bits) / dram.tCCD
        return 2 * min(asic.adders, asic.multipliers) * asic.clock / -(-element.bits // 16)

    @property
    def main_memory(self) -> tuple[float, int]:
        """Column bandwidth of all banks together, which is what products see, and the capacity."""
        dram = self.parameters.dram
        return dram.channels * dram.banks * dram.column_bytes / dram.tCCD, dram.capacity


@lru_cache(maxsize=4096)
def _cycle_ticks(parameters: PimParameters, op: MappedOp) -> int:
    """Equal work is walked once: the layers of a model mostly repeat."""
    from hwmodels.pim.walk import walk_ticks

    whole = _event_ticks(parameters, lambda writer: map_op(op, writer))
    for products in bank_products(op, parameters):
        whole += walk_ticks(parameters, products) - _event_ticks(parameters, partial(_write_products, products))
    return whole


def _event_ticks(parameters: PimParameters, write: Callable[[tasks.Writer], object]) -> int:
    from codesign.engine import run

    builder = ProgramBuilder(tasks.resources(parameters), tasks.TICK_S)
    write(tasks.Writer(parameters, builder))
    return run(builder.build()).end


def _write_products(products: list[Product], writer: tasks.Writer) -> None:
    writer.products(products)


DEVICE_CLASS = PimDevice
