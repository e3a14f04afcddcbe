"""The report as one self-contained page: plotly.js is inlined once, and nothing is fetched from anywhere.

Names of models, operations and devices are foreign text: all are escaped, and the page's policy forbids network access.
"""

from __future__ import annotations

from html import escape
from importlib.metadata import version
from string import Template
from typing import TYPE_CHECKING

from codesign.report import page, units
from codesign.report.figure import without_title
from codesign.report.plots import FIGURES
from codesign.report.report import Report
from codesign.report.schema import OpRecord, ReportDocument
from codesign.report.verdict import key_figures, time_shares, verdict

if TYPE_CHECKING:
    import plotly.graph_objects as go

MAX_ROWS = 500
"""Operations in the page's table: the slowest, when there are more."""
_HALF_WIDTH = ("roofline", "time_by_kind", "energy_by_component", "utilisation")
_CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
}

_COLUMNS = (
    ("#", "place in the order of execution"),
    ("operation", "name; its ONNX nodes under the pointer"),
    ("kind", "operator"),
    ("time", "from its start to its last task's end"),
    ("share", "of the sum of all operations' times"),
    ("energy", "of its tasks, static energy not included"),
    ("MACs", "multiply-accumulates"),
    ("bytes", "operands read and written, each once"),
    ("OP/B", "two operations for each MAC, per byte"),
    ("bound", "what limits it"),
    ("resource", "kept busy longest"),
)


def render(report: Report) -> str:
    """The page as text: verdict, key warnings, figures, operations. About 5 MB, most of it plotly.js."""
    document = report.document
    return Template(page.PAGE).substitute(
        title=escape(f"{document.model} on {document.device}"),
        style=page.STYLE,
        script=page.SCRIPT,
        model=escape(document.model),
        device=escape(document.device),
        run=escape(f"{document.dtype} · batch {document.batch} · {document.fidelity}"),
        state="good" if document.fits else "bad",
        verdict=escape(verdict(document)),
        cards="".join(_card(label, value) for label, value in key_figures(document)),
        notes=_notes(document),
        figures=_figures(report),
        table=_table(document),
        about=escape(_about(document)),
    )


def figure_page(figure: go.Figure) -> str:
    """A figure of this package on a page of its own, as self-contained."""
    title = escape(figure.layout.meta["question"])
    return Template(page.FIGURE_PAGE).substitute(
        title=title, style=page.STYLE, figure=_section(figure, "figure", "whole", include_plotlyjs=True)
    )


def _card(label: str, value: str) -> str:
    return f'<div class="card"><span>{escape(label)}</span><b>{escape(value)}</b></div>'


def _notes(document: ReportDocument) -> str:
    """Fit, levers, error band and warnings, each a list only when it has something to say."""
    lists = (
        ("Does it fit?", "good", [document.why] if document.fits and document.why else []),  # else the verdict says why
        ("What would help it fit", "lever", document.levers),
        ("How sure is it?", "", [_certainty(document)]),
        ("What to know", "warning", document.warnings),
    )
    return "".join(
        f'<div class="note {state}"><h3>{escape(heading)}</h3><ul>'
        + "".join(f"<li>{escape(line)}</li>" for line in lines)
        + "</ul></div>"
        for heading, state, lines in lists
        if lines
    )


def _certainty(document: ReportDocument) -> str:
    if document.error_band is None:
        return "This device has not been held against measured or published figures: take the result as a model's."
    return f"Mean relative error on this device class's validation data: ± {units.percent(document.error_band)}."


def _figures(report: Report) -> str:
    widths = {name: "half" if name in _HALF_WIDTH else "whole" for name in FIGURES}
    return "\n".join(
        _section(draw(report), name, widths[name], include_plotlyjs=position == 0)
        for position, (name, draw) in enumerate(FIGURES.items())
    )


def _section(figure: go.Figure, name: str, width: str, include_plotlyjs: bool) -> str:
    """The figure under its question and answer, which wrap where plotly's own title would be cut."""
    plot = without_title(figure).to_html(
        full_html=False, include_plotlyjs=include_plotlyjs, div_id=name, config=_CONFIG, default_width="100%"
    )
    question, answer = (escape(figure.layout.meta[part]) for part in ("question", "answer"))
    return f'<section class="{width}"><h2>{question}</h2><p>{answer}</p>{plot}</section>'


def _table(document: ReportDocument) -> str:
    shares = time_shares(document)
    slowest = sorted(range(len(shares)), key=lambda index: (-shares[index], index))[:MAX_ROWS]
    left_out = len(shares) - len(slowest)
    caption = (
        f"The {len(slowest)} slowest; {left_out} more are in the JSON." if left_out else "Click a heading to sort."
    )
    head = "".join(f'<th title="{escape(meaning)}">{escape(name)}</th>' for name, meaning in _COLUMNS)
    longest = max(shares, default=0.0) or 1.0
    rows = "".join(_row(index, document.ops[index], shares[index], longest) for index in slowest)
    return (
        f'<p>{escape(caption)} <input id="filter" type="search" placeholder="filter by name, kind, bound"></p>'
        f'<div class="scroll"><table id="ops"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _row(index: int, op: OpRecord, share: float, longest: float) -> str:
    intensity = 2 * op.macs / op.bytes if op.bytes else 0.0
    numbers = (
        (op.latency_s, units.seconds(op.latency_s)),
        (share, f'<i style="width:{50 * share / longest:.0f}px"></i>{units.percent(share)}'),
        (op.energy_J, units.joules(op.energy_J)),
        (op.macs, units.count(op.macs) if op.macs else "-"),
        (op.bytes, units.bytes_(op.bytes) if op.bytes else "-"),
        (intensity, f"{intensity:.3g}" if intensity else "-"),
    )
    cells = "".join(f'<td data-v="{value:.6g}">{text}</td>' for value, text in numbers)
    return (
        f'<tr><td data-v="{index}">{index + 1}</td>'
        f'<td title="{escape(", ".join(op.onnx_nodes))}">{escape(op.name)}</td><td>{escape(op.op)}</td>{cells}'
        f"<td>{escape(op.bound)}</td><td>{escape(op.resource)}</td></tr>"
    )


def _about(document: ReportDocument) -> str:
    return (
        f"Simulated with codesign {version('codesign')}, fidelity {document.fidelity}: "
        f"{len(document.ops)} operations of {document.model} on {document.device} in {document.dtype}, "
        f"batch {document.batch}. Result schema {document.schema_version}."
    )
