"""Why a result is what it is: what bounds it, what waits, and how far each device parameter would move it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.errors import CodesignError
from codesign.graph import Graph
from codesign.registry import device, parameter_names
from codesign.report import units
from codesign.report.report import Report
from codesign.report.schema import OpRecord
from codesign.report.verdict import time_shares, verdict
from codesign.simulation import Prepared, device_dtype, prepare, report

if TYPE_CHECKING:
    from rich.console import RenderableType

STEP = 1.1
"""A parameter is raised by a tenth: enough to pass the rounding of tiles, little enough to be a slope."""

_WORTH_SHOWING = 0.005  # smaller elasticities print as zero


@dataclass(frozen=True, slots=True)
class Elasticity:
    """Percent change of latency and of energy for each percent that a parameter rises: -1 is inverse proportion."""

    parameter: str
    value: float
    latency: float
    energy: float


@dataclass(frozen=True, slots=True)
class Stall:
    """What an operation's tasks waited for: the resource in the way, and for how long their firings waited in all."""

    op: OpRecord
    share: float
    task: str
    resource: str
    waited_s: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """A report, what its slowest operations waited for, and the elasticities, strongest first."""

    report: Report
    slowest: tuple[Stall, ...]
    elasticities: tuple[Elasticity, ...]

    def __rich__(self) -> RenderableType:
        return _render(self)


def explain(
    graph: Graph,
    device_name: str,
    dtype: str | None = None,
    fidelity: str = "event",
    settings: Mapping[str, Any] | None = None,
    top: int = 8,
) -> Explanation:
    """Simulate `graph`, and once more for each number among the device's parameters, raised by a tenth.

    Raises BadParameter for an unknown device, parameter or type.
    """
    fixed = dict(settings or {})
    chosen = device(device_name, **fixed)
    prepared = prepare(graph, device_dtype(chosen, dtype))
    base = report(prepared, chosen, fidelity)
    found = []
    for name, value in numbers(chosen.parameters.model_dump()).items():
        elasticity = _elasticity(prepared, base, device_name, fixed, fidelity, name, value)
        if elasticity is not None:
            found.append(elasticity)
    found.sort(key=lambda item: (-max(abs(item.latency), abs(item.energy)), item.parameter))
    return Explanation(base, _slowest(base, top), tuple(found))


def numbers(parameters: Mapping[str, Any]) -> dict[str, float]:
    """The positive numbers among nested parameters, by dotted name."""
    found = {}
    for name in parameter_names(parameters):
        value: Any = parameters
        for part in name.split("."):
            value = value[part]
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            found[name] = value
    return found


def _elasticity(
    prepared: Prepared, base: Report, device_name: str, fixed: dict[str, Any], fidelity: str, name: str, value: float
) -> Elasticity | None:
    """The slope of one parameter in logarithms; None when the device does not allow the raised value."""
    raised = max(value + 1, round(value * STEP)) if isinstance(value, int) else value * STEP
    try:
        changed = report(prepared, device(device_name, **{**fixed, name: raised}), fidelity)
    except CodesignError:
        return None
    step = math.log(raised / value)
    return Elasticity(
        name, value, _slope(base.latency_s, changed.latency_s, step), _slope(base.energy_J, changed.energy_J, step)
    )


def _slope(before: float, after: float, step: float) -> float:
    return math.log(after / before) / step if before > 0 and after > 0 else 0.0


def _slowest(found: Report, top: int) -> tuple[Stall, ...]:
    ops, shares, tasks = found.document.ops, time_shares(found.document), found.tasks
    order = sorted(range(len(ops)), key=lambda index: -ops[index].latency_s)[:top]
    stalls = []
    for index in order:
        own = np.flatnonzero(tasks.op == index)
        worst = int(own[tasks.waited_s[own].argmax()]) if own.size else -1
        waited = float(tasks.waited_s[worst]) if worst >= 0 else 0.0
        task, resource = (tasks.label[worst], tasks.resource[worst]) if waited > 0 else ("", "")
        stalls.append(Stall(ops[index], shares[index], task, resource, waited))
    return tuple(stalls)


def _render(found: Explanation) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from codesign.report.tables import heading

    document = found.report.document
    title = f"{document.model} on {document.device}, {document.dtype}"
    totals = f"{units.seconds(document.latency_s)}, {units.joules(document.energy_J)}"
    lines: list[RenderableType] = [heading(f"{title}: {totals}"), Text(verdict(document))]
    if not document.fits:
        lines += [Text(f"  to fit: {lever}", style="yellow") for lever in document.levers]
    lines += [Text(""), heading("Slowest operations, and what their tasks waited for the longest"), _stalls(found)]
    lines += [Text(""), heading("Percent change of latency and energy for each percent more of a parameter")]
    return Group(*lines, _elasticities(found))


def _stalls(found: Explanation) -> RenderableType:
    from rich.text import Text

    from codesign.report.tables import add_names, add_numbers, add_words, plain_table, shrinking

    table = plain_table()
    add_names(table, "operation", 44)
    add_numbers(table, "time", "share")
    add_words(table, "bound")
    add_names(table, "waits")
    for stall in found.slowest:
        waits = f"{stall.task} for {stall.resource}" if stall.task else "-"
        table.add_row(
            shrinking(stall.op.name), units.seconds(stall.op.latency_s), units.percent(stall.share),
            Text(stall.op.bound), shrinking(waits),
        )  # fmt: skip
    return table


def _elasticities(found: Explanation) -> RenderableType:
    from codesign.report.tables import add_names, add_numbers, plain_table, shrinking

    table = plain_table()
    add_names(table, "parameter", 44)
    add_numbers(table, "value", "latency", "energy")
    for item in found.elasticities:
        if max(abs(item.latency), abs(item.energy)) >= _WORTH_SHOWING:
            value = f"{item.value:,.6g}" if abs(item.value) < 1e6 else f"{item.value:.4g}"
            table.add_row(shrinking(item.parameter), value, f"{item.latency:+.2f}", f"{item.energy:+.2f}")
    return table
