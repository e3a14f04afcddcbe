"""A sweep as a table and a figure: the points, and those that no other beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from codesign.report import units

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from rich.console import RenderableType

_COLUMNS = {"latency": "latency_s", "energy": "energy_J", "area": "area_mm2"}
_AXES = {"latency": ("latency", "s"), "energy": ("energy", "J"), "area": ("area", "mm²")}
_MOST_SERIES = 10
"""Values of a parameter that have a colour and a place in the legend each; more of them share a scale of colours."""
_LOGARITHMIC_FROM = 5.0  # ratio of the largest to the smallest value from which an axis is logarithmic
_RING_SIZE, _POINT_SIZE = 15, 9  # pixels

Row = Mapping[Any, Any]


def sweep_table(
    frame: pd.DataFrame, parameters: Sequence[str], objectives: Sequence[str], title: str
) -> RenderableType:  # fmt: skip
    """The Pareto front, from the smallest first objective on, with how many points there were in all."""
    from rich.console import Group

    from codesign.report.tables import add_numbers, heading, plain_table

    front = frame[frame["pareto"]].sort_values(_COLUMNS[objectives[0]])
    table = plain_table()
    add_numbers(table, *parameters, "latency", "energy", "area")
    for row in front.to_dict("records"):
        table.add_row(*(_value(row[name]) for name in parameters), *_results(row))
    return Group(heading(f"{title}: Pareto front in {', '.join(objectives)}, {_counts(frame)}"), table)


def sweep_figure(frame: pd.DataFrame, parameters: Sequence[str], objectives: Sequence[str], title: str) -> go.Figure:
    """Every point that fits in the first two objectives, the front ringed and, where it is a line, joined by one.

    The third objective, or else the last parameter, is the colour; a point's values are under the pointer.
    """
    from codesign.report.figure import ALARM, fit_margins, new_figure

    across, up = (*objectives, "energy" if objectives[0] != "energy" else "latency")[:2]
    fits = frame[frame["fits"].astype(bool)]
    front = fits[fits["pareto"]].sort_values(_COLUMNS[across])
    answer = f"{title}: {_counts(frame)}. {_best(front, parameters)}".strip()
    figure = new_figure(f"Which designs does no other beat in {' and '.join(objectives)}?", answer, 560)
    _add_points(figure, fits, parameters, objectives[2] if len(objectives) > 2 else None, (across, up))
    joined = len(objectives) < 3  # with three objectives the front is a surface, which no line follows
    figure.add_scatter(
        x=front[_COLUMNS[across]], y=front[_COLUMNS[up]], mode="lines+markers" if joined else "markers",
        name="Pareto front", line={"color": ALARM, "shape": "hv", "width": 1}, hoverinfo="skip", showlegend=True,
        marker={"size": _RING_SIZE, "symbol": "circle-open", "color": ALARM, "line": {"width": 2}},
    )  # fmt: skip
    figure.update_xaxes(_axis(across, fits))
    figure.update_yaxes(_axis(up, fits))
    return fit_margins(figure)


def _add_points(
    figure: go.Figure, fits: pd.DataFrame, parameters: Sequence[str], third: str | None, axes: tuple[str, str]
) -> None:  # fmt: skip
    """The points, a series for each value of the last parameter, or one series on a scale of colours."""
    from plotly.colors import sample_colorscale

    from codesign.report.figure import escape

    last = parameters[-1]
    values = sorted(fits[last].unique(), key=lambda value: (str(type(value)), value))
    across, up = axes
    if third is None and len(values) <= _MOST_SERIES:
        shades = sample_colorscale("Viridis", [0.9 * place / max(len(values) - 1, 1) for place in range(len(values))])
        series = [
            (f"{last} = {_value(value)}", fits[fits[last] == value], {"color": shade})
            for value, shade in zip(values, shades, strict=True)
        ]
    else:
        column, label = (_COLUMNS[third], " (".join(_AXES[third]) + ")") if third else (last, last)
        scale = {"color": _numeric(fits[column]), "colorscale": "Viridis", "showscale": True}
        series = [("points that fit", fits, {**scale, "colorbar": {"title": {"text": escape(label)}, "thickness": 14}})]
    for name, points, marker in series:
        figure.add_scatter(
            x=points[_COLUMNS[across]], y=points[_COLUMNS[up]], mode="markers", name=escape(name), showlegend=True,
            marker={"size": _POINT_SIZE, **marker}, hoverinfo="text",
            hovertext=[_hover(row, parameters) for row in points.to_dict("records")],
        )  # fmt: skip


def _axis(objective: str, fits: pd.DataFrame) -> dict[str, Any]:
    """Logarithmic when the values spread widely; linear, from where they are, when they don't."""
    from codesign.report.figure import log_axis, si_axis

    name, unit = _AXES[objective]
    values = fits[_COLUMNS[objective]].dropna().astype(float)
    known = values[values > 0].tolist()
    if known and max(known) / min(known) >= _LOGARITHMIC_FROM:
        return log_axis(f"{name} ({unit})", known, "~g" if objective == "area" else "~s")
    return {"title": {"text": f"{name} ({unit})"}} if objective == "area" else si_axis(name, unit)


def _numeric(column: pd.Series[Any]) -> Any:
    import pandas as pd

    return column if pd.api.types.is_numeric_dtype(column) else column.astype("category").cat.codes


def _counts(frame: pd.DataFrame) -> str:
    unfit = int((~frame["fits"].astype(bool)).sum())
    return f"{int(frame['pareto'].sum())} of {len(frame)} points" + (f", {unfit} do not fit" if unfit else "")


def _best(front: pd.DataFrame, parameters: Sequence[str]) -> str:
    """The fastest and the most frugal design, in words."""
    words = []
    for adjective, column in (("Fastest", "latency_s"), ("least energy", "energy_J")):
        known = front.dropna(subset=[column]).sort_values(column).to_dict("records")
        if known:
            values = ", ".join(f"{name} {_value(known[0][name])}" for name in parameters)
            words.append(f"{adjective} at {values}: {_results(known[0])[0 if column == 'latency_s' else 1]}")
    return "; ".join(words) + "." if words else ""


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def _results(row: Row) -> tuple[str, str, str]:
    area = row["area_mm2"]
    known = area is not None and area == area
    return units.seconds(row["latency_s"]), units.joules(row["energy_J"]), f"{area:.3g} mm²" if known else "-"


def _hover(row: Row, parameters: Sequence[str]) -> str:
    from codesign.report.figure import escape

    lines = [f"{name} = {_value(row[name])}" for name in parameters]
    return escape("\n".join([*lines, *_results(row)])).replace("\n", "<br>")
