"""A model file as a test: executed against onnxruntime, and simulated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from codesign import device, simulate
from codesign.executor import Executor
from codesign.graph import Graph
from tests.onnx_case import relative_error
from tests.transform_case import Array, seeded_inputs

DEVICES = ("h200", "host", "ethos-u65-256", "pim-gpt", "stm32l4r5")


def reference(path: Path, inputs: dict[str, Array], outputs: tuple[str, ...], optimised: bool = True) -> list[Array]:
    """What onnxruntime computes, its own graph optimisations left out unless `optimised`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(list(outputs), inputs)]


def error_against_onnxruntime(path: Path, *graphs: Graph, optimised: bool = True) -> float:
    """Largest difference of any output of any of the `graphs` from onnxruntime's, over the output's spread.

    A result of quantisation may be one step off: what is beyond the step counts. Text must be equal.
    """
    given = seeded_inputs(graphs[0])
    expected = reference(path, given, graphs[0].outputs, optimised)
    worst = 0.0
    for graph in graphs:
        found = Executor(graph).run(given)
        for name, theirs in zip(graph.outputs, expected, strict=True):
            mine = found[name]
            assert mine.shape == theirs.shape, name
            if mine.dtype == object:
                assert mine.tolist() == theirs.tolist()
                continue
            assert mine.dtype == theirs.dtype, name
            assert mine.size == 1 or np.ptp(theirs) > 0, name
            step = quantisation_step(graph, name)
            if step and np.max(np.abs(mine - theirs)) <= 1.001 * step:
                continue
            worst = max(worst, relative_error(mine, theirs))
    return worst


def quantisation_step(graph: Graph, name: str) -> float:
    """The scale by which a graph's output was dequantised; 0 when it was not."""
    op = graph.producers()[name]
    op = op.epilogue[-1] if op.epilogue else op
    if op.kind != "DequantizeLinear":
        return 0.0
    scale = graph.weights[op.inputs[1]].array()
    assert scale is not None
    return float(scale.max())


def check_simulates(graph: Graph, name: str) -> None:
    """Operations get time on the device, and a latency comes out."""
    report = simulate(graph, device(name))
    assert len(report.ops) > 0
    assert report.latency_s >= report.ops["latency_s"].max() > 0
    assert np.isfinite(report.energy_J)
