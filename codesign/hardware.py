"""What every device class provides: parameters, resources, a mapping for each kind of work, and a memory plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from codesign.errors import BadParameter
from codesign.graph import Graph
from codesign.program import ProgramBuilder, Resource
from codesign.work import Work


class Parameters(BaseModel):
    """Base of a device class's parameters: each field has a unit and a description; unknown names and values
    that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Provenance(BaseModel):
    """Where a device file's numbers come from, and which were fitted to what."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    description: str
    sources: tuple[str, ...] = Field(description="datasheet, paper or measurement of each group of numbers")
    calibrated: dict[str, str] = Field(default_factory=dict, description="parameter -> the data it was fitted on")
    transferred: str = Field(default="", description="the device whose calibrated coefficients stand in for this one's")
    error_band: float | None = Field(default=None, description="mean relative error on the validation data, or unknown")
    validated_on: str = ""


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a model fits: in words with numbers, and what would close the gap."""

    fits: bool
    reason: str = ""
    gap_bytes: int = 0
    levers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MappedOp:
    """An operation to be mapped: its work in the device's type, and where its operands lie.

    `resident[i]` says that the i-th operand read is already on chip (cache, scratchpad); `keep_output` that the
    memory plan keeps the result there for its reader. `detail` is what else the device's plan tells its own mapper.
    """

    name: str
    work: Work
    resident: tuple[bool, ...] = ()
    keep_output: bool = False
    prefetch: bool = False
    detail: Hashable = None


@dataclass(frozen=True, slots=True)
class Tasks:
    """What mapping one operation wrote: the tasks that wait for its inputs, and those whose end is its end.

    `early` tasks (weight loads) need no input of the operation and may start while the previous one runs; `ahead` tasks
    (launches by a host) wait for nothing but their resource.
    """

    entry: tuple[int, ...]
    exit: tuple[int, ...]
    early: tuple[int, ...] = ()
    ahead: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Residency decided for a whole graph, operation by operation, and whether the model fits."""

    ops: tuple[MappedOp, ...]
    fit: Fit
    peak_activation_bytes: int
    warnings: tuple[str, ...] = field(default_factory=tuple)


class Device(ABC):
    """A parameterised accelerator. Subclasses live in `hwmodels/<class>/` and hold no model-specific knowledge."""

    device_class: ClassVar[str]
    parameters_model: ClassVar[type[Parameters]]
    fidelities: ClassVar[tuple[str, ...]] = ("analytic", "event")

    def __init__(self, name: str, parameters: Parameters, provenance: Provenance) -> None:
        self.name = name
        self.parameters = parameters
        self.provenance = provenance

    @property
    @abstractmethod
    def default_dtype(self) -> str:
        """The element type a deployment on this device uses unless told otherwise."""

    @abstractmethod
    def supports(self, dtype: str) -> bool:
        """Whether work in this element type can be mapped at all (perhaps slowly)."""

    @abstractmethod
    def resources(self) -> tuple[Resource, ...]:
        """The engine's resources; their order is the order reports show."""

    @property
    @abstractmethod
    def tick_s(self) -> float:
        """Seconds a tick of this device's programs lasts (a clock period, or a picosecond)."""

    @abstractmethod
    def plan(self, graph: Graph, works: Sequence[Work]) -> MemoryPlan:
        """Decide residency for each operation of the graph and whether the whole fits. `works[i]` is of `graph.ops[i]`
        in the device's element type."""

    @abstractmethod
    def map(self, op: MappedOp, builder: ProgramBuilder) -> Tasks:
        """Write the tasks of one operation. Nothing is free except a Move marked so."""

    def cycle_ticks(self, op: MappedOp) -> int:
        """Ticks of one operation by a cycle-by-cycle walk that shares no code with `map`: the ladder's top rung.

        Only devices that list "cycle" in `fidelities` have one; others raise BadParameter.
        """
        raise BadParameter(f"device '{self.name}' has no cycle fidelity; it offers {', '.join(self.fidelities)}")

    def cycle_ends(self, ops: Sequence[MappedOp]) -> list[int]:
        """Tick at which each of `ops`, one after the other, ends by that walk. A device whose operations overlap (by
        fetching ahead) says so here."""
        return list(accumulate(self.cycle_ticks(op) for op in ops))

    @property
    @abstractmethod
    def static_power_W(self) -> float:
        """Power drawn whatever is done: leakage, clocks, refresh. Charged over the whole latency as `static`."""

    @property
    def clock_Hz(self) -> float | None:
        """Clock in which the device's cycles are counted, or None when its time is not kept in cycles."""
        return None

    @property
    def compute_resources(self) -> tuple[str, ...]:
        """Names of the resources that do arithmetic; the busiest one's share is the report's utilisation."""
        return ()

    def peak_flops(self, dtype: str) -> float | None:
        """Operations a second in `dtype` (two for each multiply-accumulate), the roofline's flat roof."""
        return None

    @property
    def main_memory(self) -> tuple[float, int] | None:
        """Bandwidth (bytes/s) and capacity (bytes) of the memory that holds the model, the roofline's slope."""
        return None

    @property
    def area_mm2(self) -> float | None:
        """Silicon area, or None when no source states what is needed to say."""
        return None
