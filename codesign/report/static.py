"""Figures in notebooks, twice in one output: interactive where plotly runs, a PNG where it does not (GitHub, print).

Plotly itself draws images only with a browser at hand. The PNG is therefore drawn again by matplotlib from the
figure's own data: bars, lines, areas and markers on linear, logarithmic and category axes, which is all that this
package's figures use.
"""

from __future__ import annotations

import io
import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from html import unescape
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.errors import BadParameter

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_PIXELS_PER_INCH = 100
_SHARPNESS = 1.5  # pixels of the image for each pixel on the page, for dense screens
_POINTS_PER_PIXEL = 72 / _PIXELS_PER_INCH
_DRAWN = ("bar", "scatter")
_PLOTLY_MIME = "application/vnd.plotly.v1+json"
_STYLE: Any = {
    "font.size": 9, "axes.edgecolor": "#c5ccd6", "axes.grid": True, "grid.color": "#e4e8ee", "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "text.color": "#1f2933", "axes.labelcolor": "#1f2933",
}  # fmt: skip
_DASHES = {None: "-", "solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


def show(figure: go.Figure, width: int = 900, height: int | None = None) -> None:
    """Display `figure` in a notebook, `width` by `height` pixels (its own height by default)."""
    from IPython.display import display

    sized = type(figure)(figure).update_layout(width=width, height=height or figure.layout.height)
    png = b64encode(to_png(figure, width, height)).decode("ascii")
    display({_PLOTLY_MIME: json.loads(sized.to_json()), "image/png": png}, raw=True)


def to_png(figure: go.Figure, width: int = 900, height: int | None = None) -> bytes:
    """The figure as a PNG of `width` by `height` page pixels.

    Raises BadParameter for kinds of trace that this module cannot draw, and when matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BadParameter("static figures need matplotlib: install codesign[notebooks]") from error
    size = width / _PIXELS_PER_INCH, (height or figure.layout.height or 450) / _PIXELS_PER_INCH
    with rc_context(_STYLE):
        canvas = Figure(figsize=size, layout="constrained")
        axes = canvas.add_subplot()
        _draw(figure, axes, canvas)
        file = io.BytesIO()
        # No metadata, so that the same figure is the same file.
        canvas.savefig(file, format="png", dpi=_PIXELS_PER_INCH * _SHARPNESS, metadata={"Software": None})
    return file.getvalue()


def _draw(figure: go.Figure, axes: Axes, canvas: Figure) -> None:
    for trace in figure.data:
        if trace.type not in _DRAWN:
            raise BadParameter(f"a static figure cannot show a '{trace.type}' trace, only {', '.join(_DRAWN)}")
    places = {"x": _categories(figure, "x"), "y": _categories(figure, "y")}
    stacked = _Stack(figure.layout.barmode == "stack")
    for trace in figure.data:
        if trace.type == "bar":
            _bars(trace, axes, places, stacked, figure.layout.bargap)
        else:
            _scatter(trace, axes, canvas)
    for line in figure.layout.shapes:
        axes.plot(
            [0, 1], [line.y0, line.y1], transform=axes.get_yaxis_transform(), color=line.line.color, linewidth=0.8
        )
    _axis(axes.xaxis, figure.layout.xaxis, places["x"], axes.set_xscale, axes.set_xlim)
    _axis(axes.yaxis, figure.layout.yaxis, places["y"], axes.set_yscale, axes.set_ylim)
    _legend(figure, axes, canvas)
    title = [_text(line) for line in (figure.layout.title.text or "").split("<br>")]
    canvas.suptitle(title[0], x=0.01, ha="left", fontsize=12, fontweight="bold")
    if len(title) > 1:
        axes.set_title(title[1], loc="left", fontsize=9, wrap=True)


class _Stack:
    """Where the next bar at a place starts, when bars are stacked."""

    def __init__(self, on: bool) -> None:
        self._on = on
        self._ends: dict[float, float] = {}

    def starts(self, places: Sequence[float], lengths: Sequence[float]) -> list[float]:
        starts = [self._ends.get(place, 0.0) for place in places]
        if self._on:
            self._ends |= {place: start + length for place, start, length in zip(places, starts, lengths, strict=True)}
        return starts


def _bars(trace: Any, axes: Axes, places: dict[str, dict[str, int]], stack: _Stack, gap: float | None) -> None:
    across = trace.orientation == "h"
    along, at = (trace.x, trace.y) if across else (trace.y, trace.x)
    own = places["y" if across else "x"]
    position = [own.get(str(value), value) if own else value for value in at]
    lengths = [float(value) for value in along]
    starts = list(trace.base) if trace.base is not None else stack.starts(position, lengths)
    thickness = 1 - (gap if gap is not None else 0.2)
    options: dict[str, Any] = {"color": trace.marker.color, "label": _text(trace.name or ""), "linewidth": 0}
    draw: Callable[..., Any] = axes.barh if across else axes.bar
    bars = draw(position, lengths, thickness, starts, **options)
    if trace.text is not None and trace.textposition == "outside":
        axes.bar_label(bars, [_text(text) for text in trace.text], padding=3, fontsize=8)


def _scatter(trace: Any, axes: Axes, canvas: Figure) -> None:
    x, y = list(trace.x), list(trace.y)
    mode, label = trace.mode or "lines", _text(trace.name or "")
    steps = {"hv": "steps-post", "vh": "steps-pre"}.get(trace.line.shape, "default")
    if "lines" in mode:
        pixels = trace.line.width if trace.line.width is not None else 2
        axes.plot(
            x, y, color=trace.line.color, linewidth=pixels, linestyle=_DASHES[trace.line.dash], drawstyle=steps,
            label=label if "markers" not in mode else None,
        )  # fmt: skip
    if trace.fill == "tozeroy":
        fill: dict[str, Any] = {"step": "post"} if trace.line.shape == "hv" else {}
        axes.fill_between(x, y, color=trace.line.color, alpha=0.18, linewidth=0, **fill)
    if "markers" in mode:
        _markers(trace, x, y, label, axes, canvas)


def _markers(trace: Any, x: list[Any], y: list[Any], label: str, axes: Axes, canvas: Figure) -> None:
    marker = trace.marker
    size = np.asarray(marker.size if marker.size is not None else 6, dtype=float) * _POINTS_PER_PIXEL
    colour = list(marker.color) if isinstance(marker.color, tuple | np.ndarray) else _colour(marker.color)
    hollow = (marker.symbol or "").endswith("-open")
    face: dict[str, Any] = {"facecolors": "none", "edgecolors": colour} if hollow else {"c": colour, "cmap": "viridis"}
    if isinstance(colour, str) and not hollow:
        face = {"color": colour, "edgecolors": "white"}
    opacity = marker.opacity if marker.opacity is not None else 1.0
    points = axes.scatter(x, y, s=size**2, label=label, alpha=opacity, zorder=3, **face)
    if marker.showscale:
        canvas.colorbar(points, ax=axes, label=_text(marker.colorbar.title.text or ""))


def _colour(colour: str | None) -> Any:
    """A CSS `rgb(...)` as matplotlib takes it; other names as they are."""
    found = re.fullmatch(r"rgb\((\d+), *(\d+), *(\d+)\)", colour or "")
    return "#{:02x}{:02x}{:02x}".format(*map(int, found.groups())) if found else colour or "#2f6fde"


def _categories(figure: go.Figure, which: str) -> dict[str, int]:
    """The place of each category on an axis that has them, in order of appearance."""
    axis = figure.layout[f"{which}axis"]
    values: list[Any] = [value for trace in figure.data for value in (trace[which] if trace[which] is not None else ())]
    if axis.type != "category" and not any(isinstance(value, str) for value in values):
        return {}
    return {name: place for place, name in enumerate(dict.fromkeys(map(str, values)))}


def _axis(
    axis: Axis, layout: Any, categories: dict[str, int], set_scale: Callable[..., Any], set_limits: Callable[..., Any]
) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    logarithmic = layout.type == "log"
    axis.set_label_text(_text(layout.title.text or ""))
    if logarithmic:
        set_scale("log")
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if layout.dtick == "D2" else (1.0,)))
        axis.set_minor_locator(NullLocator())
    if categories:
        axis.set_ticks(list(categories.values()), [_text(name) for name in categories])
    elif layout.tickvals is not None:
        labels = layout.ticktext if layout.ticktext is not None else layout.tickvals
        turned: dict[str, Any] = {"rotation": -layout.tickangle, "ha": "right"} if layout.tickangle else {}
        axis.set_ticks(list(layout.tickvals), [_text(str(label)) for label in labels], **turned)
    else:
        _format_ticks(axis, layout.tickformat or "", layout.ticksuffix or "")
    if layout.showgrid is False:
        axis.grid(False)
    if layout.range is not None:
        set_limits(*(10**end if logarithmic else end for end in layout.range))
    elif layout.autorange == "reversed":
        axis.set_inverted(True)
    elif layout.rangemode == "tozero":
        set_limits(0)


def _format_ticks(axis: Axis, tickformat: str, suffix: str) -> None:
    """Ticks as plotly's number format, of which figures use prefixes (`s`), plain digits (`g`) and percent (`%`)."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, PercentFormatter

    if tickformat.endswith("%"):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    elif tickformat.endswith("s"):
        axis.set_major_formatter(EngFormatter(suffix, sep=" " if suffix else ""))
    elif tickformat.endswith("g"):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _legend(figure: go.Figure, axes: Axes, canvas: Figure) -> None:
    named = {_text(trace.name or "") for trace in figure.data if trace.showlegend is not False and trace.name}
    handles, labels = axes.get_legend_handles_labels()
    shown = [(handle, label) for handle, label in zip(handles, labels, strict=True) if label in named]
    if len(shown) > 1:
        canvas.legend(
            [handle for handle, _ in shown], [label for _, label in shown], loc="outside lower left",
            ncols=_columns(labels, canvas.get_figwidth()), frameon=False, fontsize=8, markerscale=0.7,
        )  # fmt: skip


def _columns(labels: Iterable[str], inches: float) -> int:
    """How many legend entries fit side by side: about 0.07 inch a character and 0.5 for the key."""
    widest = max(map(len, labels), default=1)
    return max(1, int(inches / (0.5 + 0.07 * widest)))


def _text(text: str) -> str:
    """Plotly's text without its tags; dollar signs would start a formula."""
    return unescape(re.sub(r"<[^<>]*>", "", text)).replace("$", r"\$")
