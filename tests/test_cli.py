"""The command line, through its entry point: what each command writes, and one line with exit code 2 for bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper

import codesign
from codesign.cli import main

DEVICES = ("ethos-u65-256", "h200", "i9-10940x", "pim-gpt", "stm32l4r5")


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A convolution with bias, ReLU and a dense layer: weights in the file, one symbolic dimension."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((4, 3, 3, 3)), "b": rng.standard_normal(4), "d": rng.standard_normal((4, 10)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "d"], ["y"], name="dense"),
    ]
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )  # fmt: skip
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


def run(*words: object) -> int:
    """Exit code of the command line given these words."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line on standard error with which a command is refused."""
    assert run(*words) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in captured.err
    return lines[0]


@pytest.mark.parametrize("device", DEVICES)
def test_simulate_writes_the_document_that_the_schema_describes(model, device, tmp_path, capsys) -> None:
    out = tmp_path / "result.json"
    assert run("simulate", model, "--device", device, "--batch", 2, "--json", out) == 0
    document = json.loads(out.read_text())
    schema = json.loads((Path(__file__).parent / "data" / "report_schema.json").read_text())
    assert set(document) == set(schema["properties"])
    assert document["batch"] == 2
    assert document["latency_s"] == pytest.approx(sum(op["latency_s"] for op in document["ops"]), rel=1e-9)
    assert document["energy_J"] == pytest.approx(sum(document["energy"].values()), rel=1e-9)
    assert {node for op in document["ops"] for node in op["onnx_nodes"]} >= {"conv", "relu", "pool", "dense"}
    assert "Latency" in capsys.readouterr().out


def test_simulate_prints_json_alone_when_asked(model, capsys) -> None:
    assert run("simulate", model, "-d", "h200", "--dtype", "bf16", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["dtype"] == "bfloat16"


def test_simulate_writes_page_trace_and_annotated_model(model, tmp_path) -> None:
    page, trace, annotated = (tmp_path / name for name in ("r.html", "t.json", "a.onnx"))
    code = run("simulate", model, "-d", "ethos-u65-256", "--html", page, "--trace", trace, "--onnx", annotated)
    assert code == 0
    assert page.stat().st_size > 1_000_000
    assert json.loads(trace.read_text())["traceEvents"]
    nodes = onnx.load(annotated).graph.node
    keys = [{entry.key for entry in node.metadata_props} for node in nodes[:2]]
    assert all(found >= {"codesign.latency", "codesign.energy"} for found in keys)


def test_fidelities_are_a_ladder(model, tmp_path) -> None:
    times = {}
    for fidelity in ("analytic", "event", "cycle"):
        out = tmp_path / f"{fidelity}.json"
        assert run("simulate", model, "-d", "ethos-u65-256", "--fidelity", fidelity, "--json", out) == 0
        times[fidelity] = json.loads(out.read_text())["latency_s"]
    assert times["analytic"] <= times["event"]


def test_set_changes_the_device(model, tmp_path) -> None:
    latencies = []
    for bandwidth in ("4.8e12", "4.8e9"):
        out = tmp_path / "r.json"
        run("simulate", model, "-d", "h200", "--batch", 64, "--set", f"dram.bandwidth={bandwidth}", "--json", out)
        latencies.append(json.loads(out.read_text())["latency_s"])
    assert latencies[1] > latencies[0]


def test_inspect_counts_what_the_graph_says(model, tmp_path, capsys) -> None:
    assert run("inspect", model, "--json", "-") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["macs"] == 8 * 8 * 4 * 27 + 40
    assert found["parameters"] == 4 * 27 + 4 + 40
    assert found["weight_bytes"] == 4 * found["parameters"]


def test_execute_agrees_with_onnxruntime(model, tmp_path) -> None:
    import onnxruntime

    pixels = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=pixels)
    out = tmp_path / "y.npz"
    assert run("execute", model, "--batch", 2, "--inputs", tmp_path / "x.npz", "--outputs", out) == 0
    expected = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": pixels})[0]
    error = np.abs(np.load(out)["y"] - expected).max() / np.ptp(expected)
    assert error < 1e-4


