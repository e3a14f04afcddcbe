"""What must hold of any simulation: parts sum to wholes, runs repeat, more work costs more, fidelities are a ladder."""

from __future__ import annotations

import math

import numpy as np
import pytest

import codesign
from codesign.errors import BadParameter
from codesign.study.ladder import climb

DEVICES = ("ethos-u65-256", "h200", "host", "i9-10940x", "pim-gpt", "stm32l4r5")
MODELS = ("mlperf_tiny_kws", "mobilenetv2", "bert_tiny", "gpt2_small_decode")


@pytest.fixture(scope="module", params=[(model, device) for model in MODELS for device in DEVICES], ids="-".join)
def report(request: pytest.FixtureRequest) -> codesign.Report:
    model, device = request.param
    return codesign.simulate(codesign.load(f"zoo:{model}"), codesign.device(device))


def test_operations_sum_to_the_latency_and_components_to_the_energy(report) -> None:
    document = report.document
    assert sum(op.latency_s for op in document.ops) == pytest.approx(report.latency_s, rel=1e-9)
    assert sum(document.energy.values()) == pytest.approx(report.energy_J, rel=1e-9)
    dynamic = sum(op.energy_J for op in document.ops)
    assert dynamic + document.energy["static"] == pytest.approx(report.energy_J, rel=1e-9)
    assert sum(found.energy_J for found in document.resources.values()) == pytest.approx(dynamic, rel=1e-9)


def test_no_resource_is_busier_than_the_run_is_long(report) -> None:
    assert all(0 <= found.utilisation <= 1 + 1e-9 for found in report.document.resources.values())


def test_only_moves_that_rename_memory_are_free(report) -> None:
    free = [op for op in report.document.ops if op.bound == "free"]
    assert all(op.macs == 0 and op.latency_s == 0 and op.energy_J == 0 for op in free)
    assert {op.op for op in free} <= {
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Identity",
        "Concat",
        "Split",
        "Slice",
    }


def test_a_run_repeats_to_the_last_digit(report) -> None:
    name = report.document.device
    known = {codesign.device(device).name: device for device in DEVICES}
    again = codesign.simulate(codesign.load(report.document.model), codesign.device(known[name]))
    assert again.to_json() == report.to_json()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", ["mlperf_tiny_ic", "bert_tiny"])
def test_a_larger_batch_costs_no_less(model, device) -> None:
    chosen = codesign.device(device)
    reports = [codesign.simulate(codesign.load(f"zoo:{model}", batch=batch), chosen) for batch in (1, 2, 8, 32)]
    assert all(np.diff([found.latency_s for found in reports]) > 0)
    assert all(np.diff([found.energy_J for found in reports]) > 0)


def test_the_ladder_holds_on_small_models() -> None:
    models = [(name, codesign.load(f"zoo:{name}")) for name in MODELS]
    broken = [rung for rung in climb(models) if not rung.holds]
    assert not broken


@pytest.mark.long
def test_the_ladder_holds_on_every_network_and_device() -> None:
    import workloads

    models = [(name, codesign.load(f"zoo:{name}")) for name in workloads.names()]
    rungs = list(climb(models))
    assert len(rungs) == len(models) * len(codesign.device_names())
    assert not [rung for rung in rungs if not rung.holds]


@pytest.mark.long
@pytest.mark.parametrize("device_class", ["cpu", "gpu", "mcu", "npu", "pim"])
def test_every_stated_bound_holds(device_class) -> None:
    from rich.console import Console

    from codesign.study.validate import validate

    assert validate(device_class, Console(quiet=True))


def test_element_types_are_refused_by_name() -> None:
    graph = codesign.load("zoo:mlperf_tiny_kws")
    with pytest.raises(BadParameter, match="cannot run"):
        codesign.simulate(graph, codesign.device("stm32l4r5"), dtype="fp64")


def test_narrower_types_are_no_slower_and_smaller() -> None:
    graph, chosen = codesign.load("zoo:bert_tiny"), codesign.device("h200")
    wide, narrow = (codesign.simulate(graph, chosen, dtype=dtype) for dtype in ("fp32", "fp16"))
    assert narrow.latency_s <= wide.latency_s
    assert wide.document.weight_bytes == 2 * narrow.document.weight_bytes


def test_compare_ranks_devices() -> None:
    graph = codesign.load("zoo:mlperf_tiny_kws")
    frame = codesign.compare(
        [codesign.simulate(graph, codesign.device(name)) for name in ("stm32l4r5", "ethos-u65-256")]
    )
    assert frame["speedup"].iloc[1] > 10
    assert math.isclose(frame["energy_ratio"].iloc[0], 1.0)
