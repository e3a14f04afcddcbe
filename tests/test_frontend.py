"""Loading ONNX: shapes, constants, parameters and names of what comes out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from codesign.frontend import from_proto
from codesign.graph import Graph

FLOAT = TensorProto.FLOAT


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str | None]],
    outputs: Sequence[str],
    weights: dict[str, np.ndarray[Any, Any]] | None = None,
    opset: int = 18,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model of float inputs; its outputs state no shape."""
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=10)


def shapes(graph: Graph) -> list[tuple[int, ...]]:
    """Shapes of the outputs."""
    return [graph.tensors[name].shape for name in graph.outputs]


def kinds(graph: Graph) -> list[str]:
    return [op.kind for op in graph.ops]


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng([7, *shape]).standard_normal(shape, dtype=np.float32)


def integers(*values: int) -> np.ndarray[Any, Any]:
    return np.asarray(values, dtype=np.int64)


def test_importing_the_front_end_does_not_import_onnx() -> None:
    code = "import sys, codesign.frontend; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("opset", range(7, onnx.defs.onnx_opset_version() + 1))
def test_loads_a_convolution_network_of_every_opset(opset: int) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "d"], ["y"], name="head"),
    ]
    weights = {"w": floats(4, 3, 3, 3), "b": floats(4), "v": floats(4 * 3 * 3, 10), "d": floats(10)}
    graph = from_proto(model_of(nodes, {"x": [1, 3, 8, 8]}, ["y"], weights, opset))
    assert shapes(graph) == [(1, 10)]
    assert graph.parameters == 4 * 27 + 4 + 36 * 10 + 10
    assert [op.name for op in graph.ops] == ["conv", "Relu_1", "Flatten_2", "head"]
    assert graph.ops[0].sources == ("conv",)
    assert graph.ops[0].attributes["strides"] == (2, 2)
    assert {op.opset for op in graph.ops} == {opset}


def test_folds_shape_arithmetic_to_constants() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    weights = {"zero": np.asarray(0), "axis": integers(0), "minus": integers(-1)}
    graph = from_proto(model_of(nodes, {"x": [2, 3, 4]}, ["y"], weights))
    assert kinds(graph) == ["Reshape"]
    assert shapes(graph) == [(2, 12)]
    assert graph.weights["target"].inline is not None
    assert graph.parameters == 0


def test_removes_identity_and_dropout_and_keeps_the_names_of_outputs() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Dropout", ["r"], ["d"]),
        helper.make_node("Identity", ["d"], ["y"]),
    ]
    graph = from_proto(model_of(nodes, {"x": [2, 3]}, ["y"]))
    assert kinds(graph) == ["Relu"]
    assert graph.outputs == ("y",)
    assert graph.ops[0].outputs == ("y",)


def test_an_output_that_is_an_input_stays_readable_under_both_names() -> None:
    graph = from_proto(model_of([helper.make_node("Identity", ["x"], ["y"])], {"x": [2]}, ["y"]))
    assert graph.inputs == ("x",)
    assert graph.outputs == ("y",)
    assert kinds(graph) == ["Identity"]


def test_tied_embeddings_count_once_and_their_transpose_is_no_operation() -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Add", ["e", "x"], ["h"]),
        helper.make_node("Transpose", ["table"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["h", "t"], ["y"]),
    ]
    table = floats(300, 16)
    graph = from_proto(model_of(nodes, {"x": [1, 2, 16]}, ["y"], {"table": table, "ids": np.asarray([[3, 4]])}))
    assert kinds(graph) == ["Gather", "Add", "MatMul"]
    assert graph.parameters == 300 * 16
    derived = graph.weights["t"].array()
    assert derived is not None
    np.testing.assert_array_equal(derived, table.T)


def test_small_graphs_of_classical_learners_load() -> None:
    nodes = [
        helper.make_node(
            "LinearClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml", coefficients=[0.5] * 12,
            intercepts=[0.0] * 3, classlabels_ints=[0, 1, 2],
        ),
        helper.make_node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]),
    ]  # fmt: skip
    graph = from_proto(model_of(nodes, {"x": ["n", 4]}, ["label", "y"], domains=["ai.onnx.ml"]), batch=5)
    assert shapes(graph) == [(5,), (5, 3)]
    assert graph.outputs == ("label", "y")
    assert any("ZipMap" in warning for warning in graph.warnings)


def test_operators_known_to_nobody_keep_the_shape_that_the_model_states() -> None:
    model = model_of([helper.make_node("Magic", ["x"], ["y"], domain="acme")], {"x": ["n", 4]}, ["y"])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["n", 8]))
    graph = from_proto(model, bind={"n": 3})
    assert shapes(graph) == [(3, 8)]
    assert graph.tensors["y"].dtype == "float16"
    assert graph.ops[0].domain == "acme"
