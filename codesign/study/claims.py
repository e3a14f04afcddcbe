"""Speeds, times and energies that papers state of the built-in networks, beside what the devices here give.

Nothing is fitted to them: a ratio far from one is a finding about the device model, the paper, or its software.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import median
from typing import TYPE_CHECKING

from codesign.registry import device, device_names
from codesign.report.schema import ReportDocument
from codesign.simulation import simulate

if TYPE_CHECKING:
    from rich.console import RenderableType
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


def claim_tables(found: Sequence[Simulated]) -> Iterator[RenderableType]:
    """A table for each claim, device by device, and what its ratios come to."""
    from itertools import groupby

    from rich.console import Group
    from rich.text import Text

    from codesign.report.tables import heading

    conditions = attrgetter("claim.device", "claim.metric", "claim.batch", "claim.setting", "claim.known")
    ordered = sorted(found, key=conditions)
    for (device_name, metric, batch, setting, known), group in groupby(ordered, key=conditions):
        rows = list(group)
        title = heading(", ".join(filter(None, (f"{device_name}: {metric}", f"batch {batch}", setting))))
        yield Group(title, Text(f"source: {known}; {_summary(rows)}", "dim"), _table(rows))


def _table(rows: Sequence[Simulated]) -> Table:
    from codesign.report.tables import add_numbers, plain_table

    table = plain_table()
    table.add_column("network", no_wrap=True)
    add_numbers(table, "claim", "simulated", "ratio")
    for row in rows:
        figures = (f"{row.claimed:.4g}", f"{row.simulated:.4g}", f"{row.ratio:.2f}")
        table.add_row(row.name, *figures, style=None if 1 / FAR <= row.ratio <= FAR else "red")
    return table


def _summary(rows: Sequence[Simulated]) -> str:
    """The middle ratio, how many are far from one, and whether networks come in the order claimed."""
    ratios = sorted(row.ratio for row in rows)
    far = sum(not 1 / FAR <= ratio <= FAR for ratio in ratios)
    parts = [f"median ratio {median(ratios):.2f}", f"{far} of {len(rows)} beyond {FAR:g}x"]
    if len(rows) > 2:
        from scipy.stats import spearmanr

        parts.append(f"rank correlation {spearmanr([r.claimed for r in rows], [r.simulated for r in rows])[0]:.2f}")
    return ", ".join(parts)


def _built(claim: Claim) -> list[str]:
    from workloads.registry import index

    return [name for name in claim.values if name in index()]
