"""The command line, through its entry point: what each command writes and prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest

import codesign
from codesign.cli import main
from tests.commands import run, write_small_model

MODELS = Path(__file__).parent / "data" / "models"

DEVICES = ("ethos-u65-256", "h200", "i9-10940x", "pim-gpt", "stm32l4r5")


@pytest.fixture
def model(tmp_path: Path) -> str:
    return write_small_model(tmp_path)


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
    for bandwidth in ("6e12", "6e8"):
        out = tmp_path / "r.json"
        run("simulate", model, "-d", "h200", "--batch", 64, "--set", f"l2.bandwidth={bandwidth}", "--json", out)
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


@pytest.mark.parametrize(("arithmetic", "level"), [("standard", "ORT_DISABLE_ALL"), ("fused", "ORT_ENABLE_ALL")])
def test_execute_computes_quantised_operations_as_asked(arithmetic, level, tmp_path) -> None:
    import onnxruntime

    path = MODELS / "convolutions__quantize_static_qdq.onnx"
    inputs = codesign.random_inputs(codesign.load(path), seed=0)
    np.savez(tmp_path / "in.npz", **inputs)
    out = tmp_path / "out.npz"
    assert run("execute", path, "--inputs", tmp_path / "in.npz", "--outputs", out, "--quantised", arithmetic) == 0
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for name, expected in zip(names, session.run(None, inputs), strict=True):
        assert np.abs(np.load(out)[name] - expected).max() <= 1.001 * np.diff(np.unique(expected)).min()


def test_execute_saturates_as_processors_without_vnni_do(tmp_path) -> None:
    folder = MODELS.parent / "saturation"
    with np.load(folder / "results.npz") as recorded:
        expected = recorded["product_5x33x20"]
        np.savez(tmp_path / "in.npz", x0=recorded["product_5x33x20.x0"])
    command = ["execute", folder / "product_5x33x20.onnx", "--inputs", tmp_path / "in.npz"]
    assert run(*command, "--outputs", tmp_path / "saturated.npz", "--quantised", "saturating") == 0
    assert run(*command, "--outputs", tmp_path / "exact.npz") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "saturated.npz")["y"], expected)
    assert (np.load(tmp_path / "exact.npz")["y"] != expected).mean() > 0.9


def test_execute_makes_inputs_and_weights_from_seeds(tmp_path) -> None:
    results = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.npz"
        code = run("execute", "zoo:mlperf_tiny_kws", "--seed-inputs", 3, "--seed-weights", 1, "--outputs", out)
        assert code == 0
        results.append(next(iter(np.load(out).values())))
    np.testing.assert_array_equal(*results)


def test_ops_keeps_the_order_of_rows_and_warm_is_no_slower(tmp_path) -> None:
    """Where the power limit does not bind, which only what is repeated for long meets."""
    table = tmp_path / "ops.csv"
    rows = [f'gemm,fp16,"{{""b"": 1, ""m"": {size}, ""n"": {size}, ""k"": {size}}}"' for size in (512, 2048)]
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
    assert run("workloads", "mlperf_tiny", "vit_tiny", "--json") == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries.keys() == {"vit_tiny", *(f"mlperf_tiny_{task}" for task in ("ad", "ic", "kws", "vww"))}
    assert entries["vit_tiny"]["input"] == {"pixels": [1, 3, 224, 224]}
    assert entries["vit_tiny"]["params"] == 5717416
    assert run("workloads", "mlperf_tiny", "--table") == 0
    assert capsys.readouterr().out.count("agrees") == 4
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


def test_inspect_and_simulate_agree_on_what_is_stored(tmp_path, capsys) -> None:
    """Folding batch normalisations makes one bias of a gain and a shift: ResNet-50 has 26,560 such channels."""
    out = tmp_path / "r.json"
    assert run("inspect", "zoo:resnet50", "--dtype", "fp16", "--json", "-") == 0
    inspected = json.loads(capsys.readouterr().out)
    assert run("simulate", "zoo:resnet50", "-d", "h200", "--json", out) == 0
    simulated = json.loads(out.read_text())
    assert inspected["parameters"] == simulated["params"] == 25_557_032
    assert inspected["weight_bytes"] == simulated["weight_bytes"] == 2 * (25_557_032 - 26_560)


def test_a_built_in_network_simulates_without_a_warning(capsys) -> None:
    assert run("inspect", "zoo:mlperf_tiny_kws") == 0
    assert capsys.readouterr().err == ""
    assert run("simulate", "zoo:mlperf_tiny_kws", "-d", "h200", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == []


@pytest.mark.parametrize("command", ["devices", "workloads"])
def test_lists_keep_one_line_an_entry_at_80_columns(command, monkeypatch, capsys) -> None:
    import workloads

    monkeypatch.setenv("COLUMNS", "80")
    assert run(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(codesign.device_names() if command == "devices" else workloads.names())
    assert max(map(len, lines)) <= 80


def test_annotated_networks_of_the_zoo_keep_their_nodes(tmp_path) -> None:
    for name in ("first.onnx", "second.onnx"):
        path = tmp_path / name
        assert run("simulate", "zoo:mlperf_tiny_ic", "-d", "ethos-u65-256", "--onnx", path) == 0
        assert all(node.metadata_props for node in onnx.load(path, load_external_data=False).graph.node)


def test_execute_agrees_with_onnxruntime_on_an_exported_transformer(tmp_path) -> None:
    import onnxruntime

    path = Path(__file__).parent / "data" / "models" / "vit_2_layers__dynamo.onnx"
    inputs = codesign.random_inputs(codesign.load(path), 7)
    np.savez(tmp_path / "in.npz", **inputs)
    assert run("execute", path, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.anything") == 0
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    with np.load(tmp_path / "out.anything") as found:
        assert sorted(found.files) == sorted(names)
        for name, expected in zip(names, session.run(None, inputs), strict=True):
            assert np.abs(found[name] - expected).max() < 1e-4 * np.ptp(expected)


def test_arrays_of_any_name_and_type_are_written(tmp_path) -> None:
    import ml_dtypes

    from codesign.study.arrays import read_arrays, write_arrays

    arrays = {"file": np.arange(3), "a/b": np.ones((2, 0)), "half": np.array([1.5, 2.5], ml_dtypes.bfloat16)}
    write_arrays(tmp_path / "all.npz", arrays)
    found = read_arrays(tmp_path / "all.npz")
    assert found.keys() == arrays.keys()
    assert found["half"].tolist() == [1.5, 2.5]
    assert found["half"].dtype == np.float32


def test_validate_prints_the_ladder(monkeypatch, capsys) -> None:
    import workloads

    monkeypatch.setattr(workloads, "representatives", lambda: ["mlperf_tiny_ad"])
    assert run("validate", "ladder") == 0
    shown = capsys.readouterr().out
    assert f"{len(codesign.device_names())} of {len(codesign.device_names())} hold" in shown


def test_calibrate_prints_parameters(monkeypatch, capsys) -> None:
    from hwmodels.npu import calibrate

    monkeypatch.setattr(calibrate, "calibrate", lambda: {"array.rows": 8.25})
    assert run("calibrate", "npu") == 0
    assert capsys.readouterr().out.strip() == "array.rows: 8.25"


def test_debug_shows_where_an_error_came_from(model) -> None:
    from codesign.errors import BadParameter

    with pytest.raises(BadParameter):
        main(["simulate", model, "-d", "h2000", "--debug"])


def test_two_processes_print_the_same_document(model) -> None:
    """Whatever the order in which their sets and dictionaries hash."""
    code = "from codesign.cli import main; main()"
    words = ["simulate", model, "-d", "ethos-u65-256", "--json", "-"]
    printed = [
        subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert json.loads(printed[0])["latency_s"] > 0


def test_an_interrupt_ends_a_sweep_with_its_points_kept(tmp_path) -> None:
    """SIGINT to the whole group, as a terminal sends it: no traceback, and the journal holds every finished point."""
    out = tmp_path / "points.parquet"
    words = ["sweep", "zoo:mobilenetv2", "-d", "ethos-u65-256", "--vary", "array.rows=4,8,16,32"]
    words += ["--vary", "dram.bandwidth=1e9:64e9:100log", "--processes", "2", "--out", str(out)]
    # A shell starts what it puts in the background with SIGINT ignored, and children inherit that: not here.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code += "; from codesign.cli import main; main()"
    started = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    journal = Path(f"{out}.points")
    while started.poll() is None and not (journal.exists() and journal.read_text().count("\n") >= 4):
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGINT)
    _, shown = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "Traceback" not in shown
    assert not out.exists()
    kept = [json.loads(line) for line in journal.read_text().splitlines()]
    assert 4 <= len(kept) < 400


def test_as_a_program_it_prints_help_and_loads_nothing_heavy() -> None:
    code = "import sys, codesign.cli; print(sorted({'numpy', 'onnx', 'numba', 'pandas', 'plotly'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
