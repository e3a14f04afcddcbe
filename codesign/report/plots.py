"""Figures of one report, the same in the HTML page and in notebooks. Each asks a question in its title."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from codesign.report import units
from codesign.report.figure import (
    ALARM,
    BOUND_COLOURS,
    GRID,
    INK,
    OTHERS,
    OTHERS_COLOUR,
    PALETTE,
    add_bars,
    bytes_axis,
    colours,
    escape,
    fit_margins,
    log_axis,
    new_figure,
    rows_height,
    short,
    si_axis,
)
from codesign.report.layers import layers
from codesign.report.report import Report, Roof
from codesign.report.schema import OpRecord, ReportDocument
from codesign.report.timeline import Span, on_lanes, spans
from codesign.report.verdict import time_by, time_shares

MAX_LANES = 8
"""Rows a resource takes in the timeline: further overlapping tasks are drawn over the last."""
_COLOURED_KINDS = 8
_MOST_LABELS = 20  # under a row of bars, so that they stay apart in a narrow window


def roofline(report: Report) -> go.Figure:
    """Each operation with MACs: operations a byte against operations a second, under the device's roofs if known.

    A multiply-accumulate is two operations. The area of a marker is the operation's share of the time.
    """
    document = report.document
    points = [
        _Point(op, share, 2 * op.macs / op.bytes, 2 * op.macs / op.latency_s)
        for op, share in zip(document.ops, time_shares(document), strict=True)
        if op.macs and op.bytes and op.latency_s
    ]
    figure = new_figure("How far is each operation from the device's limits?", _roofline_answer(points, report), 480)
    intensities, rates = [point.intensity for point in points], [point.rate for point in points]
    if report.roof:
        ridge = report.roof.peak_flops / report.roof.dram_bandwidth
        intensities += [ridge / 10, ridge * 10]
        rates += [report.roof.peak_flops / 10, report.roof.peak_flops]
        _add_roofs(figure, report.roof, min(intensities) / 2, max(intensities) * 2)
    figure.update_xaxes(log_axis("arithmetic intensity (OP/B)", intensities, "~g"))
    figure.update_yaxes(log_axis("achieved rate (OP/s)", rates, "~s"))
    largest = max((point.share for point in points), default=1.0)
    by_bound = colours((point.op.bound for point in points), BOUND_COLOURS)
    for bound in dict.fromkeys(point.op.bound for point in points):
        mine = [point for point in points if point.op.bound == bound]
        figure.add_scatter(
            x=[point.intensity for point in mine],
            y=[point.rate for point in mine],
            mode="markers",
            name=escape(f"{bound}-bound"),
            showlegend=True,
            marker={
                "color": by_bound[bound],
                "size": [6 + 20 * (point.share / largest) ** 0.5 for point in mine],
                "sizemode": "diameter",
                "opacity": 0.6,
                "line": {"width": 1, "color": "white"},
            },
            hovertext=[_op_hover(point.op, point.share) for point in mine],
            hoverinfo="text",
        )
    return fit_margins(figure)


class _Point(NamedTuple):
    """An operation in the roofline: its share of the time, operations a byte, operations a second."""

    op: OpRecord
    share: float
    intensity: float
    rate: float


def _roofline_answer(points: Sequence[_Point], report: Report) -> str:
    if not points:
        return "No operation multiplies and accumulates."
    rate = 2 * sum(point.op.macs for point in points) / sum(point.op.latency_s for point in points)
    together = f"{len(points)} operations with MACs run at {units.rate(rate, 'OP')} together"
    if not report.roof:
        return f"{together}; the device states no roofs."
    slope = report.roof.dram_bandwidth
    above = sum(point.rate > 1.01 * point.intensity * slope for point in points)
    on_chip = f" {above} lie above the slope: their operands are on chip." if above else ""
    return f"{together}, {units.percent(rate / report.roof.peak_flops)} of the peak.{on_chip}"


def _add_roofs(figure: go.Figure, roof: Roof, low: float, high: float) -> None:
    ridge = roof.peak_flops / roof.dram_bandwidth
    figure.add_scatter(
        x=[low, ridge, high],
        y=[low * roof.dram_bandwidth, roof.peak_flops, roof.peak_flops],
        mode="lines",
        line={"color": INK, "width": 2},
        name=f"{units.bandwidth(roof.dram_bandwidth)}, {units.rate(roof.peak_flops, 'OP')}, ridge at {ridge:.3g} OP/B",
        showlegend=True,
        hoverinfo="skip",
    )


def time_by_kind(report: Report, top: int = 12) -> go.Figure:
    """Seconds by operator kind, split by what bounds them; kinds beyond `top` summed as the rest."""
    document = report.document
    by_kind = {kind: time for kind, time in time_by(document, lambda op: op.op).items() if time > 0}
    rows = list(by_kind)[:top] + ([OTHERS] if len(by_kind) > top else [])
    bounds = {bound: time for bound, time in time_by(document, lambda op: op.bound).items() if time > 0}
    by_bound = colours(bounds, BOUND_COLOURS)
    total = sum(by_kind.values()) or 1.0
    figure = new_figure(
        "Which operators take the time?", _leading(by_kind), 150 + rows_height(len(rows)), barmode="stack"
    )
    for bound in bounds:
        sums = dict.fromkeys(rows, 0.0)
        for op in document.ops:
            if op.bound == bound and op.latency_s:
                sums[op.op if op.op in sums else OTHERS] += op.latency_s
        figure.add_bar(
            x=list(sums.values()), y=[escape(row) for row in rows], orientation="h", name=escape(f"{bound}-bound"),
            marker={"color": by_bound[bound]}, showlegend=True,
            hovertext=[escape(f"{row}: {units.seconds(time)} ({units.percent(time / total)}), {bound}-bound")
                       for row, time in sums.items()],
            hoverinfo="text",
        )  # fmt: skip
    figure.update_xaxes(si_axis("time", "s"))
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    return fit_margins(figure)


def time_by_layer(report: Report) -> go.Figure:
    """Seconds by part of the network, in order of execution, split by operator kind."""
    document = report.document
    timed = [op for op in document.ops if op.latency_s]
    of_op = layers([op.name for op in timed])
    parts = list(dict.fromkeys(of_op))
    place = {part: position for position, part in enumerate(parts)}
    totals = dict.fromkeys(parts, 0.0)
    by_kind: dict[str, list[float]] = {kind: [0.0] * len(parts) for kind in _kind_colours(document)}
    for op, part in zip(timed, of_op, strict=True):
        totals[part] += op.latency_s
        by_kind[op.op if op.op in by_kind else OTHERS][place[part]] += op.latency_s
    ranked = dict(sorted(totals.items(), key=lambda item: -item[1]))
    figure = new_figure("Where in the network is the time spent?", _leading(ranked), 420, barmode="stack")
    for kind, times in by_kind.items():
        if any(times):
            figure.add_bar(
                x=list(range(len(parts))), y=times, name=escape(kind), showlegend=True,
                marker={"color": _kind_colours(document)[kind]},
                hovertext=[f"<b>{escape(part)}</b><br>{escape(kind)}: {units.seconds(time)} of "
                           f"{units.seconds(totals[part])}" for part, time in zip(parts, times, strict=True)],
                hoverinfo="text",
            )  # fmt: skip
    every = -(-len(parts) // _MOST_LABELS) or 1
    labels = [escape(short(part, 24)) for part in parts[::every]]
    figure.update_xaxes(
        tickvals=list(range(0, len(parts), every)),
        ticktext=labels,
        showgrid=False,
        tickangle=-60 if len(parts) > 8 else None,
    )
    figure.update_yaxes(si_axis("time", "s"))
    return fit_margins(figure)


def energy_by_component(report: Report) -> go.Figure:
    """Joules by component of the device, static energy among them."""
    document = report.document
    rows = {name: joules for name, joules in sorted(document.energy.items(), key=lambda item: -item[1]) if joules > 0}
    shares = [units.percent(joules / document.energy_J) for joules in rows.values()]
    answer = _leading(rows, f"of {units.joules(document.energy_J)}")
    figure = new_figure("Where does the energy go?", answer, 120 + rows_height(len(rows)))
    hover = [escape(f"{name}: {units.joules(joules)}") for name, joules in rows.items()]
    add_bars(figure, rows, hover, shares, PALETTE[2])
    figure.update_xaxes(si_axis("energy", "J"))
    return fit_margins(figure)


def utilisation(report: Report) -> go.Figure:
    """The busy fraction of each resource."""
    records = report.document.resources
    rows = {name: record.utilisation for name, record in records.items()}
    busiest = max(rows, key=lambda name: rows[name], default="")
    answer = f"{busiest} is, at {units.percent(rows[busiest])} of the run." if busiest else "There is none."
    figure = new_figure("Which resource is the busiest?", answer, 120 + rows_height(len(rows)))
    hover = [
        escape(f"{name}: busy {units.seconds(record.busy_s)}, {units.joules(record.energy_J)}")
        for name, record in records.items()
    ]
    shown = {short(name, 26): value for name, value in rows.items()}
    add_bars(figure, shown, hover, [units.percent(value) for value in rows.values()], PALETTE[0])
    figure.update_xaxes(title={"text": "busy time (% of the latency)"}, tickformat=".0%", range=[0, 1.1])
    return fit_margins(figure)


def memory(report: Report) -> go.Figure:
    """Live activation bytes over time, and the main memory's capacity where it is near enough to be seen."""
    ops, live = report.document.ops, report.live_bytes
    peak = max(live, default=0)
    capacity = report.roof.capacity_bytes if report.roof else None
    drawn = capacity is not None and peak > 0.05 * capacity
    figure = new_figure("How much memory do activations need, and when?", _memory_answer(report, peak, capacity), 330)
    levels = [*live, live[-1]] if live else []
    figure.add_scatter(
        x=[op.start_s for op in ops[: len(live)]] + [report.latency_s] * bool(live), y=levels,
        mode="lines", name="live activations", fill="tozeroy", showlegend=drawn,
        line={"shape": "hv", "color": PALETTE[0], "width": 1.5}, fillcolor="rgba(47,111,222,0.18)",
        hovertext=[f"{escape(op.name)}: {units.bytes_(level)}" for op, level in zip(ops, live, strict=False)] + ["end"],
        hoverinfo="text",
    )  # fmt: skip
    if capacity is not None and drawn:
        figure.add_scatter(
            x=[0.0, report.latency_s], y=[capacity, capacity], mode="lines", hoverinfo="skip", showlegend=True,
            name=f"main memory: {units.bytes_(capacity)}", line={"color": ALARM, "dash": "dash", "width": 2},
        )  # fmt: skip
    figure.update_xaxes(si_axis("time", "s"), range=[0, report.latency_s])
    figure.update_yaxes(bytes_axis("memory", max(peak, capacity or 0) if drawn else peak))
    return fit_margins(figure)


