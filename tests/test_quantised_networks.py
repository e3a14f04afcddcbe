"""Networks quantised by onnxruntime: which of our two integer arithmetics is onnxruntime's, its optimiser off and on.

`standard` computes in floats between DequantizeLinear and QuantizeLinear, as onnxruntime does with its optimiser off;
`fused` on the integers, as it does with its optimiser on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

import workloads
from codesign import load
from codesign.executor import Executor
from codesign.graph import Graph
from codesign.transforms import optimise
from tests.model_case import quantisation_step, reference
from tests.processor import this_processor
from tests.transform_case import seeded_inputs

NETWORKS: dict[str, dict[str, Any]] = {
    "mlperf_tiny_ic": {},
    "mlperf_tiny_kws": {},
    "mlperf_tiny_vww": {},
    "mlperf_tiny_ad": {},
    "vit_tiny": {"bind": {"image": 32}, "configuration": {"layers": 2}},
}
QDQ, OPERATORS = quantization.QuantFormat.QDQ, quantization.QuantFormat.QOperator
UNSIGNED, SIGNED = quantization.QuantType.QUInt8, quantization.QuantType.QInt8
STATIC: dict[str, dict[str, Any]] = {
    "QDQ u8 s8": {"quant_format": QDQ, "activation_type": UNSIGNED, "weight_type": SIGNED, "per_channel": True},
    "QDQ s8 s8": {"quant_format": QDQ, "activation_type": SIGNED, "weight_type": SIGNED},
    "operators u8": {"quant_format": OPERATORS, "activation_type": UNSIGNED, "weight_type": UNSIGNED},
}
FLOAT_ROUNDING = 1e-5
"""Of the spread of the outputs, where they are not quantised: sums of float32 in another order."""


class Calibration(quantization.CalibrationDataReader):
    """Four seeded inputs."""

    def __init__(self, path: Path) -> None:
        graph = load(path)
        self._inputs = iter([seeded_inputs(graph, seed) for seed in range(4)])

    def get_next(self):
        return next(self._inputs, None)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, tmp_path_factory):
    """A built-in network with seeded weights, prepared for quantisation as onnxruntime advises."""
    folder = tmp_path_factory.mktemp(request.param)
    model = workloads.materialise(workloads.build(request.param, **NETWORKS[request.param]), 0)
    onnx.save(model, folder / "raw.onnx")
    quant_pre_process(folder / "raw.onnx", folder / f"{request.param}.onnx", skip_symbolic_shape=True)
    return folder / f"{request.param}.onnx"


def steps_apart(graph: Graph, mine: dict[str, Any], theirs: list[Any]) -> tuple[float, float]:
    """Largest difference of the outputs in steps of their quantisation (0 without one), and over their spread."""
    steps = spread = 0.0
    for name, expected in zip(graph.outputs, theirs, strict=True):
        difference = float(np.max(np.abs(mine[name].astype(np.float64) - expected)))
        step = quantisation_step(graph, name)
        steps = max(steps, difference / step if step else 0.0)
        spread = max(spread, difference / float(np.ptp(expected)))
    return steps, spread


def compare(path: Path, capsys: pytest.CaptureFixture[str], label: str) -> dict[tuple[str, bool], tuple[float, float]]:
    """By our arithmetic and whether onnxruntime optimised: steps apart and the share of the spread; printed too."""
    graph = load(path)
    inputs = seeded_inputs(graph, seed=7)
    theirs = {on: reference(path, inputs, graph.outputs, optimised=on) for on in (False, True)}
    found = {}
    with this_processor():
        for arithmetic in ("standard", "fused"):
            mine = Executor(optimise(graph, quantised=arithmetic)).run(inputs)
            found |= {(arithmetic, on): steps_apart(graph, mine, theirs[on]) for on in theirs}
    with capsys.disabled():
        cells = (
            f"{name} {'on' if on else 'off'} {steps:.2f} {spread:.0e}" for (name, on), (steps, spread) in found.items()
        )
        print(f"\n{label:30}", *cells, sep="  ")
    return found


@pytest.mark.parametrize("form", STATIC)
def test_static_quantisation(network, form, tmp_path, capsys):
    """To the output step: the standard's arithmetic is onnxruntime's unoptimised, the fused one its optimised, and
    where these two differ, each of ours is closest to its own."""
    path = tmp_path / "quantised.onnx"
    quantization.quantize_static(network, path, Calibration(network), **STATIC[form])
    found = compare(path, capsys, f"{network.stem} {form}")
    assert found["standard", False][0] <= 1.001
    assert found["fused", True][0] <= 1.001
    assert found["standard", False] <= found["standard", True]
    assert found["fused", True] <= found["fused", False]
    assert found["fused", True] <= found["standard", True]


def test_dynamic_quantisation(network, tmp_path, capsys):
    """Both arithmetics are the same here: integers are dequantised at once."""
    path = tmp_path / "quantised.onnx"
    quantization.quantize_dynamic(network, path)
    found = compare(path, capsys, f"{network.stem} dynamic")
    assert max(spread for _, spread in found.values()) < FLOAT_ROUNDING
