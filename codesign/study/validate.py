"""Validation: what each device class predicts beside what was published or measured, and the bounds it must keep."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from codesign.errors import BadParameter, nearest
from codesign.registry import class_module, device_classes
from codesign.study.ladder import climb, ladder_table
from codesign.validation import RANKS, Bound, Comparison, measure

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LADDER = "ladder"
CLAIMS = "claims"
MOST_WALKED_MACS = 5_000_000_000
"""Multiply-accumulates of the largest network on the ladder: its top rung goes through every cycle."""
ONNX = "onnx"
ROWS_SHOWN = 24
"""Rows printed of a long group: its worst ones; the statistics are always of all."""


def validate(what: str | None, console: Console) -> bool:
    """Print the comparisons of a device class, the ladder, or (None) of all; False when a stated bound is broken.

    ONNX's backend cases, which are fetched, are run when named. Raises BadParameter when `what` is none of these.
    """
    known = [*device_classes(), LADDER, CLAIMS, ONNX]
    if what is not None and what not in known:
        raise BadParameter(f"nothing to validate is called '{what}'{nearest(what, known)}; known: {', '.join(known)}")
    holds = True
    parts = {LADDER: _ladder, CLAIMS: _claims, ONNX: _onnx}
    for name in [what] if what else known[:-1]:
        holds = (parts[name](console) if name in parts else _device_class(name, console)) and holds
    return holds


def calibrate(device_class: str) -> Mapping[str, float]:
    """Fit the class's calibrated parameters to its calibration data again. Raises BadParameter when it has none."""
    module = class_module(device_class, "calibrate")
    if module is None:
        raise BadParameter(
            f"device class '{device_class}' has no calibrated parameters{nearest(device_class, device_classes())}"
        )
    found: Mapping[str, float] = module.calibrate()
    return found


def calibrate_from(device_class: str, data: Path, base: str | None, out: Path | None) -> RenderableType:
    """Fit a device of the class to a file of measurements, write its device file, and say how well it fits.

    Raises BadParameter when the class cannot be fitted to a file, or the file is unfit.
    """
    module = class_module(device_class, "calibrate")
    if module is None or not hasattr(module, "calibrate_from"):
        raise BadParameter(f"device class '{device_class}' cannot be fitted to a file of measurements")
    from codesign.registry import write_device
    from codesign.report.tables import add_names, add_numbers, plain_table

    name = base or module.DEVICE
    found = module.calibrate_from(data, name)
    if out is not None:
        write_device(name, found.values, f"{data.name}, {found.rows} operators", found.error, out)
    table = plain_table()
    add_names(table, "coefficient")
    add_numbers(table, "value", "operator", "cross-validated error")
    values = [(key, f"{value:.4g}") for key, value in found.values.items()]
    errors = [*((kind, f"{error:.1%}") for kind, error in found.by_kind.items()), ("all", f"{found.error:.1%}")]
    for (key, value), (kind, error) in zip_longest(values, errors, fillvalue=("", "")):
        table.add_row(key, value, kind, error)
    return table


def ladder_networks() -> list[str]:
    """The first network of each family that is small enough to be walked cycle by cycle."""
    import workloads

    return [name for name in workloads.representatives() if workloads.count(name).macs <= MOST_WALKED_MACS]


def _ladder(console: Console) -> bool:
    from codesign.model import load

    rungs = list(climb([(name, load(f"zoo:{name}")) for name in ladder_networks()]))
    console.print(ladder_table(rungs))
    broken = [rung for rung in rungs if not rung.holds]
    console.print(f"{len(rungs) - len(broken)} of {len(rungs)} hold: analytic <= event, event within 5% of cycle")
    return not broken


def _claims(console: Console) -> bool:
    """Print the claims of the zoo's papers. No bound is stated for them: they are findings."""
    from codesign.study.claims import claim_tables, missing, simulated_claims

    for table in claim_tables(list(simulated_claims())):
        console.print(table)
    for reason in missing():
        console.print(f"skipped: {reason}", style="dim", soft_wrap=True)
    return True


def _onnx(console: Console) -> bool:
    """Run the standard's own cases. False when one fails without a reason on record, or passes in spite of one."""
    from codesign.onnx_backend.conformance import conformance, conformance_table

    with console.status("ONNX's backend cases") as status:
        outcomes = conformance(lambda done: status.update(f"ONNX's backend cases: {done:,}"))
    console.print(conformance_table(outcomes))
    for one in outcomes:
        if one.surprising:
            console.print(f"{one.case.name}: {one.failure or 'passes, although listed'}", style="red", soft_wrap=True)
    return not any(one.surprising for one in outcomes)


def _device_class(device_class: str, console: Console) -> bool:
    module = class_module(device_class, "validation")
    if module is None:
        console.print(f"{device_class}: nothing validated yet")
        return True
    rows: list[Comparison] = list(module.comparisons())
    bounds: list[Bound] = list(module.BOUNDS)
    groups: dict[str, list[Comparison]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    if unknown := [bound.group for bound in bounds if bound.group not in groups]:
        raise BadParameter(f"{device_class}: a bound is stated for '{unknown[0]}', of which there is no row")
    from rich.text import Text

    holds = True
    for group, members in groups.items():
        stated = [bound for bound in bounds if bound.group == group]
        console.print(_group(device_class, group, members))
        for source in sorted({row.source for row in members}):
            console.print(Text(f"  source: {source}", "dim"))
        for bound in stated:
            found = measure(bound.statistic, members)
            kept = bound.holds(found)
            holds = holds and kept
            sign = ">=" if bound.statistic in RANKS else "<="
            mark, style = ("holds", "green") if kept else ("BROKEN", "bold red")
            console.print(f"  bound: {bound.statistic} {found:.3g} {sign} {bound.limit:g}: {mark}", style=style)
            if not bound.reaches(found):
                console.print(f"  aim: {bound.statistic} {sign} {bound.aim:g}: missed", style="yellow")
    return holds


def _group(device_class: str, group: str, members: list[Comparison]) -> RenderableType:
    """The statistics of a group's rows, and the rows, the worst first."""
    from rich.console import Group
    from rich.text import Text

    from codesign.report.tables import add_names, add_numbers, heading, plain_table, shrinking

    mean, median, worst = (measure(statistic, members) for statistic in ("mean", "median", "worst_ratio"))
    part = f", worst {ROWS_SHOWN} shown" if len(members) > ROWS_SHOWN else ""
    title = heading(f"{device_class}: {group} ({len(members)} rows{part})")
    statistics = Text(f"mean error {mean:.1%}, median {median:.1%}, worst ratio {worst:.2f}")
    table = plain_table()
    add_names(table, "row")
    add_numbers(table, "predicted", "reference", "unit", "error")
    for row in sorted(members, key=lambda row: -row.ratio)[:ROWS_SHOWN]:
        figures = (f"{row.predicted:.4g}", f"{row.reference:.4g}", row.unit, f"{row.error:.1%}")
        table.add_row(shrinking(row.name), *figures, style="red" if row.ratio > 2 else None)
    return Group(title, statistics, table)