def _memory_answer(report: Report, peak: int, capacity: int | None) -> str:
    if not report.live_bytes:
        return "The run kept no record of live activations."
    when = report.document.ops[report.live_bytes.index(peak)].name
    of = f", {units.percent(peak / capacity)} of the {units.bytes_(capacity)} of main memory" if capacity else ""
    return f"At most {units.bytes_(peak)}{of}, first while {short(when)} runs. Weights are not counted."


def timeline(report: Report, limit: int = 1200) -> go.Figure:
    """Tasks on their resources over time, coloured by operator kind, at most `limit` bars (tasks merged).

    Drag to zoom into time and resources, double-click to see all again; the menu shows one resource alone.
    """
    document = report.document
    placed = on_lanes(spans(report, limit))
    order = {name: position for position, name in enumerate(document.resources)}
    lanes = sorted({(order.get(span.resource, len(order)), *_row_key(span)) for span in placed})
    rows = {(resource, lane): row for row, (_, resource, lane) in enumerate(lanes)}
    tasks = sum(span.tasks for span in placed)
    merged = f", merged to {len(placed)} bars" if tasks > len(placed) else ""
    answer = f"{tasks} tasks{merged}. Drag to zoom, double-click to see all again."
    height = 170 + max(26 * len(lanes), 120)
    figure = new_figure("What runs when, and where are the gaps?", answer, height, barmode="overlay", bargap=0.12)
    by_kind = _kind_colours(document)
    groups: dict[str, list[Span]] = defaultdict(list)
    for span in placed:
        kind = document.ops[span.op].op if span.op >= 0 else OTHERS
        groups[kind if kind in by_kind else OTHERS].append(span)
    for kind in [kind for kind in by_kind if kind in groups]:
        figure.add_bar(
            base=[span.start_s for span in groups[kind]],
            x=[span.end_s - span.start_s for span in groups[kind]],
            y=[rows[_row_key(span)] for span in groups[kind]],
            orientation="h",
            name=escape(kind),
            showlegend=True,
            marker={"color": by_kind[kind], "line": {"width": 0}},
            hovertext=[_span_hover(span, document) for span in groups[kind]],
            hoverinfo="text",
        )
    figure.update_xaxes(si_axis("time", "s"), range=[0, report.latency_s])
    labels = [escape(short(resource, 24)) if lane == 0 else "" for _, resource, lane in lanes]
    whole = [len(lanes) - 0.5, -0.5]
    figure.update_yaxes(tickvals=list(rows.values()), ticktext=labels, range=whole, showgrid=False)
    for row, (_, _, lane) in enumerate(lanes):
        if lane == 0 and row:  # a line between resources
            figure.add_hline(y=row - 0.5, line={"color": GRID, "width": 1})
    fit_margins(figure)
    _add_resource_menu(figure, list(rows), whole)
    return figure


