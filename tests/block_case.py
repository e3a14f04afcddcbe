"""Runs a small graph of the workloads' builder on onnxruntime and on the executor, and holds one to the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime

import codesign
import workloads
from codesign.frontend import from_proto
from workloads.builder import Builder, Value

Arrays = dict[str, np.ndarray[Any, Any]]


def run_model(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray[Any, Any]], seed: int = 0) -> Arrays:
    """Outputs of a workload with weights of `seed`: it passes the checker, and onnxruntime and the executor agree."""
    model = workloads.materialise(model, seed=seed)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(inputs)), strict=True))
    computed = codesign.Executor(from_proto(model)).run(dict(inputs))
    assert computed.keys() == expected.keys()
    for name, array in expected.items():
        assert np.isfinite(array).all(), name
        np.testing.assert_allclose(computed[name], array, rtol=1e-3, atol=1e-4 * (float(array.std()) + 1e-6))
    return computed


def run_block(
    block: Callable[..., Value | tuple[Value, ...]], *inputs: np.ndarray[Any, Any], seed: int = 0
) -> list[np.ndarray[Any, Any]]:
    """Outputs of `block(graph, *values)`, its arguments the graph's inputs."""
    graph = Builder("block")
    types = [onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for array in inputs]
    values = [graph.input(f"input{i}", a.shape, t) for i, (a, t) in enumerate(zip(inputs, types, strict=True))]
    results = block(graph, *values)
    for index, result in enumerate(results if isinstance(results, tuple) else (results,)):
        graph.output(result, f"output{index}")
    return list(run_model(graph.model(), {f"input{i}": array for i, array in enumerate(inputs)}, seed).values())
