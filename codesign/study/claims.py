"""Speeds, times and energies that papers state of the built-in networks, beside what the devices here give.

Nothing is fitted to them: a ratio far from one is a finding about the device model, the paper, or its software.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codesign.registry import device, device_names
from codesign.report.schema import ReportDocument
from codesign.simulation import simulate

if TYPE_CHECKING:
    from rich.table import Table

    from workloads.facts import Claim

FAR = 2.0
"""A ratio beyond this, either way, is printed red."""

METRICS: dict[str, Callable[[ReportDocument, int], float]] = {
    "throughput": lambda document, batch: batch / document.latency_s,
    "latency_ms": lambda document, batch: 1e3 * document.latency_s,
    "energy_mj": lambda document, batch: 1e3 * document.energy_J / batch,
}
"""What can be claimed, from a document and its batch: inputs a second, milliseconds a batch, millijoules an input."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """One claim of one network, and what is simulated in its place, in the claim's unit."""

    claim: Claim
    name: str
    claimed: float
    simulated: float

    @property
    def ratio(self) -> float:
        return self.simulated / self.claimed


def simulated_claims(devices: Sequence[str] | None = None) -> Iterator[Simulated]:
    """Every claim whose device, metric and network are known here, simulated at its batch and element type."""
    import workloads
    from codesign.model import load

    for claim in workloads.claims():
        if claim.device not in (devices or device_names()) or claim.metric not in METRICS:
            continue
        chosen = device(claim.device)
        for name in _built(claim):
            document = simulate(load(f"zoo:{name}", batch=claim.batch), chosen, claim.dtype).document
            yield Simulated(claim, name, claim.values[name], METRICS[claim.metric](document, claim.batch))


def missing() -> list[str]:
    """Why claims are left out: a sentence for each device or metric that is not modelled."""
    import workloads

    devices: Counter[str] = Counter()
    metrics: Counter[str] = Counter()
    for claim in workloads.claims():
        if claim.device not in device_names():
            devices[claim.device] += len(claim.values)
        elif claim.metric not in METRICS:
            metrics[claim.metric] += len(claim.values)
    return [
        *(f"{count} claims on '{name}', a device that is not modelled" for name, count in devices.most_common()),
        *(f"{count} claims of '{name}', which is not simulated" for name, count in metrics.most_common()),
    ]


def claim_table(found: Sequence[Simulated]) -> Table:
    """Claim, simulated and ratio of each network."""
    from codesign.report.tables import add_names, add_numbers, plain_table, shrinking

    table = plain_table()
    table.add_column("network", no_wrap=True)
    table.add_column("device", no_wrap=True)
    add_names(table, "setting", most=34)
    add_numbers(table, "batch")
    table.add_column("metric", no_wrap=True)
    add_numbers(table, "claim", "simulated", "ratio")
    for row in found:
        figures = (f"{row.claimed:.4g}", f"{row.simulated:.4g}", f"{row.ratio:.2f}")
        table.add_row(
            row.name, row.claim.device, shrinking(row.claim.setting), str(row.claim.batch), row.claim.metric, *figures,
            style=None if 1 / FAR <= row.ratio <= FAR else "red",
        )  # fmt: skip
    return table


def _built(claim: Claim) -> list[str]:
    from workloads.registry import index

    return [name for name in claim.values if name in index()]
