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


def error_against_onnxruntime(path: Path, *graphs: Graph, inputs: dict[str, Array] | None = None) -> float:
    """Largest difference of any output of any of the `graphs` from onnxruntime's, over the output's spread."""
    given = inputs or seeded_inputs(graphs[0])
    expected = reference(path, given, graphs[0].outputs)
    worst = 0.0
    for graph in graphs:
        found = Executor(graph).run(given)
        for name, theirs in zip(graph.outputs, expected, strict=True):
            assert (found[name].shape, found[name].dtype) == (theirs.shape, theirs.dtype), name
            worst = max(worst, relative_error(found[name], theirs))
    return worst


def check_simulates(graph: Graph, name: str) -> None:
    """Every operation gets time on the device, and a latency comes out."""
    report = simulate(graph, device(name))
    assert report.latency_s > 0
    assert len(report.ops) >= len(graph.ops) > 0
    assert np.isfinite(report.energy_J)
