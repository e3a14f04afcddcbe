"""The ladder of fidelities: on each model and device, analytic is no more than event, and event agrees with cycle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codesign.graph import Graph
from codesign.registry import device, device_names
from codesign.simulation import device_dtype, prepare, run_ops

if TYPE_CHECKING:
    from rich.table import Table

CYCLE_TOLERANCE = 0.05
"""Event and cycle times of a whole model differ by at most this fraction of the cycle time."""
ROUNDING = 1e-9
"""The analytic bound is in floating point; nothing else may make it exceed the event time."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One model on one device. Times in seconds; `cycle_s` is None where the device has no cycle fidelity."""

    model: str
    device: str
    analytic_s: float
    event_s: float
    cycle_s: float | None

    @property
    def analytic_ratio(self) -> float:
        """Analytic over event time: at most 1."""
        return self.analytic_s / self.event_s if self.event_s else 1.0

    @property
    def cycle_ratio(self) -> float | None:
        """Event over cycle time."""
        return self.event_s / self.cycle_s if self.cycle_s else None

    @property
    def holds(self) -> bool:
        agrees = self.cycle_ratio is None or abs(self.cycle_ratio - 1) <= CYCLE_TOLERANCE
        return self.analytic_ratio <= 1 + ROUNDING and agrees


def climb(models: Sequence[tuple[str, Graph]], devices: Sequence[str] | None = None) -> Iterator[Rung]:
    """Every model on every device, at each fidelity that the device has."""
    for device_name in devices or device_names():
        chosen = device(device_name)
        for name, graph in models:
            prepared = prepare(graph, device_dtype(chosen, None))
            ops = chosen.plan(prepared.graph, prepared.works).ops
            times = {fidelity: run_ops(chosen, ops, fidelity).end_s for fidelity in chosen.fidelities}
            yield Rung(name, device_name, times["analytic"], times["event"], times.get("cycle"))


def ladder_table(rungs: Sequence[Rung]) -> Table:
    """The ratios, one row a model and device; what does not hold is red."""
    from codesign.report import units
    from codesign.report.tables import add_names, add_numbers, plain_table, shrinking

    table = plain_table()
    add_names(table, "model")
    table.add_column("device", no_wrap=True)
    add_numbers(table, "event", "analytic/event", "event/cycle")
    for rung in rungs:
        table.add_row(
            shrinking(rung.model), rung.device, units.seconds(rung.event_s), f"{rung.analytic_ratio:.4f}",
            f"{rung.cycle_ratio:.4f}" if rung.cycle_ratio is not None else "-", style=None if rung.holds else "red",
        )  # fmt: skip
    return table
