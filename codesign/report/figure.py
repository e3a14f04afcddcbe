"""What all figures share: colours, fonts, axes in SI with prefixes on the ticks, and a question as title."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape as escape_html
from typing import Any

import plotly.graph_objects as go

from codesign.report import units

PALETTE = (
    "#2f6fde", "#e07b2a", "#2a9d74", "#b8496f", "#7b61c4", "#c9a227", "#3aa6b9", "#8c6d57", "#5a6b7d", "#a3b83c",
)  # fmt: skip
BOUND_COLOURS = {
    "compute": "#2f6fde", "memory": "#e07b2a", "latency": "#7b61c4", "overhead": "#5a6b7d", "free": "#c5ccd6",
}  # fmt: skip
OTHERS = "all others"
OTHERS_COLOUR = "#c5ccd6"
INK, GRID, ALARM = "#1f2933", "#e4e8ee", "#c0392b"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"

_TITLE_PX, _BUTTONS_PX, _LEGEND_LINE_PX, _CHARACTER_PX, _LEGEND_KEY_PX = 58, 30, 22, 7.5, 44
_USUAL_WIDTH_PX = 800  # of a notebook's output


def colours(names: Iterable[str], known: Mapping[str, str] | None = None) -> dict[str, str]:
    """A colour for each name, in order of first appearance; `known` names keep theirs."""
    known = known or {}
    unused = [colour for colour in PALETTE if colour not in known.values()]
    unknown = [name for name in dict.fromkeys(names) if name not in known]
    return {**known, **{name: unused[position % len(unused)] for position, name in enumerate(unknown)}}


def escape(text: str) -> str:
    """Text that plotly shows as it is: it reads a few HTML tags in every label."""
    return escape_html(text, quote=False)


def short(name: str, length: int = 38) -> str:
    """A name cut in the middle: its ends say which layer and which operator."""
    head = length // 3
    return name if len(name) <= length else f"{name[:head]}…{name[len(name) - (length - head - 1) :]}"


def new_figure(question: str, answer: str, height: int, **layout: Any) -> go.Figure:
    """An empty figure that asks `question` and answers in a sentence: both are its title, and in `layout.meta`."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        title={"text": f"<b>{escape(question)}</b><br><sup>{escape(answer)}</sup>", "x": 0.01, "xanchor": "left",
               "y": 1.0, "yref": "container", "yanchor": "top", "pad": {"t": 12}, "font": {"size": 16}},
        meta={"question": question, "answer": answer},
        height=height,
        margin={"l": 60, "r": 24, "t": _TITLE_PX, "b": 48},
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0, "xanchor": "left", "traceorder": "normal"},
        hoverlabel={"align": "left"},
        bargap=0.25,
    )  # fmt: skip
    figure.update_layout(**layout)
    figure.update_xaxes(gridcolor=GRID, zeroline=False, automargin=True, title={"standoff": 8})
    figure.update_yaxes(gridcolor=GRID, zeroline=False, automargin=True, title={"standoff": 8}, ticklabelstandoff=6)
    return figure


def fit_margins(figure: go.Figure) -> go.Figure:
    """Make room above the plot for the title and as many lines as the legend takes at a notebook's width."""
    shown = [trace.name or "" for trace in figure.data if trace.showlegend is not False]
    lines = 0
    if len(shown) > 1 or any(trace.showlegend for trace in figure.data):
        width = sum(_LEGEND_KEY_PX + _CHARACTER_PX * len(name) for name in shown)
        lines = math.ceil(width / _USUAL_WIDTH_PX)
    figure.update_layout(margin={"t": _TITLE_PX + _LEGEND_LINE_PX * lines})
    return figure


def without_title(figure: go.Figure) -> go.Figure:
    """A copy for pages that write question and answer themselves, as text that wraps."""
    saved = _TITLE_PX - _BUTTONS_PX  # plotly's own buttons stay above the legend
    height, top = figure.layout.height - saved, figure.layout.margin.t - saved
    return go.Figure(figure).update_layout(title=None, margin={"t": top}, height=height)


def si_axis(title: str, unit: str) -> dict[str, Any]:
    """An axis whose ticks read like `20µs`."""
    return {"title": {"text": f"{title} ({unit})"}, "tickformat": "~s", "ticksuffix": unit}


def log_axis(title: str, values: Sequence[float], tickformat: str) -> dict[str, Any]:
    """A logarithmic axis that holds the positive `values` with room: a tick a decade, more where decades are few."""
    if not values:
        return {"title": {"text": title}, "type": "log", "tickformat": tickformat}
    low, high = math.log10(min(values)) - 0.35, math.log10(max(values)) + 0.35
    step = 1 if high - low > 2 else "D2"  # plotly's word for 1, 2 and 5 of each decade
    return {"title": {"text": title}, "type": "log", "range": [low, high], "dtick": step, "tickformat": tickformat}


def rows_height(rows: int) -> int:
    """Pixels for horizontal bars: thick while they are few, and never too thin for their names."""
    return rows * max(26, min(52, 310 // max(rows, 1)))


def bytes_axis(title: str, largest: float) -> dict[str, Any]:
    """An axis from 0 to `largest` bytes with ticks at powers of two, as capacities are."""
    step = 2.0 ** max(round(math.log2(largest / 5)), 0) if largest > 0 else 1.0
    ticks = [step * position for position in range(int(largest / step) + 2)]
    return {
        "title": {"text": f"{title} (bytes)"},
        "tickvals": ticks,
        "ticktext": [units.bytes_(tick) for tick in ticks],
        "rangemode": "tozero",
    }


def add_bars(figure: go.Figure, rows: Mapping[str, float], hover: list[str], text: list[str], colour: str) -> None:
    """One horizontal bar a row, the first on top, with `text` at its end."""
    figure.add_bar(
        x=list(rows.values()), y=[escape(name) for name in rows], orientation="h", marker={"color": colour},
        text=text, textposition="outside", cliponaxis=False, hovertext=hover, hoverinfo="text", showlegend=False,
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
