"""Static images of figures: what is drawn is what the figure says."""

from __future__ import annotations

import io
import json
from base64 import b64decode

import numpy as np
import plotly.graph_objects as go
import pytest

from codesign.errors import BadParameter
from codesign.report import plots
from codesign.report.report import Report
from codesign.report.static import show, to_png
from tests.test_report import synthetic_report

pytest.importorskip("matplotlib", reason="the notebooks extra draws static figures")


@pytest.fixture(scope="module")
def report() -> Report:
    return synthetic_report()


def pixels(png: bytes) -> np.ndarray:
    """(height, width, 3) with values from 0 to 1."""
    from matplotlib.image import imread

    return imread(io.BytesIO(png), format="png")[..., :3]


def of_colour(image: np.ndarray, colour: str) -> np.ndarray:
    """(height, width) bool: pixels of the CSS colour `#rrggbb`."""
    wanted = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.abs(image - wanted).max(axis=-1) < 0.02


@pytest.mark.parametrize("name", plots.FIGURES)
def test_every_figure_of_a_report_is_drawn_in_its_colours(name: str, report: Report) -> None:
    figure = plots.FIGURES[name](report)
    image = pixels(to_png(figure, width=800))
    assert image.shape[1] == 1200  # one and a half pixels for each on the page
    bars = [trace for trace in figure.data if trace.type == "bar" and trace.showlegend and max(trace.x, default=0) > 0]
    assert all(of_colour(image, trace.marker.color).any() for trace in bars)


def test_the_same_figure_is_the_same_file(report: Report) -> None:
    assert to_png(plots.roofline(report)) == to_png(plots.roofline(report))


def bar_figure(**options: object) -> go.Figure:
    """Two bars of lengths 1 and 3, red and, in the order of the axis, above and below."""
    figure = go.Figure(go.Bar(x=[1.0, 3.0], y=["first", "second"], orientation="h", marker={"color": "#ff0000"}))
    figure.update_layout(height=300, **options)
    return figure.update_yaxes(type="category")


def test_bars_are_as_long_as_their_values() -> None:
    red = of_colour(pixels(to_png(bar_figure())), "#ff0000").sum(axis=1)
    lengths = sorted(set(red[red > 0].tolist()))
    assert lengths[-1] / lengths[0] == pytest.approx(3.0, rel=0.05)


def test_a_reversed_axis_starts_at_the_top() -> None:
    upright = of_colour(pixels(to_png(bar_figure())), "#ff0000").sum(axis=1)
    reversed_ = of_colour(pixels(to_png(bar_figure(yaxis={"autorange": "reversed"}))), "#ff0000").sum(axis=1)
    assert upright[upright > 0][0] > upright[upright > 0][-1]  # the longer bar comes second, which is above
    assert reversed_[reversed_ > 0][0] < reversed_[reversed_ > 0][-1]


def test_stacked_bars_continue_where_the_last_ended() -> None:
    figure = go.Figure(
        [
            go.Bar(x=[length], y=["row"], orientation="h", marker={"color": colour})
            for length, colour in ((1.0, "#ff0000"), (1.0, "#0000ff"))
        ]
    ).update_layout(barmode="stack")
    image = pixels(to_png(figure))
    red, blue = (np.flatnonzero(of_colour(image, colour).any(axis=0)) for colour in ("#ff0000", "#0000ff"))
    assert blue.min() - red.max() in (1, 2)  # side by side, but for an edge pixel of both colours
    assert red.size == pytest.approx(blue.size, abs=2)


def test_a_logarithmic_axis_puts_decades_at_equal_distances() -> None:
    figure = go.Figure(
        go.Scatter(x=[1, 10, 100], y=[1, 1, 1], mode="markers", marker={"color": "#ff0000", "size": 10})
    ).update_xaxes(type="log", range=[-0.5, 2.5], showgrid=False)
    columns = np.flatnonzero(of_colour(pixels(to_png(figure)), "#ff0000").any(axis=0))
    first, second, third = (part.mean() for part in np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1))
    assert third - second == pytest.approx(second - first, abs=2)


def test_a_trace_that_it_cannot_draw_is_refused_by_name() -> None:
    with pytest.raises(BadParameter, match="'pie'"):
        to_png(go.Figure(go.Pie(values=[1, 2])))


def test_text_that_looks_like_a_formula_or_a_tag_is_drawn_as_it_is() -> None:
    to_png(bar_figure(title={"text": r"<b>a $\nonsense$ b</b> &lt;script&gt;"}))


def test_show_gives_a_notebook_both_forms_in_one_output(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, object]] = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append(bundle))
    show(plots.roofline(report), width=640, height=320)
    (bundle,) = shown
    json.dumps(bundle)
    figure = bundle["application/vnd.plotly.v1+json"]
    assert isinstance(figure, dict)
    assert (figure["layout"]["width"], figure["layout"]["height"]) == (640, 320)
    assert pixels(b64decode(str(bundle["image/png"]))).shape == (480, 960, 3)
