"""Bad input on the command line: one line that names what is wrong, exit code 2, no traceback."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.commands import refused, run, small_model, write_small_model


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return write_small_model(tmp_path)


# Model files


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (bytes(range(7, 207)), "not a protobuf"), (small_model().SerializeToString()[:-20], "cut short")],
    ids=["empty", "noise", "truncated"],
)
def test_files_that_hold_no_model(content, reason, tmp_path, capsys) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    line = refused(capsys, "simulate", path, "-d", "h200")
    assert str(path) in line
    assert reason in line


def test_no_file_and_a_folder(tmp_path, capsys) -> None:
    assert "no such file" in refused(capsys, "inspect", tmp_path / "none.onnx")
    assert "not a regular file" in refused(capsys, "inspect", tmp_path)


def _cyclic(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "r"


def _dangling(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "ghost"


def _twice_written(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["x"], ["r"], name="again"))


def _wrong_size(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def _unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Relo"


def _unknown_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 999


def _no_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def _outside(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret.bin")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_cyclic, ["cyclic", "'conv'"]),
        (_dangling, ["'relu'", "'ghost'", "nothing produces"]),
        (_twice_written, ["'again'", "'r'"]),
        (_wrong_size, ["'w'", "428 bytes", "needs 432"]),
        (_unknown_operator, ["'relu'", "'Relo'", "did you mean", "Relu"]),
        (_unknown_opset, ["opset 999"]),
        (_no_shape, ["'x'"]),
        (_outside, ["'w'", "'../secret.bin'", "outside"]),
    ],
)
def test_models_that_are_wrong(
    spoil: Callable[[onnx.ModelProto], None], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = small_model()
    spoil(broken)
    path = tmp_path / "net.onnx"
    path.write_bytes(broken.SerializeToString())
    (tmp_path.parent / "secret.bin").write_bytes(bytes(432))
    for command in (("inspect", path), ("simulate", path, "-d", "stm32l4r5")):
        line = refused(capsys, *command)
        assert line.startswith(f"error: {path}: ")
        for word in words:
            assert word in line


# Names and values


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["-d", "h2000"], "unknown device 'h2000'; did you mean h200"),
        (["-d", "abacus"], "known devices: a100-40, a100-80, ethos-u65-256, h100, h200"),
        (["-d", "none.yaml"], "'none.yaml': no such file"),
        (["-d", "h200", "--set", "dram.bandwith=1"], "no parameter 'dram.bandwith'; did you mean dram.bandwidth"),
        (["-d", "h200", "--set", "dram.bandwidth=-1"], "'dram.bandwidth' = -1: input should be greater than 0"),
        (["-d", "h200", "--set", "dram.bandwidth=inf"], "'dram.bandwidth' = inf: input should be a finite number"),
        (["-d", "h200", "--set", "dram.bandwidth=nan"], "'dram.bandwidth' = nan"),
        (["-d", "h200", "--set", "dram.bandwidth=fast"], "'dram.bandwidth' = 'fast': input should be a valid number"),
        (["-d", "h200", "--set", "dram.bandwidth.peak=1"], "'bandwidth' is a single value and has no parts"),
        (["-d", "h200", "--set", "dram=1"], "'dram' = 1"),
        (["-d", "ethos-u65-256", "--set", "array.rows=8.5"], "'array.rows' = 8.5"),
        (["-d", "h200", "--set", "dram.bandwidth"], "--set dram.bandwidth: expected NAME=VALUE"),
        (["-d", "h200", "--dtype", "int9"], "unknown data type 'int9'; did you mean int8"),
        (["-d", "stm32l4r5", "--dtype", "fp64"], "cannot run float64; its own type is int8"),
        (["-d", "stm32l4r5", "--fidelity", "cycle"], "no fidelity 'cycle'; it has analytic, event"),
        (["-d", "h200", "--bind", "length=4"], "'length'"),
        (["-d", "h200", "--bind", "batch=zero"], "--bind batch=zero: expected a whole number"),
        (["-d", "h200", "--bind", "batch=0"], "--bind batch=0: expected a whole number"),
        (["-d", "h200", "--bind", "batch"], "--bind batch: expected NAME=SIZE"),
    ],
)
def test_names_and_values_of_a_simulation(words, reason, model, capsys) -> None:
    assert reason in refused(capsys, "simulate", model, *words)


@pytest.mark.parametrize("command", [("inspect",), ("export", "-o", "net.onnx"), ("simulate", "-d", "h200")])
def test_names_and_sizes_of_built_in_networks(command, model, capsys) -> None:
    name, *options = command
    assert "did you mean vit_tiny" in refused(capsys, name, "zoo:vit_tinny", *options)
    assert "no dimension 'imag'; did you mean image" in refused(
        capsys, name, "zoo:vit_tiny", *options, "--bind", "imag=64"
    )
    assert "--bind image=big" in refused(capsys, name, "zoo:vit_tiny", *options, "--bind", "image=big")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: [", "not valid YAML"),
        ("just words", "expected the keys name, class, provenance"),
        ("{name: n, class: npuu, provenance: {}}", "unknown device class 'npuu'; did you mean npu"),
        ("{name: n, class: ../npu, provenance: {}}", "unknown device class '../npu'"),
        ("{name: n, class: npu, provenance: {}, parameters: 5}", "'parameters' is 5"),
        ("{name: n, class: npu, provenance: 5}", "'provenance' is 5"),
    ],
)
def test_device_files(text, reason, model, capsys) -> None:
    Path("mine.yaml").write_text(text)
    line = refused(capsys, "simulate", model, "-d", "mine.yaml")
    assert "mine.yaml" in line
    assert reason in line


# Inputs, tables, axes


def test_inputs_of_an_execution(model, capsys) -> None:
    def execute(*words: object) -> str:
        return refused(capsys, "execute", model, "--outputs", "y.npz", *words)

    pixels = np.zeros((1, 3, 8, 8), np.float32)
    assert "--inputs FILE.npz or --seed-inputs" in execute()
    Path("text.npz").write_text("not an archive")
    assert "text.npz: not an .npz file" in execute("--inputs", "text.npz")
    assert "none.npz: no such file" in execute("--inputs", "none.npz")
    np.save("one.npy", pixels)
    assert "expected an .npz file" in execute("--inputs", "one.npy")
    np.savez("shape.npz", x=pixels[:, :2])
    assert "input 'x' has shape [1, 2, 8, 8]" in execute("--inputs", "shape.npz")
    np.savez("type.npz", x=pixels.astype(np.float64))
    assert "type float64; expected shape [1, 3, 8, 8] and type float32" in execute("--inputs", "type.npz")
    np.savez("name.npz", pixels=pixels)
    assert "no input 'pixels'" in execute("--inputs", "name.npz")
    np.savez("objects.npz", x=np.array([{}], dtype=object))
    assert "objects.npz: not an .npz file of arrays" in execute("--inputs", "objects.npz")
    assert not Path("y.npz").exists()


def test_weights_that_are_absent_cannot_be_executed(tmp_path, capsys) -> None:
    line = refused(capsys, "execute", "zoo:mlperf_tiny_kws", "--seed-inputs", 0, "--outputs", tmp_path / "y.npz")
    assert "has no values in the model" in line
    assert "seed_weights" in line


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("op,dtype\ngemm,fp16\n", "no column 'params'"),
        ("op,dtype,params\ngemm,fp16,{\n", "row 1: params '{' are not JSON"),
        ("op,dtype,params\ngemm,fp16,[1]\n", "row 1: params must be a JSON object"),
        ('op,dtype,params\ngem,fp16,"{""n"": 1}"\n', "row 1: unknown operator 'gem'; did you mean gemm"),
        ('op,dtype,params\ngemm,fp16,"{""n"": 1}"\n', "row 1: 'gemm' takes the parameters"),
        ('op,dtype,params\ngemm,fp12,"{""b"":1,""m"":1,""n"":1,""k"":1}"\n', "row 1: unknown data type 'fp12'"),
        ('op,dtype,params\ngemm,fp16,"{""b"":0,""m"":1,""n"":1,""k"":1}"\n', "row 1: parameter 'b' = 0"),
    ],
)
def test_tables_of_operators(table, reason, tmp_path, capsys) -> None:
    path = tmp_path / "ops.csv"
    path.write_text(table)
    line = refused(capsys, "ops", "-d", "h200", "--from", path, "--json", "-")
    assert str(path) in line
    assert reason in line


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--vary", "dram.bandwidth"], "--vary dram.bandwidth: expected NAME=a,b,c"),
        (["--vary", "dram.bandwidth=1:2"], "expected NAME=a,b,c"),
        (["--vary", "dram.bandwidth=1e9,,2e9"], "a value is empty"),
        (["--vary", "dram.bandwidth=1:2:1000000000"], "COUNT is from 2"),
        (["--vary", "dram.bandwidth=1:2:5000", "--vary", "sm.count=1:5000:5000"], "25,000,000 points is too large"),
        (["--vary", "sm.count=4", "--vary", "sm.count=8"], "varied twice"),
        (["--vary", "dram.width=1,2"], "no parameter 'dram.width'"),
        (["--vary", "sm.count=-4,-8"], "'sm.count' = -4"),
        (["--vary", "sm.count=4", "--objective", "speed"], "unknown objective 'speed'"),
        (["--vary", "sm.count=4", "--objective", "latency,"], "unknown objective ''"),
        (["--vary", "sm.count=4", "--fidelity", "cycle"], "no fidelity 'cycle'"),
    ],
)
def test_axes_and_objectives_of_a_sweep(words, reason, model, capsys) -> None:
    assert reason in refused(capsys, "sweep", model, "-d", "h200", *words, "--out", "points.parquet")
    assert sorted(os.listdir()) == ["small.onnx"]


def test_area_as_objective_of_a_device_whose_area_nobody_states(model, capsys) -> None:
    words = ("--vary", "core.clock=1e8", "--objective", "area", "--out", "points.parquet")
    assert "the area of device 'stm32l4r5' is not known" in refused(capsys, "sweep", model, "-d", "stm32l4r5", *words)


def test_names_of_what_can_be_validated_and_calibrated(capsys) -> None:
    assert "did you mean npu" in refused(capsys, "validate", "npuu")
    assert "did you mean npu" in refused(capsys, "calibrate", "npuu")


# Paths that cannot be written


@pytest.mark.parametrize("option", ["--json", "--html", "--trace", "--onnx"])
def test_a_simulation_is_shown_though_its_file_cannot_be_written(option, model, capsys) -> None:
    assert run("simulate", model, "-d", "stm32l4r5", option, "none/out") == 2
    shown = capsys.readouterr()
    assert "Latency" in shown.out
    assert len(shown.err.strip().splitlines()) == 1
    assert "none/out" in shown.err


@pytest.mark.parametrize(
    "words",
    [
        ("execute", "MODEL", "--seed-inputs", 0, "--outputs"),
        ("export", "zoo:mlperf_tiny_ad", "-o"),
        ("sweep", "MODEL", "-d", "stm32l4r5", "--vary", "core.clock=1e8,1e9", "--out"),
        ("ops", "-d", "h200", "--from", "ops.csv", "--json"),
    ],
)
def test_what_takes_long_is_refused_before_it_starts(words, model, capsys) -> None:
    words = [model if word == "MODEL" else word for word in words]
    assert "cannot write 'none/out': the folder 'none' does not exist" in refused(capsys, *words, "none/out")
    Path("folder").mkdir()
    assert "cannot write 'folder': it is a folder" in refused(capsys, *words, "folder")


def test_a_figure_is_not_written_over_the_points(model, capsys) -> None:
    words = ("sweep", model, "-d", "stm32l4r5", "--vary", "core.clock=1e8,1e9", "--out", "points.html")
    assert "written over the points" in refused(capsys, *words)


# Usage


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["simulate", "MODEL"], "Missing option '--device'"),
        (["simulate", "-d", "h200"], "Missing argument 'MODEL'"),
        (["simulate", "MODEL", "-d", "h200", "--batch", "0"], "--batch"),
        (["simulate", "MODEL", "-d", "h200", "--fidelity", "exact"], "--fidelity"),
        (["sweep", "MODEL", "-d", "h200", "--out", "o.parquet"], "Missing option '--vary'"),
        (["simulat"], "No such command 'simulat'"),
        (["inspect", "MODEL", "--fast"], "No such option: --fast"),
    ],
)
def test_wrong_usage_shows_the_right_one(words, reason, model, capsys) -> None:
    assert run(*(model if word == "MODEL" else word for word in words)) == 2
    shown = capsys.readouterr().err
    assert "Usage: codesign" in shown
    assert reason in shown
