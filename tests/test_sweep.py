"""Sweeps: the grid, the front, resuming, and processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import codesign
from codesign.errors import BadParameter
from codesign.simulation import prepare
from codesign.study import sweep as sweeping
from codesign.study.pareto import pareto_front
from codesign.study.vary import grid, parse_vary
from tests.commands import write_small_model

AXES = {"array.rows": [8, 16], "dram.bandwidth": [1e9, 4e9, 16e9]}


@pytest.fixture(scope="module")
def graph() -> object:
    return codesign.load("zoo:mlperf_tiny_ic")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), max_size=30))
def test_front_is_what_no_point_dominates(points) -> None:
    costs = np.array(points, float).reshape(-1, 3)
    dominated = [
        any(all(a <= b for a, b in zip(other, point, strict=True)) and tuple(other) != tuple(point) for other in costs)
        for point in costs
    ]
    assert pareto_front(costs).tolist() == [not value for value in dominated]


def test_unknown_costs_are_never_on_the_front() -> None:
    assert pareto_front(np.array([[1.0, np.nan], [2.0, 2.0]])).tolist() == [False, True]


def test_values_are_lists_or_ranges() -> None:
    found = parse_vary(["a.b=8,16", "c=1e9:16e9:5log", "d=0:1:3", "e=fast,slow"])
    assert found["a.b"] == [8, 16]
    assert found["c"] == pytest.approx([1e9, 2e9, 4e9, 8e9, 16e9])
    assert found["d"] == [0, 0.5, 1]
    assert found["e"] == ["fast", "slow"]
    assert len(grid(found)) == 2 * 5 * 3 * 2


@pytest.mark.parametrize("text", ["a", "a=", "=1", "a=1:2", "a=1:2:x", "a=0:2:3log", "a=1:2:1", "a=1:2:3:4"])
def test_malformed_values_are_refused(text) -> None:
    with pytest.raises(BadParameter, match="expected NAME"):
        parse_vary([text])


def test_processes_do_not_change_the_points(graph) -> None:
    one, two = (codesign.sweep(graph, "ethos-u65-256", AXES, processes=count) for count in (1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert len(one) == 6
    slow, fast = one[one["dram.bandwidth"] == 1e9], one[one["dram.bandwidth"] == 16e9]
    assert (fast["latency_s"].to_numpy() <= slow["latency_s"].to_numpy()).all()


def test_each_point_is_the_simulation_of_that_device(graph) -> None:
    frame = codesign.sweep(graph, "ethos-u65-256", {"dram.bandwidth": [2e9]}, settings={"array.rows": 8}, processes=1)
    alone = codesign.simulate(graph, codesign.device("ethos-u65-256", **{"array.rows": 8, "dram.bandwidth": 2e9}))
    assert frame["latency_s"].iloc[0] == alone.latency_s
    assert frame["energy_J"].iloc[0] == alone.energy_J


def test_an_interrupted_sweep_goes_on_where_it_was(graph, tmp_path, monkeypatch) -> None:
    out = tmp_path / "points.parquet"

    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        codesign.sweep(graph, "ethos-u65-256", AXES, out=out, processes=1, progress=interrupt)
    computed = []
    original = sweeping._point
    monkeypatch.setattr(sweeping, "_point", lambda *words: computed.append(words[-1]) or original(*words))
    resumed = codesign.sweep(graph, "ethos-u65-256", AXES, out=out, processes=1)
    assert len(computed) == 2
    fresh = codesign.sweep(graph, "ethos-u65-256", AXES, processes=1)
    pd.testing.assert_frame_equal(resumed, fresh)
    pd.testing.assert_frame_equal(pd.read_parquet(out), resumed)


def test_a_line_cut_short_costs_its_own_point_alone(graph, tmp_path) -> None:
    out = tmp_path / "points.parquet"
    fresh = codesign.sweep(graph, "ethos-u65-256", AXES, out=out, processes=1)
    journal = Path(f"{out}.points")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:3]) + lines[3][:40])
    resumed = codesign.sweep(graph, "ethos-u65-256", AXES, out=out, processes=1)
    pd.testing.assert_frame_equal(resumed, fresh)
    assert journal.read_text().splitlines()[4:] == [line.rstrip() for line in lines[3:]]


def test_a_wider_sweep_computes_only_what_is_new(graph, tmp_path, monkeypatch) -> None:
    out = tmp_path / "points.parquet"
    codesign.sweep(graph, "ethos-u65-256", {"array.rows": [8, 16]}, out=out, processes=1)
    computed = []
    original = sweeping._point
    monkeypatch.setattr(sweeping, "_point", lambda *words: computed.append(words[-1]) or original(*words))
    codesign.sweep(graph, "ethos-u65-256", {"array.rows": [4, 8, 16]}, out=out, processes=1)
    assert computed == [{"array.rows": 4}]


def test_the_journal_is_of_one_wiring_and_one_setting(graph, tmp_path) -> None:
    """The same operations otherwise connected keep other values in memory."""
    prepared = prepare(graph, "int8")
    first, *others = prepared.graph.ops
    rewired = replace(prepared.graph, ops=(replace(first, outputs=("elsewhere",)), *others))
    assert sweeping._digest(prepared) != sweeping._digest(replace(prepared, graph=rewired))
    out = tmp_path / "points.parquet"
    slow, fast = (
        codesign.sweep(
            graph, "ethos-u65-256", {"array.rows": [8]}, out=out, settings={"dram.bandwidth": value}, processes=1
        )
        for value in (1e8, 1e10)
    )
    assert slow["latency_s"].iloc[0] > fast["latency_s"].iloc[0]


def test_front_of_a_sweep_is_what_no_point_dominates(graph) -> None:
    axes = {"array.rows": [4, 8, 16, 32], "sram.capacity": [1 << 17, 1 << 19], "dram.bandwidth": [1e9, 8e9]}
    frame = codesign.sweep(graph, "ethos-u65-256", axes, objective=("latency", "energy", "area"), processes=1)
    costs = frame[["latency_s", "energy_J", "area_mm2"]].to_numpy()
    for cost, fits, pareto in zip(costs, frame["fits"], frame["pareto"], strict=True):
        others = costs[frame["fits"].to_numpy()]
        dominated = ((others <= cost).all(axis=1) & (others < cost).any(axis=1)).any()
        assert pareto == (fits and not dominated)
    assert 0 < frame["pareto"].sum() < len(frame)


def test_values_may_be_numpy_numbers(graph, tmp_path) -> None:
    out = tmp_path / "points.parquet"
    frame = codesign.sweep(graph, "ethos-u65-256", {"array.rows": np.array([8, 16])}, out=out, processes=1)
    assert frame["array.rows"].tolist() == [8, 16]
    assert frame["error"].isna().all()


def test_a_word_among_numbers_is_stored_with_its_error(graph, tmp_path) -> None:
    out = tmp_path / "points.parquet"
    codesign.sweep(graph, "ethos-u65-256", {"array.rows": [8, "many"]}, out=out, processes=1)
    stored = pd.read_parquet(out)
    assert stored["array.rows"].tolist() == ["8", "many"]
    assert "'many'" in stored["error"].iloc[1]


def test_values_that_are_right_only_together_are_swept(graph) -> None:
    """A value that the device refuses beside the others' defaults is no reason to refuse the whole axis."""
    frame = codesign.sweep(graph, "ethos-u65-256", {"array.rows": [-1, 16], "array.columns": [-1, 16]}, processes=1)
    assert frame["error"].isna().tolist() == [False, False, False, True]