def _row_key(span: Span) -> tuple[str, int]:
    return span.resource, min(span.lane, MAX_LANES - 1)


def _add_resource_menu(figure: go.Figure, rows: Sequence[tuple[str, int]], whole: list[float]) -> None:
    """A menu that zooms the lanes to those of one resource."""
    own: dict[str, list[int]] = defaultdict(list)
    for row, (resource, _) in enumerate(rows):
        own[resource].append(row)
    ranges = {"all resources": whole} | {name: [found[-1] + 0.5, found[0] - 0.5] for name, found in own.items()}
    buttons = [
        {"label": escape(short(name, 24)), "method": "relayout", "args": [{"yaxis.range": lanes}]}
        for name, lanes in ranges.items()
    ]
    menu = {"buttons": buttons, "x": 1.0, "xanchor": "right", "y": 0.0, "yanchor": "top", "pad": {"t": 46}}
    figure.update_layout(updatemenus=[menu], margin={"b": 88})


def _span_hover(span: Span, document: ReportDocument) -> str:
    operation = f" of {escape(short(document.ops[span.op].name, 60))}" if span.op >= 0 else ""
    return (
        f"<b>{escape(span.label)}</b>{operation}<br>"
        f"{units.seconds(span.start_s)} to {units.seconds(span.end_s)}, busy {units.seconds(span.busy_s)}<br>"
        f"{span.tasks} tasks, {span.firings} firings, {units.joules(span.energy_J)}"
    )


