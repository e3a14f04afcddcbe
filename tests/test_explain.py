"""Explanations: what bounds a result, what waits, and how far each parameter would move it."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

import codesign
from codesign.errors import BadParameter
from codesign.graph import Graph
from codesign.study.explain import Explanation, numbers


@pytest.fixture(scope="module")
def decode() -> Graph:
    return codesign.load("zoo:gpt2_small_decode")


@pytest.fixture(scope="module")
def starved(decode: Graph) -> Explanation:
    """A decode step, which reads every weight once, behind a narrow memory."""
    return codesign.explain(decode, "ethos-u65-256", settings={"dram.bandwidth": 1e9}, top=5)


def shown(found: Explanation, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(found)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_memory_bound_model_wants_bandwidth(starved) -> None:
    slopes = {item.parameter: item.latency for item in starved.elasticities}
    assert slopes["dram.bandwidth"] < -0.5
    assert slopes["dram.bandwidth"] == min(slopes.values())


def test_a_parameter_that_only_costs_energy_moves_energy_alone(starved) -> None:
    found = {item.parameter: item for item in starved.elasticities}["energy.dram_byte"]
    assert found.latency == 0
    assert 0 < found.energy <= 1


def test_an_elasticity_is_the_slope_between_two_simulations(decode, starved) -> None:
    raised = codesign.device("ethos-u65-256", **{"dram.bandwidth": 1.1e9})
    faster = codesign.simulate(decode, raised)
    slope = math.log(faster.latency_s / starved.report.latency_s) / math.log(1.1)
    found = {item.parameter: item for item in starved.elasticities}["dram.bandwidth"]
    assert found.latency == pytest.approx(slope, abs=1e-12)
    assert found.value == 1e9


def test_the_strongest_elasticity_comes_first(starved) -> None:
    strength = [max(abs(item.latency), abs(item.energy)) for item in starved.elasticities]
    assert strength == sorted(strength, reverse=True)
    assert strength[0] > 0.5


def test_the_slowest_operations_say_what_they_waited_for(starved) -> None:
    times = [stall.op.latency_s for stall in starved.slowest]
    assert len(times) == 5
    assert times == sorted((op.latency_s for op in starved.report.document.ops), reverse=True)[:5]
    assert any(stall.waited_s > 0 and stall.resource in starved.report.document.resources for stall in starved.slowest)


def test_every_positive_number_is_tried_and_nothing_else() -> None:
    assert numbers({"a": {"b": 2, "c": 0.5, "d": 0, "e": -1}, "f": True, "g": "fast", "h": None, "i": (4,)}) == {
        "a.b": 2,
        "a.c": 0.5,
    }


def test_every_device_is_explained() -> None:
    graph = codesign.load("zoo:mlperf_tiny_ad")
    for name in codesign.device_names():
        found = codesign.explain(graph, name, fidelity="analytic")
        assert any(item.latency < 0 for item in found.elasticities)
        assert all(math.isfinite(item.latency + item.energy) for item in found.elasticities)


def test_it_is_shown_within_a_terminal(starved) -> None:
    text = shown(starved)
    assert max(map(len, text.splitlines())) <= 80
    assert "dram.bandwidth" in text
    assert starved.slowest[0].op.bound in text


def test_what_does_not_fit_is_shown_with_its_levers() -> None:
    found = codesign.explain(codesign.load("zoo:resnet50"), "stm32l4r5", fidelity="analytic", top=1)
    assert not found.report.fits
    text = " ".join(shown(found, 200).split())
    assert all(f"to fit: {lever}" in text for lever in found.report.document.levers)
    assert found.report.document.levers


def test_names_that_are_not_there_are_refused(decode) -> None:
    with pytest.raises(BadParameter, match="did you mean h200"):
        codesign.explain(decode, "h20")
    with pytest.raises(BadParameter, match=r"did you mean dram\.bandwidth"):
        codesign.explain(decode, "h200", settings={"dram.bandwith": 1e12})
