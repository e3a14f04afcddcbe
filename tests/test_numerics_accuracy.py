"""The comparison with exact arithmetic: its figures, its views, the command that prints it, and what it refuses."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import codesign
import workloads
from codesign.errors import BadParameter
from codesign.frontend import from_proto
from codesign.graph import Graph
from codesign.numerics import Policy, policy
from codesign.report.accuracy import AccuracyDocument, AccuracyReport
from codesign.study.accuracy import accuracy
from tests.commands import refused, run
from tests.test_numerics_arithmetic import TensorProto, graph_of, helper

Array = np.ndarray[Any, Any]


@cache
def network() -> Graph:
    """ViT-Tiny with two encoder layers on 64 x 64 pixels."""
    return from_proto(workloads.build("vit_tiny", bind={"image": 64}, configuration={"layers": 2}))


@cache
def inputs(seed: int = 0) -> dict[str, Array]:
    return codesign.random_inputs(network(), seed=seed)


@cache
def int8() -> AccuracyReport:
    return accuracy(network(), "int8", inputs(), seed_weights=0, calibration=[inputs(1), inputs(2)])


def test_figures_are_those_of_the_outputs() -> None:
    report = int8()
    exact = codesign.execute(network(), inputs(), seed_weights=0)["logits"].astype(np.float64)
    found = report.outputs["logits"].astype(np.float64)
    agreement = report.document.outputs["logits"]
    assert agreement.sqnr_dB == pytest.approx(10 * np.log10((exact**2).sum() / ((found - exact) ** 2).sum()), abs=0.01)
    assert agreement.cosine == pytest.approx((exact * found).sum() / np.linalg.norm(exact) / np.linalg.norm(found))
    assert agreement.max_error == pytest.approx(np.abs(found - exact).max(), rel=1e-3)
    assert agreement.top1 == (exact.argmax() == found.argmax())
    assert 20 < (agreement.sqnr_dB or 0) < 50


@pytest.mark.parametrize(
    "layer", ["layer1/mlp/up/MatMul", "layer0/attention/Softmax", "embedding/patches/projection/Conv"]
)
def test_an_operation_alone_in_its_formats_has_its_own_error(layer: str) -> None:
    """With all before it exact, what accumulates up to an operation is what it adds by itself."""
    whole = {op.name: op for op in int8().document.ops}[layer]
    chosen = policy("int8")
    rules = [rule.model_copy(update={"layers": [layer]}) for rule in chosen.rules]
    ranges = int8().document.ranges
    alone = accuracy(network(), chosen.model_copy(update={"rules": rules}), inputs(), seed_weights=0, ranges=ranges)
    ops = {op.name: op for op in alone.document.ops}
    assert ops[layer].accumulated == ops[layer].own == whole.own
    assert whole.own.sqnr_dB is not None
    assert [name for name, op in ops.items() if op.own.max_error > 0] == [layer]


def test_a_better_format_loses_less() -> None:
    decibels = {
        name: accuracy(network(), name, inputs(), seed_weights=0).document.outputs["logits"].sqnr_dB or np.inf
        for name in ("tf32", "fp16", "bf16", "fp8-e4m3", "fp8-e5m2", "mxfp8", "mxfp4", "w8a16", "w4a16", "w2a16")
    }
    for better, worse in (
        ("tf32", "fp16"), ("fp16", "bf16"), ("bf16", "fp8-e4m3"), ("fp8-e4m3", "fp8-e5m2"), ("mxfp8", "mxfp4"),
        ("w8a16", "w4a16"), ("w4a16", "w2a16"),
    ):  # fmt: skip
        assert decibels[better] > decibels[worse] + 3, decibels


def test_exact_arithmetic_has_no_error() -> None:
    document = accuracy(network(), "fp32", inputs(), seed_weights=0).document
    assert all(op.own.max_error == op.accumulated.max_error == 0 for op in document.ops)
    assert document.outputs["logits"].sqnr_dB is None
    assert document.outputs["logits"].cosine == pytest.approx(1)


def test_weights_are_counted_as_they_are_held() -> None:
    """Of a group of 128 weights in 4 bits with a zero point: 128 x 4 + 16 + 4 bits instead of 128 x 32."""
    stored = accuracy(network(), "fp32", inputs(), seed_weights=0).document
    held = accuracy(network(), "w4a16", inputs(), seed_weights=0).document
    assert stored.held_weight_bytes == stored.weight_bytes == held.weight_bytes == 4 * network().parameters
    products = [
        weight.tensor for weight in network().weights.values() if weight.is_parameter and len(weight.tensor.shape) > 1
    ]
    assert held.held_weight_bytes < 0.14 * held.weight_bytes
    assert held.held_weight_bytes > sum(tensor.elements for tensor in products if tensor.shape[0] > 1) * 0.5


def test_several_samples_are_compared_together() -> None:
    both = accuracy(network(), "w8a16", [inputs(0), inputs(1)], seed_weights=0).document
    assert both.samples == 2
    single = [accuracy(network(), "w8a16", inputs(seed), seed_weights=0).document.outputs["logits"] for seed in (0, 1)]
    assert both.outputs["logits"].max_error == max(one.max_error for one in single)
    assert both.outputs["logits"].top1 == np.mean([one.top1 for one in single])


def test_the_layer_where_precision_is_lost_comes_first(tmp_path: Path) -> None:
    rules = [{"classes": ["contraction"], "weights": "int8"}, {"layers": ["layer1/mlp/down/*"], "weights": "int2"}]
    report = accuracy(network(), Policy.model_validate({"name": "one", "rules": rules}), inputs(), seed_weights=0)
    lines = shown(report, 100).splitlines()
    header = next(index for index, line in enumerate(lines) if line.startswith("operation"))
    assert lines[header + 1].startswith("layer1/mlp/down/")
    assert "int2" in lines[header + 1]
    frame = report.ops
    assert frame.loc[frame.own_sqnr_dB.idxmin(), "name"].startswith("layer1/mlp/down/")


def shown(report: AccuracyReport, width: int) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    report.print(console, top=5)
    return console.export_text()


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits_a_terminal(width: int) -> None:
    lines = shown(int8(), width).splitlines()
    assert max(map(len, lines)) <= width
    assert any("logits" in line and "dB" in line for line in lines)


def test_the_command_compares_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, text, sample = tmp_path / "y.npz", tmp_path / "a.json", tmp_path / "x.npz"
    graph = codesign.load("zoo:mlperf_tiny_kws")
    np.savez(sample, **codesign.random_inputs(graph, seed=5))
    words = ("execute", "zoo:mlperf_tiny_kws", "--numerics", "int8", "--seed-inputs", 0, "--seed-weights", 0)
    assert run(*words, "--calibrate", sample, "--outputs", out, "--json", text) == 0
    document = AccuracyDocument.model_validate_json(text.read_text())
    assert "calibrated by minmax on 1 sample" in document.calibration
    expected = accuracy(
        graph, "int8", codesign.random_inputs(graph, seed=0), 0, [codesign.random_inputs(graph, seed=5)]
    )
    assert document == expected.document
    name = next(iter(document.outputs))
    assert np.array_equal(np.load(out)[name], expected.outputs[name])
    assert name in capsys.readouterr().out
    assert run(*words, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["numerics"] == "int8"


def test_policies_that_cannot_be_meant_are_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("execute", "zoo:mlperf_tiny_kws", "--seed-inputs", 0)

    def refuses(numerics: str) -> str:
        return refused(capsys, *words, "--seed-weights", 0, "--numerics", numerics)

    def file(text: str) -> str:
        path = tmp_path / "policy.yaml"
        path.write_text(text)
        return refuses(str(path))

    assert "unknown numerics 'int9'; did you mean int8" in refuses("int9")
    assert "none.yaml': no such file" in refuses("none.yaml")
    assert "not valid YAML" in file("rules: [")
    assert "expected the key 'rules'" in file("- int8")
    assert "policy.yaml: unknown number format 'fp8-e4m5'; did you mean fp8-e4m3" in file(
        "rules: [{weights: fp8-e4m5}]"
    )
    assert "unknown key 'weight' at rules.0.weight; did you mean weights" in file("rules: [{weight: int8}]")
    assert "did you mean contraction?" in file("rules: [{classes: [contractions]}]")
    assert "unknown accumulator 'int80'" in file("rules: [{accumulator: int80}]")
    assert "rule 1: unknown operator 'Convol'; did you mean Conv" in file("rules: [{kinds: [Convol]}]")
    assert "no operation of the model is called 'stage1*'" in file("rules: [{layers: ['stage1*'], weights: int8}]")
    assert "format 'int8' needs a scale" in file("rules: [{weights: {format: int8, scale: none}}]")
    assert "accumulator int18 needs integer weights" in file("rules: [{classes: [contraction], accumulator: int18}]")
    assert "--outputs FILE.npz" in refused(capsys, *words)
    assert "--json goes with --numerics" in refused(capsys, *words, "--outputs", tmp_path / "y.npz", "--json", "-")


@pytest.mark.parametrize("mask", [-np.inf, np.finfo(np.float32).min, -1e4])
def test_masks_spoil_neither_ranges_nor_figures(mask: float) -> None:
    """Scores with a mask added: int8 keeps the scores as well as if there were no mask, and hides the masked ones."""
    scores = np.random.default_rng(0).standard_normal((4, 64), np.float32)
    hidden = np.zeros(64, np.float32)
    hidden[48:] = mask
    nodes = [helper.make_node("Add", ["x", "mask"], ["masked"]), helper.make_node("Softmax", ["masked"], ["y"])]
    document = accuracy(graph_of(nodes, {"x": scores}, {"mask": hidden}), "int8", {"x": scores}).document
    add, softmax = document.ops
    assert 38 < (add.own.sqnr_dB or 0) < 50
    assert (softmax.accumulated.sqnr_dB or 0) > 30


def test_what_an_operation_hides_is_said() -> None:
    names = ["q", "k", "v"]
    made = helper.make_graph(
        [helper.make_node("Attention", names, ["y"], q_num_heads=2, kv_num_heads=2)],
        "attention",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8]) for name in names],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8])],
    )
    graph = from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=11))
    document = accuracy(graph, "fp8-e4m3", codesign.random_inputs(graph, seed=0)).document
    assert document.ops[0].own.sqnr_dB is not None
    assert any(warning.startswith("Attention is one operation in this model") for warning in document.warnings)


def test_a_comparison_needs_a_sample() -> None:
    with pytest.raises(BadParameter, match="at least one sample"):
        accuracy(network(), "int8", [], seed_weights=0)
