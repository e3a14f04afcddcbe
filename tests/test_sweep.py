"""Sweeps: the grid, the front, resuming, and processes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import codesign
from codesign.errors import BadParameter
from codesign.study import sweep as sweeping
from codesign.study.pareto import pareto_front
from codesign.study.vary import grid, parse_vary

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


def test_explain_finds_that_a_memory_bound_model_wants_bandwidth(graph) -> None:
    found = codesign.explain(codesign.load("zoo:gpt2_small_decode"), "ethos-u65-256", settings={"dram.bandwidth": 1e9})
    slopes = {item.parameter: item.latency for item in found.elasticities}
    assert slopes["dram.bandwidth"] < -0.5
    assert slopes["dram.bandwidth"] == min(slopes.values())
    assert found.slowest[0].op.latency_s == max(op.latency_s for op in found.report.document.ops)
