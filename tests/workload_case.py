"""What the tests of the built-in networks share: counts from ONNX's own shapes, and runs by onnxruntime and by us."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime

import workloads
from codesign.executor import Executor
from codesign.frontend import from_proto
from codesign.transforms import optimise

Array = np.ndarray[Any, Any]


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape by ONNX's own inference, which knows nothing of the builder's."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    return _stated_shapes(inferred) | {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}


def macs_by_onnx_shapes(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of convolutions, products and attention, from inferred shapes; not of what is computed of
    weights and constants alone, once for all inputs."""
    return _macs(model.graph, shapes_of(model))


def _macs(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    total, fixed = 0, {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if fixed.issuperset(filter(None, node.input)) and node.op_type != "Scan":
            fixed.update(node.output)
            continue
        inputs = [shapes.get(name, ()) for name in node.input]
        output = math.prod(shapes[node.output[0]])
        if node.op_type in ("Conv", "DeformConv"):
            total += output * math.prod(inputs[1][1:])
        elif node.op_type == "ConvTranspose":
            total += math.prod(inputs[0]) * math.prod(inputs[1][1:])
        elif node.op_type in ("MatMul", "Gemm"):
            total += output * inputs[0][-1]
        elif node.op_type == "Einsum":
            labels = attributes_of(node)["equation"].decode().partition("->")[0].split(",")
            total += math.prod(dict(zip("".join(labels), sum(inputs, ()), strict=True)).values())
        elif node.op_type == "Attention":
            keys = shapes[node.output[1]][2] if len(node.output) > 1 else inputs[1][2]
            total += math.prod(inputs[0][:3]) * keys * 2 * inputs[0][3]
        elif node.op_type == "Scan":
            attributes = attributes_of(node)
            trips = inputs[-1][attributes["scan_input_axes"][-1]]
            total += trips * _macs(attributes["body"], {**shapes, **_stated_shapes(attributes["body"])})
    return total


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _stated_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    values = [*graph.input, *graph.output, *graph.value_info]
    return {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def random_inputs(session: onnxruntime.InferenceSession, seed: int = 0) -> dict[str, Array]:
    """Standard normal floats, and zeros and ones for integers (tokens, masks)."""
    generator = np.random.default_rng(seed)
    return {
        value.name: generator.standard_normal(value.shape, dtype=np.float32)
        if value.type == "tensor(float)"
        else generator.integers(0, 2, value.shape)
        for value in session.get_inputs()
    }


def run_onnxruntime(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    session = session_of(model)
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, dict(inputs)), strict=True))


def run_here(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of our executor, on the graph as simulations transform it."""
    return Executor(optimise(from_proto(model))).run(dict(inputs))


def reduced(name: str, seed: int = 0, batch: int = 2, **changes: Any) -> onnx.ModelProto:
    """A workload's reduced form with seeded weights."""
    return workloads.materialise(workloads.build_reduced(name, batch, **changes), seed)


def outputs_here(name: str, inputs: Mapping[str, Array], seed: int = 0, **changes: Any) -> dict[str, Array]:
    """Outputs of a workload's reduced form, whose weights come from `seed`, by our executor."""
    batch = next(iter(inputs.values())).shape[0]
    return run_here(reduced(name, seed, batch, **changes), inputs)


def assert_close(found: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float = 1e-4) -> None:
    """Each output differs from what is expected by at most `tolerance` of its largest value."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].shape == values.shape, name
        assert np.abs(found[name] - values).max() <= tolerance * np.abs(values).max(), name