def test_execute_makes_inputs_and_weights_from_seeds(tmp_path) -> None:
    results = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.npz"
        code = run("execute", "zoo:mlperf_tiny_kws", "--seed-inputs", 3, "--seed-weights", 1, "--outputs", out)
        assert code == 0
        results.append(next(iter(np.load(out).values())))
    np.testing.assert_array_equal(*results)


def test_ops_keeps_the_order_of_rows_and_warm_is_no_slower(tmp_path) -> None:
    table = tmp_path / "ops.csv"
    rows = [f'gemm,fp16,"{{""b"": 1, ""m"": {size}, ""n"": {size}, ""k"": {size}}}"' for size in (512, 4096)]
    table.write_text("\n".join(["op,dtype,params", *rows]) + "\n")
    times = {}
    for cache in ("cold", "warm"):
        out = tmp_path / f"{cache}.json"
        assert run("ops", "--device", "h200", "--from", table, "--cache", cache, "--json", out) == 0
        times[cache] = [row["latency_s"] for row in json.loads(out.read_text())["ops"]]
        assert all(row["energy_J"] > 0 for row in json.loads(out.read_text())["ops"])
    assert times["cold"][0] < times["cold"][1]
    assert all(warm <= cold for warm, cold in zip(times["warm"], times["cold"], strict=True))


def test_sweep_writes_points_front_and_figure(model, tmp_path) -> None:
    out = tmp_path / "points.parquet"
    axes = ("--vary", "array.rows=8,16", "--vary", "dram.bandwidth=1e9:4e9:3log")
    code = run("sweep", model, "-d", "ethos-u65-256", *axes, "--out", out, "--objective", "latency,energy,area")
    assert code == 0
    frame = pd.read_parquet(out)
    assert len(frame) == 6
    assert frame["pareto"].any()
    assert (tmp_path / "points.html").exists()


def test_explain_names_bound_and_elasticities(model, capsys) -> None:
    assert run("explain", model, "-d", "ethos-u65-256") == 0
    shown = capsys.readouterr().out
    assert "dram.bandwidth" in shown
    assert "latency" in shown


def test_workloads_and_devices_are_listed(capsys) -> None:
    assert run("workloads", "--json") == 0
    names = {entry["name"] for entry in json.loads(capsys.readouterr().out)}
    assert {"vit_tiny", "llama3_8b", "mlperf_tiny_ic"} <= names
    assert run("devices") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*DEVICES, "host"))


def test_export_without_weights_is_small_and_simulates_alike(tmp_path) -> None:
    path = tmp_path / "bert.onnx"
    assert run("export", "zoo:bert_base", "-o", path, "--no-weights") == 0
    assert path.stat().st_size < 1_000_000
    chosen = codesign.device("h200")
    exported = codesign.simulate(codesign.load(path), chosen)
    assert exported.latency_s == codesign.simulate(codesign.load("zoo:bert_base"), chosen).latency_s


def test_exported_weights_are_the_seeds(tmp_path) -> None:
    path = tmp_path / "kws.onnx"
    assert run("export", "zoo:mlperf_tiny_kws", "-o", path, "--seed-weights", 5) == 0
    graph, built = codesign.load(path), codesign.load("zoo:mlperf_tiny_kws")
    inputs = codesign.random_inputs(graph, 0)
    ours = next(iter(codesign.execute(built, inputs, seed_weights=5).values()))
    np.testing.assert_allclose(next(iter(codesign.execute(graph, inputs).values())), ours, rtol=1e-5, atol=1e-6)


def test_schema_is_the_one_that_is_held(capsys) -> None:
    assert run("schema") == 0
    held = json.loads((Path(__file__).parent / "data" / "report_schema.json").read_text())
    assert json.loads(capsys.readouterr().out) == held


