"""What must hold of any simulation: parts sum to wholes, runs repeat, more work costs more, fidelities are a ladder."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest

import codesign
from codesign.errors import BadParameter
from codesign.study.ladder import climb

DEVICES = ("ethos-u65-256", "h200", "host", "i9-10940x", "pim-gpt", "stm32l4r5")
EXPORTED = [
    Path(__file__).parent / "data" / "models" / f"{name}.onnx"
    for name in (
        "bert_2_layers__legacy", "convolutions__legacy", "gpt2_2_layers__dynamo", "llama_2_layers__dynamo",
        "swin_2_blocks__legacy", "vit_2_layers__dynamo",
    )
]  # fmt: skip
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


def test_operations_run_one_after_the_other(report) -> None:
    """Each starts once those before it have ended (early tasks aside) and before its own end."""
    ends = np.cumsum([op.latency_s for op in report.document.ops])
    starts = np.array([op.start_s for op in report.document.ops])
    tolerance = 1e-9 * report.latency_s
    assert (starts >= np.concatenate(([0.0], ends[:-1])) - tolerance).all()
    assert (starts <= ends + tolerance).all()


def test_every_task_lies_within_the_run_and_has_no_negative_part(report) -> None:
    tasks = report.tasks
    assert (tasks.start_s >= 0).all()
    assert (tasks.end_s <= report.latency_s * (1 + 1e-9)).all()
    assert (tasks.end_s >= tasks.start_s).all()
    for column in (tasks.busy_s, tasks.waited_s, tasks.energy_J, tasks.firings):
        assert (column >= 0).all()
    assert all(joules >= 0 for joules in report.document.energy.values())


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


BANDWIDTHS = {
    "ethos-u65-256": ("dram.bandwidth", "sram.bandwidth"),
    "h200": ("dram.bandwidth", "l2.bandwidth", "link.bandwidth"),
    "i9-10940x": ("dram.bandwidth", "dram.core_bandwidth", "cache.bandwidth"),
    "pim-gpt": ("dram.pin_bandwidth", "host.link_bandwidth"),
    "stm32l4r5": ("core.clock",),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("device", "parameter"), [(device, name) for device, names in BANDWIDTHS.items() for name in names]
)
def test_twice_the_bandwidth_never_hurts(name, device, parameter) -> None:
    graph, chosen = codesign.load(f"zoo:{name}"), codesign.device(device)
    value = chosen.parameters.model_dump()
    for part in parameter.split("."):
        value = value[part]
    faster = codesign.simulate(graph, codesign.device(device, **{parameter: 2 * value}))
    assert faster.latency_s <= codesign.simulate(graph, chosen).latency_s * (1 + 1e-12)


@pytest.mark.parametrize("path", EXPORTED, ids=lambda path: path.stem)
def test_every_node_that_computes_is_named_by_an_operation(path) -> None:
    """All nodes whose result depends on the values of an input (not on its shape alone) and that an output needs."""
    proto = onnx.load(path, load_external_data=False).graph
    document = codesign.simulate(codesign.load(path), codesign.device("h200")).document
    named = {node for op in document.ops for node in op.onnx_nodes}
    alive = {value.name for value in proto.output}
    for node in reversed(proto.node):
        if alive & set(node.output) and node.op_type not in ("Shape", "Size"):
            alive.update(node.input)
    fed = {value.name for value in proto.input}
    computing = set()
    for index, node in enumerate(proto.node):
        if fed & set(node.input) and node.op_type not in ("Shape", "Size"):
            fed.update(node.output)
            if alive & set(node.output):
                computing.add(node.name or f"{node.op_type}_{index}")
    assert len(computing) > 8
    assert computing <= named


@pytest.mark.parametrize("path", EXPORTED, ids=lambda path: path.stem)
def test_analytic_is_a_lower_bound_on_exported_models(path) -> None:
    rungs = list(climb([(path.stem, codesign.load(path))]))
    assert len(rungs) == len(codesign.device_names())
    assert all(rung.analytic_ratio <= 1 + 1e-9 for rung in rungs)


def test_parameters_are_the_loaded_ones_and_bytes_the_stored_ones() -> None:
    """Batch normalisation folded: its gain and shift of each channel become one bias."""
    graph = codesign.load("zoo:resnet50")
    document = codesign.simulate(graph, codesign.device("ethos-u65-256")).document
    channels = sum(graph.tensors[op.inputs[1]].elements for op in graph.ops if op.kind == "BatchNormalization")
    assert document.params == graph.parameters
    assert document.weight_bytes == graph.parameters - channels


def test_an_unnamed_fidelity_is_refused() -> None:
    with pytest.raises(BadParameter, match="no fidelity 'cycle'; it has analytic, event"):
        codesign.simulate(codesign.load("zoo:mlperf_tiny_ad"), codesign.device("h200"), fidelity="cycle")


def test_the_ladder_holds_on_small_models() -> None:
    models = [(name, codesign.load(f"zoo:{name}")) for name in MODELS]
    broken = [rung for rung in climb(models) if not rung.holds]
    assert not broken


@pytest.mark.long
def test_the_ladder_holds_on_every_network_and_device() -> None:
    from codesign.study.validate import ladder_networks

    models = [(name, codesign.load(f"zoo:{name}")) for name in ladder_networks()]
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
