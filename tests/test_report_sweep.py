"""A sweep's table and figure."""

from __future__ import annotations

import pandas as pd
import pytest

from codesign.report.html import figure_page
from codesign.report.sweep import sweep_figure, sweep_table
from tests.test_report import printed


@pytest.fixture
def frame() -> pd.DataFrame:
    """Six points: two on the front, three beaten, one that does not fit."""
    return pd.DataFrame(
        {
            "array.rows": [8, 16, 32, 8, 16, 32],
            "sram.capacity": [1 << 17] * 3 + [1 << 18] * 3,
            "latency_s": [9e-3, 5e-3, 4e-3, 8e-3, 3e-3, None],
            "energy_J": [9e-4, 8e-4, 9e-4, 5e-4, 7e-4, None],
            "area_mm2": [0.2, 0.3, 0.5, 0.4, 0.5, None],
            "fits": [True] * 5 + [False],
            "pareto": [False, False, False, True, True, False],
        }
    )


PARAMETERS = ["array.rows", "sram.capacity"]


def test_table_lists_the_front_fastest_first(frame: pd.DataFrame) -> None:
    lines = printed(sweep_table(frame, PARAMETERS, ["latency", "energy"], "net on npu"), 100).splitlines()
    assert "2 of 6 points, 1 do not fit" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["16", "8"]
    assert "3.00 ms" in lines[2]


def test_figure_shows_each_point_that_fits_once_and_rings_the_front(frame: pd.DataFrame) -> None:
    *points, ring = sweep_figure(frame, PARAMETERS, ["latency", "energy"], "net on npu").data
    assert sorted(x for trace in points for x in trace.x) == sorted(frame["latency_s"].dropna())
    assert [trace.name for trace in points] == ["sram.capacity = 131072", "sram.capacity = 262144"]
    assert list(zip(ring.x, ring.y, strict=True)) == [(3e-3, 7e-4), (8e-3, 5e-4)]


def test_figure_says_which_design_is_fastest_and_which_spends_least(frame: pd.DataFrame) -> None:
    answer = sweep_figure(frame, PARAMETERS, ["latency", "energy"], "net on npu").layout.meta["answer"]
    assert "Fastest at array.rows 16, sram.capacity 262144: 3.00 ms" in answer
    assert "least energy at array.rows 8, sram.capacity 262144: 500 µJ" in answer


def test_a_third_objective_is_the_colour_and_leaves_the_front_unjoined(frame: pd.DataFrame) -> None:
    points, ring = sweep_figure(frame, PARAMETERS, ["latency", "energy", "area"], "net on npu").data
    assert list(points.marker.color) == list(frame["area_mm2"].dropna())
    assert ring.mode == "markers"


def test_an_objective_alone_is_drawn_against_another_quantity(frame: pd.DataFrame) -> None:
    figure = sweep_figure(frame, PARAMETERS, ["energy"], "net on npu")
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("energy (J)", "latency (s)")


def test_axes_are_logarithmic_only_for_wide_spreads(frame: pd.DataFrame) -> None:
    wide = frame.assign(latency_s=[1.0, 0.1, 0.01, 0.001, 1e-4, None])
    assert sweep_figure(frame, PARAMETERS, ["latency", "energy"], "").layout.xaxis.type is None
    assert sweep_figure(wide, PARAMETERS, ["latency", "energy"], "").layout.xaxis.type == "log"


def test_a_sweep_in_which_nothing_fits_is_an_empty_figure(frame: pd.DataFrame) -> None:
    nothing = frame.assign(fits=False, pareto=False)
    figure = sweep_figure(nothing, PARAMETERS, ["latency", "energy"], "net on npu")
    assert "0 of 6 points, 6 do not fit" in figure.layout.meta["answer"]


def test_page_of_a_figure_escapes_its_title(frame: pd.DataFrame) -> None:
    page = figure_page(sweep_figure(frame, PARAMETERS, ["latency", "energy"], "<script>alert(1)</script>"))
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