def test_validate_fails_loudly_when_a_bound_is_broken(monkeypatch, capsys) -> None:
    from codesign.validation import Bound
    from hwmodels.npu import validation

    first = next(iter(validation.comparisons()))
    monkeypatch.setattr(validation, "comparisons", lambda: [first])
    monkeypatch.setattr(validation, "BOUNDS", (Bound(first.group, "worst_ratio", 1.0 + 1e-12),))
    assert first.ratio > 1.0 + 1e-12
    assert run("validate", "npu") == 1
    assert "BROKEN" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("simulate", "MODEL", "-d", "h2000"), "did you mean h200"),
        (("simulate", "MODEL", "-d", "h200", "--set", "dram.bandwith=1"), "did you mean dram.bandwidth"),
        (("simulate", "MODEL", "-d", "h200", "--set", "dram.bandwidth=-1"), "dram.bandwidth"),
        (("simulate", "MODEL", "-d", "h200", "--set", "dram.bandwidth=fast"), "dram.bandwidth"),
        (("simulate", "MODEL", "-d", "h200", "--set", "dram.bandwidth"), "expected NAME=VALUE"),
        (("simulate", "MODEL", "-d", "h200", "--dtype", "fp12"), "unknown data type 'fp12'"),
        (("simulate", "MODEL", "-d", "stm32l4r5", "--fidelity", "cycle"), "no fidelity 'cycle'"),
        (("simulate", "MODEL", "-d", "h200", "--bind", "sequence=4"), "batch"),
        (("simulate", "MODEL", "-d", "h200", "--bind", "batch=zero"), "whole number"),
        (("simulate", "MODEL", "-d", "h200", "--json", "/nowhere/r.json"), "/nowhere/r.json"),
        (("simulate", "zoo:vit_tinny", "-d", "h200"), "did you mean vit_tiny"),
        (("simulate", "missing.onnx", "-d", "h200"), "missing.onnx"),
        (("simulate", "FOLDER", "-d", "h200"), "FOLDER"),
        (("inspect", "NOISE"), "NOISE"),
        (("execute", "MODEL", "--outputs", "y.npz"), "--inputs"),
        (("execute", "MODEL", "--inputs", "NOISE", "--outputs", "y.npz"), "NOISE"),
        (("execute", "zoo:mlperf_tiny_kws", "--seed-inputs", "0", "--outputs", "y.npz"), "seed_weights"),
        (("ops", "-d", "h200", "--from", "NOISE", "--json", "-"), "NOISE"),
        (("sweep", "MODEL", "-d", "h200", "--vary", "dram.bandwidth", "--out", "o.parquet"), "expected NAME=a,b,c"),
        (("sweep", "MODEL", "-d", "h200", "--vary", "dram.width=1,2", "--out", "o.parquet"), "dram.width"),
        (("sweep", "MODEL", "-d", "h200", "--vary", "sm.count=-4", "--out", "o.parquet"), "sm.count"),
        (("sweep", "MODEL", "-d", "h200", "--vary", "sm.count=4", "--objective", "speed", "--out", "o"), "speed"),
        (("validate", "npuu"), "did you mean npu"),
        (("export", "zoo:resnet5", "-o", "r.onnx"), "did you mean resnet50"),
    ],
)
def test_bad_input_is_one_line_with_the_reason(words, expected, model, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    noise = tmp_path / "noise.bin"
    noise.write_bytes(bytes(range(7, 207)))
    named = {"MODEL": model, "NOISE": str(noise), "FOLDER": str(tmp_path)}
    line = refused(capsys, *(named.get(word, word) for word in words))
    assert named.get(expected, expected) in line


def test_missing_option_is_a_usage_error(model) -> None:
    assert run("simulate", model) == 2


def test_debug_shows_where_an_error_came_from(model) -> None:
    from codesign.errors import BadParameter

    with pytest.raises(BadParameter):
        main(["simulate", model, "-d", "h2000", "--debug"])


def test_as_a_program_it_prints_help_and_loads_nothing_heavy() -> None:
    code = "import sys, codesign.cli; print(sorted({'numpy', 'onnx', 'numba', 'pandas', 'plotly'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
