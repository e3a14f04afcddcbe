"""The ladder of fidelities as a check: what holds, what does not, and that a broken rung is seen."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import codesign
from codesign.study.ladder import Rung, climb, ladder_table
from codesign.study.validate import validate
from codesign.validation import Bound, Comparison


def rung(analytic: float = 0.9, event: float = 1.0, cycle: float | None = 1.0) -> Rung:
    return Rung("net", "device", analytic, event, cycle)


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (rung(), True),
        (rung(analytic=1.0), True),
        (rung(analytic=1.0 + 1e-6), False),
        (rung(cycle=1 / 1.049), True),
        (rung(cycle=1 / 1.051), False),
        (rung(cycle=1 / 0.949), False),
        (rung(cycle=None), True),
        (rung(analytic=2.0, cycle=None), False),
    ],
)
def test_a_rung_holds_when_both_ratios_do(found, holds) -> None:
    assert found.holds == holds


def test_each_model_is_climbed_on_each_device() -> None:
    graph = codesign.load("zoo:mlperf_tiny_ad")
    rungs = list(climb([("ad", graph)], ["ethos-u65-256", "stm32l4r5"]))
    assert [(found.model, found.device) for found in rungs] == [("ad", "ethos-u65-256"), ("ad", "stm32l4r5")]
    npu, mcu = rungs
    assert npu.cycle_s is not None
    assert mcu.cycle_s is None
    for name, found in (("ethos-u65-256", npu), ("stm32l4r5", mcu)):
        chosen = codesign.device(name)
        assert found.event_s == codesign.simulate(graph, chosen).latency_s
        assert found.analytic_s == codesign.simulate(graph, chosen, fidelity="analytic").latency_s
    cycle = codesign.simulate(graph, codesign.device("ethos-u65-256"), fidelity="cycle")
    assert npu.cycle_s == cycle.latency_s


def test_the_table_states_both_ratios() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(ladder_table([rung(), rung(cycle=None)]))
    assert isinstance(console.file, io.StringIO)
    first, second = console.file.getvalue().splitlines()[-2:]
    assert first.split()[-2:] == ["0.9000", "1.0000"]
    assert second.split()[-2:] == ["0.9000", "-"]


def test_a_broken_rung_fails_the_validation(monkeypatch) -> None:
    from codesign.study import validate as module

    monkeypatch.setattr(module, "climb", lambda models: [rung(), rung(analytic=2.0)])
    quiet = Console(quiet=True)
    assert not validate("ladder", quiet)
    monkeypatch.setattr(module, "climb", lambda models: [rung()])
    assert validate("ladder", quiet)


class FakeValidation:
    """A device class whose one figure is predicted a tenth too high."""

    def __init__(self, limit: float, group: str = "latency") -> None:
        self.BOUNDS = (Bound(group, "mean", limit),)

    def comparisons(self) -> list[Comparison]:
        return [Comparison("latency", "net", "s", 1.1, 1.0, "a paper")]


@pytest.mark.parametrize(("limit", "holds", "word"), [(0.11, True, "holds"), (0.09, False, "BROKEN")])
def test_a_stated_bound_decides(limit, holds, word, monkeypatch) -> None:
    from codesign.study import validate as module

    monkeypatch.setattr(module, "device_classes", lambda: ["fake"])
    monkeypatch.setattr(module, "class_module", lambda *names: FakeValidation(limit))
    console = Console(file=io.StringIO(), width=100)
    assert validate("fake", console) == holds
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert word in text
    assert "10.0%" in text
    assert "a paper" in text


def test_numbers_stay_whole_in_a_narrow_terminal(monkeypatch) -> None:
    from codesign.study import validate as module

    found = FakeValidation(1.0)
    name = "a network of a long name " * 3
    monkeypatch.setattr(found, "comparisons", lambda: [Comparison("latency", name, "s", 1.0 / 3, 1.0, "[1] a paper")])
    monkeypatch.setattr(module, "device_classes", lambda: ["fake"])
    monkeypatch.setattr(module, "class_module", lambda *names: found)
    console = Console(file=io.StringIO(), width=80)
    assert validate("fake", console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[3].split()[-4:] == ["0.3333", "1", "s", "66.7%"]
    assert "  source: [1] a paper" in lines


def test_a_bound_on_nothing_is_an_error(monkeypatch) -> None:
    from codesign.errors import BadParameter
    from codesign.study import validate as module

    monkeypatch.setattr(module, "device_classes", lambda: ["fake"])
    monkeypatch.setattr(module, "class_module", lambda *names: FakeValidation(0.5, group="energy"))
    with pytest.raises(BadParameter, match="'energy', of which there is no row"):
        validate("fake", Console(quiet=True))
