"""The report in a terminal: verdict, totals, slowest operations, resources, in at most 100 columns."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from codesign.report import units
from codesign.report.schema import ReportDocument
from codesign.report.verdict import key_figures, time_shares, verdict

WIDTH = 100
_BAR_CELLS = 8


def summary(document: ReportDocument, top: int = 10) -> RenderableType:
    """Everything, narrowest first: fits 80 columns, uses up to 100."""
    style = "green" if document.fits else "red"
    title = f"{document.model} on {document.device} · {document.dtype} · batch {document.batch} · {document.fidelity}"
    parts: list[RenderableType] = [
        Panel(Text(verdict(document)), title=escape(title), title_align="left", border_style=style, width=WIDTH),
        _totals(document),
        _slowest(document, top),
        _resources(document),
    ]
    parts += [Text(f"lever: {lever}", style="cyan") for lever in document.levers]
    parts += [Text(f"warning: {warning}", style="yellow") for warning in document.warnings]
    return Group(*parts)


def _shrinking(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


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


def _slowest(document: ReportDocument, top: int) -> Table:
    shares = time_shares(document)
    ranked = sorted(range(len(shares)), key=lambda index: (-shares[index], index))[:top]
    covered = sum(shares[index] for index in ranked)
    title = f"\nSlowest {len(ranked)} of {len(shares)} operations: {units.percent(covered)} of the time"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False)
    table.add_column("operation", max_width=34)  # the one column that shrinks: the others must stay whole
    table.add_column("kind", overflow="ellipsis", no_wrap=True, max_width=14)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=_BAR_CELLS)
    table.add_column("energy", justify="right", no_wrap=True)
    table.add_column("bound", overflow="ellipsis", no_wrap=True, max_width=12)
    longest = max((shares[index] for index in ranked), default=0.0)
    for index in ranked:
        op = document.ops[index]
        bar = "█" * round(_BAR_CELLS * shares[index] / longest) if longest else ""
        table.add_row(
            _shrinking(op.name), Text(op.op), units.seconds(op.latency_s), units.percent(shares[index]),
            Text(bar, "blue"), units.joules(op.energy_J), Text(op.bound),
        )  # fmt: skip
    return table


def _resources(document: ReportDocument) -> Table:
    table = Table(
        title="\nResources", title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False
    )
    table.add_column("resource", max_width=34)
    table.add_column("busy", justify="right", no_wrap=True)
    table.add_column("utilisation", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=20)
    table.add_column("energy", justify="right", no_wrap=True)
    for name, record in document.resources.items():
        bar = Text("█" * round(20 * min(record.utilisation, 1.0)), "blue")
        table.add_row(
            _shrinking(name), units.seconds(record.busy_s), units.percent(record.utilisation), bar,
            units.joules(record.energy_J),
        )  # fmt: skip
    return table
