"""The report in a terminal: verdict, totals, slowest operations, resources, in at most 120 columns."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from codesign.report import units
from codesign.report.schema import ReportDocument
from codesign.report.tables import add_names, add_numbers, add_words, heading, plain_table, shrinking
from codesign.report.verdict import key_figures, time_shares, verdict

WIDTH = 120
_BAR_CELLS = 8


def summary(document: ReportDocument, top: int = 10) -> RenderableType:
    """Everything, narrowest first: fits 80 columns, uses up to 120."""
    style = "green" if document.fits else "red"
    title = f"{document.model} on {document.device} · {document.dtype} · batch {document.batch} · {document.fidelity}"
    parts: list[RenderableType] = [
        Panel(Text(verdict(document)), title=escape(title), title_align="left", border_style=style, width=WIDTH),
        _totals(document),
        Text(""),
        *_slowest(document, top),
        Text(""),
        heading("Resources"),
        _resources(document),
    ]
    if document.levers or document.warnings:
        parts.append(Text(""))
    parts += [Text(f"lever: {lever}", style="cyan") for lever in document.levers]
    parts += [Text(f"warning: {warning}", style="yellow") for warning in document.warnings]
    return Group(*parts)


def _totals(document: ReportDocument) -> Table:
    """Three pairs of label and value a row."""
    table = Table.grid(padding=(0, 2))
    figures = key_figures(document)
    for start in range(0, len(figures), 3):
        cells = [
            cell
            for label, value in figures[start : start + 3]
            for cell in (Text(label, "dim"), Text(value, no_wrap=True))
        ]
        table.add_row(*cells)
    return table


def _slowest(document: ReportDocument, top: int) -> tuple[Text, Table]:
    shares = time_shares(document)
    ranked = sorted(range(len(shares)), key=lambda index: (-shares[index], index))[:top]
    covered = sum(shares[index] for index in ranked)
    table = plain_table()
    add_names(table, "operation")
    add_words(table, "kind")
    add_numbers(table, "time", "share")
    table.add_column("", no_wrap=True, min_width=_BAR_CELLS)
    add_numbers(table, "energy")
    add_words(table, "bound")
    longest = max((shares[index] for index in ranked), default=0.0)
    for index in ranked:
        op = document.ops[index]
        bar = "█" * round(_BAR_CELLS * shares[index] / longest) if longest else ""
        table.add_row(
            shrinking(op.name), Text(op.op), units.seconds(op.latency_s), units.percent(shares[index]),
            Text(bar, "blue"), units.joules(op.energy_J), Text(op.bound),
        )  # fmt: skip
    title = f"Slowest {len(ranked)} of {len(shares)} operations: {units.percent(covered)} of the time"
    return heading(title), table


def _resources(document: ReportDocument) -> Table:
    table = plain_table()
    add_names(table, "resource", 34)
    add_numbers(table, "busy", "utilisation")
    table.add_column("", no_wrap=True, min_width=20)
    add_numbers(table, "energy")
    for name, record in document.resources.items():
        bar = Text("█" * round(20 * min(record.utilisation, 1.0)), "blue")
        table.add_row(
            shrinking(name), units.seconds(record.busy_s), units.percent(record.utilisation), bar,
            units.joules(record.energy_J),
        )  # fmt: skip
    return table
