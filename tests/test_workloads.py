"""The built-in networks: valid, as large as published, built without their weights, and numerically consistent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import workloads
from codesign.errors import BadParameter

RUNNING_STATISTICS = {"BatchNormalization": (3, 4)}
"""Inputs that are not learned: means and variances collected in training, which published counts leave out."""


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape by ONNX's own inference, which knows nothing of the builder's."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    values = [*inferred.input, *inferred.output, *inferred.value_info]
    shapes = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}


def parameters_of(model: onnx.ModelProto) -> int:
    statistics = {node.input[index] for node in model.graph.node for index in RUNNING_STATISTICS.get(node.op_type, ())}
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.name not in statistics)


def macs_of(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of convolutions, products and attention, from inferred shapes."""
    shapes = shapes_of(model)
    total = 0
    for node in model.graph.node:
        inputs = [shapes.get(name, ()) for name in node.input]
        output = math.prod(shapes[node.output[0]])
        if node.op_type == "Conv":
            total += output * math.prod(inputs[1][1:])
        elif node.op_type in ("MatMul", "Gemm"):
            total += output * inputs[0][-1]
        elif node.op_type == "Attention":
            keys = shapes[node.output[1]][2] if len(node.output) > 1 else inputs[1][2]
            total += math.prod(inputs[0][:3]) * keys * 2 * inputs[0][3]
    return total


def random_inputs(session: onnxruntime.InferenceSession, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    return {
        value.name: generator.standard_normal(value.shape, dtype=np.float32)
        if value.type == "tensor(float)"
        else generator.integers(0, 2, value.shape)
        for value in session.get_inputs()
    }


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", workloads.names())
def test_parameters_and_macs_match_the_published_figures(name: str) -> None:
    model = workloads.build(name)
    published = workloads.info(name).published
    assert parameters_of(model) == pytest.approx(published.parameters, rel=0.01)
    assert macs_of(model) == pytest.approx(published.macs, rel=0.02)


@pytest.mark.parametrize(("name", "configuration"), [("vit_tiny", {}), ("resnet50", {}), ("gpt2_small", {"layers": 2})])
def test_seeded_model_passes_the_checker_and_computes_finite_values(name: str, configuration: dict[str, int]) -> None:
    model = workloads.materialise(workloads.build(name, configuration=configuration), seed=0)
    onnx.checker.check_model(model, full_check=True)
    session = session_of(model)
    for output in session.run(None, random_inputs(session)):
        assert np.isfinite(output).all()
        assert output.std() > 1e-3


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadParameter, match="did you mean vit_tiny"):
        workloads.build("vit_tinny")


def test_unknown_dimension_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadParameter, match="no dimension 'sequense'; did you mean sequence"):
        workloads.build("gpt2_small", bind={"sequense": 4})