def _op_hover(op: OpRecord, share: float) -> str:
    nodes = ", ".join(op.onnx_nodes[:3]) + (f" and {len(op.onnx_nodes) - 3} more" if len(op.onnx_nodes) > 3 else "")
    return (
        f"<b>{escape(op.name)}</b><br>{escape(op.op)}, {escape(op.bound)}-bound on {escape(op.resource)}<br>"
        f"{units.seconds(op.latency_s)} ({units.percent(share)}), {units.joules(op.energy_J)}<br>"
        f"{units.count(op.macs, 'MAC')}, {units.bytes_(op.bytes)}<br>ONNX: {escape(nodes)}"
    )


def _kind_colours(document: ReportDocument) -> dict[str, str]:
    """The same colour for a kind in every figure: the kinds that take the most time, and one grey for the others."""
    return colours(list(time_by(document, lambda op: op.op))[:_COLOURED_KINDS]) | {OTHERS: OTHERS_COLOUR}


def _leading(rows: dict[str, float], of: str = "of the time", top: int = 3) -> str:
    """The first few of `rows`, largest first, with their shares, as a sentence."""
    total = sum(rows.values())
    if not total:
        return "Nothing takes any."
    parts = [f"{short(name, 30)} {units.percent(value / total)}" for name, value in list(rows.items())[:top]]
    return f"{', '.join(parts)} {of}."


FIGURES: dict[str, Callable[[Report], go.Figure]] = {
    "roofline": roofline,
    "time_by_kind": time_by_kind,
    "time_by_layer": time_by_layer,
    "timeline": timeline,
    "energy_by_component": energy_by_component,
    "utilisation": utilisation,
    "memory": memory,
}
"""Every figure of a report, in the order in which a reader asks."""