def test_a_sweep_of_which_no_point_can_be_built_is_refused(graph, tmp_path) -> None:
    with pytest.raises(BadParameter, match=r"array\.rows"):
        codesign.sweep(graph, "ethos-u65-256", {"array.rows": [-8, 0]}, out=tmp_path / "points.parquet")
    with pytest.raises(BadParameter, match="no values"):
        codesign.sweep(graph, "ethos-u65-256", {"array.rows": []})
    with pytest.raises(BadParameter, match="at least one parameter"):
        codesign.sweep(graph, "ethos-u65-256", {})
    assert not list(tmp_path.iterdir())


def test_a_model_with_its_weights_in_the_file_is_sent_to_processes(tmp_path) -> None:
    model = codesign.load(write_small_model(tmp_path))
    one, two = (codesign.sweep(model, "ethos-u65-256", AXES, processes=count) for count in (1, 3))
    pd.testing.assert_frame_equal(one, two)


def test_progress_is_told_of_every_point(graph) -> None:
    told: list[tuple[int, int]] = []
    codesign.sweep(graph, "ethos-u65-256", AXES, processes=2, progress=lambda *counts: told.append(counts))
    assert told == [(done, 6) for done in range(1, 7)]


def test_a_journal_of_another_model_is_not_used(graph, tmp_path) -> None:
    out = tmp_path / "points.parquet"
    first = codesign.sweep(graph, "ethos-u65-256", {"array.rows": [8]}, out=out, processes=1)
    other = codesign.load("zoo:mlperf_tiny_kws")
    second = codesign.sweep(other, "ethos-u65-256", {"array.rows": [8]}, out=out, processes=1)
    assert first["latency_s"].iloc[0] != second["latency_s"].iloc[0]


def test_a_point_that_cannot_be_stays_with_its_reason(graph) -> None:
    frame = codesign.sweep(graph, "ethos-u65-256", {"array.rows": [8, -8]}, processes=1)
    assert frame["error"].isna().tolist() == [True, False]
    assert "array.rows" in frame["error"].iloc[1]
    assert frame["pareto"].tolist() == [True, False]
