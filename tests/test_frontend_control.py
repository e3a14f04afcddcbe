"""Branches, loops, scans, sequences and functions: resolved while loading, or kept with their bodies; same values as
onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from codesign.errors import BadModel, UnboundDimension
from codesign.executor import Executor
from codesign.frontend import from_proto
from codesign.graph import Graph
from codesign.lower import lower
from tests.test_frontend import floats, integers, kinds, model_of, shapes


def agrees(model: onnx.ModelProto, inputs: dict[str, np.ndarray[Any, Any]]) -> Graph:
    """Load the model; its values must be those of onnxruntime."""
    graph = from_proto(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, inputs)
    got = Executor(graph).run(inputs)
    for name, value in zip(graph.outputs, expected, strict=True):
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6)
        assert graph.tensors[name].shape == value.shape
    return graph


def graph_of(
    nodes: Sequence[onnx.NodeProto], inputs: dict[str, tuple[int, Sequence[int]]], outputs: dict[str, int]
) -> onnx.GraphProto:
    """A body; inputs by name with element type and shape, outputs with element type."""
    return helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
    )


def branches() -> dict[str, onnx.GraphProto]:
    return {
        "then_branch": graph_of([helper.make_node("Mul", ["x", "x"], ["z"], name="square")], {}, {"z": 1}),
        "else_branch": graph_of([helper.make_node("Neg", ["x"], ["z"], name="negate")], {}, {"z": 1}),
    }


@pytest.mark.parametrize(("flag", "kind"), [(True, "Mul"), (False, "Neg")])
def test_a_constant_condition_leaves_one_branch(flag: bool, kind: str) -> None:
    node = helper.make_node("If", ["flag"], ["y"], name="choice", **branches())
    graph = agrees(model_of([node], {"x": [3]}, ["y"], {"flag": np.asarray(flag)}), {"x": floats(3)})
    assert kinds(graph) == [kind]
    assert graph.outputs == ("y",)
    assert graph.ops[0].sources == ("choice",)


def test_a_condition_on_a_shape_is_constant() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Size", ["s"], ["rank"]),
        helper.make_node("Equal", ["rank", "one"], ["flag"]),
        helper.make_node("If", ["flag"], ["y"], **branches()),
    ]
    graph = agrees(model_of(nodes, {"x": [3]}, ["y"], {"one": np.asarray(1)}), {"x": floats(3)})
    assert kinds(graph) == ["Mul"]


def test_a_condition_on_data_keeps_both_branches_with_what_they_capture() -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "limit"], ["flag"]),
        helper.make_node("If", ["flag"], ["y"], name="choice", **branches()),
    ]
    graph = from_proto(model_of(nodes, {"x": [3]}, ["y"], {"limit": np.asarray(0, np.float32)}))
    choice = graph.ops[-1]
    assert choice.kind == "If"
    assert {key: kinds(body) for key, body in choice.bodies.items()} == {"then_branch": ["Mul"], "else_branch": ["Neg"]}
    assert all(body.captured == ("x",) for body in choice.bodies.values())
    assert shapes(graph) == [(3,)]


def choice_by_rate(first: int, second: int) -> onnx.ModelProto:
    """Two branches, for x of `first` or of `second` columns: each multiplies it by a matrix of its own."""
    weights = {"a": floats(first, 2), "b": floats(second, 2)}
    bodies = {
        key: graph_of([helper.make_node("MatMul", ["x", name], ["z"], name=f"by_{name}")], {}, {"z": 1})
        for key, name in (("then_branch", "a"), ("else_branch", "b"))
    }
    nodes = [
        helper.make_node("Cast", ["rate"], ["flag"], to=TensorProto.BOOL),
        helper.make_node("If", ["flag"], ["y"], name="choice", **bodies),
    ]
    return model_of(nodes, {"x": ["n", "columns"], "rate": []}, ["y"], weights)


def test_a_branch_that_is_for_another_shape_refuses_to_run_when_it_is_chosen() -> None:
    graph = from_proto(choice_by_rate(4, 8), bind={"n": 1, "columns": 8})
    assert shapes(graph) == [(1, 2)]
    x = floats(1, 8)
    results = Executor(graph).run({"x": x, "rate": np.float32(0)})
    np.testing.assert_allclose(results["y"], x @ floats(8, 2), rtol=1e-5)
    with pytest.raises(BadModel, match=r"choice/then_branch.*is chosen and cannot run: .*inner dimensions differ"):
        Executor(graph).run({"x": x, "rate": np.float32(1)})
    assert sum(work.macs for work in lower(graph)) == 16


def test_branches_that_are_both_for_another_shape_are_an_error() -> None:
    with pytest.raises(BadModel, match=r"by_.*inner dimensions differ"):
        from_proto(choice_by_rate(4, 8), bind={"n": 1, "columns": 5})


def loop_body(step: str = "Add") -> onnx.GraphProto:
    """state <- state + x; each state is an output as well."""
    nodes = [
        helper.make_node("Identity", ["going"], ["still"]),
        helper.make_node(step, ["state", "x"], ["next"], name="step"),
        helper.make_node("Mul", ["next", "next"], ["seen"]),
    ]
    inputs = {"trip": (TensorProto.INT64, []), "going": (TensorProto.BOOL, []), "state": (1, [3])}
    return graph_of(nodes, inputs, {"still": TensorProto.BOOL, "next": 1, "seen": 1})


def loop_model(trips: int, body: onnx.GraphProto | None = None) -> onnx.ModelProto:
    node = helper.make_node("Loop", ["trips", "flag", "zero"], ["last", "all"], name="loop", body=body or loop_body())
    weights = {"trips": np.asarray(trips), "flag": np.asarray(True), "zero": np.zeros(3, np.float32)}
    return model_of([node], {"x": [3]}, ["last", "all"], weights)


def test_a_short_loop_is_unrolled() -> None:
    graph = agrees(loop_model(4), {"x": floats(3)})
    assert kinds(graph).count("Add") == 4
    assert shapes(graph) == [(3,), (4, 3)]
    assert {op.sources for op in graph.ops} == {("loop",)}


def test_a_long_loop_keeps_its_body_and_its_trip_count() -> None:
    graph = from_proto(loop_model(1000))
    (loop,) = graph.ops
    assert loop.kind == "Loop"
    assert loop.attributes["trip_count"] == 1000
    assert kinds(loop.bodies["body"]) == ["Add", "Mul"]
    assert loop.bodies["body"].captured == ("x",)
    assert shapes(graph) == [(3,), (1000, 3)]


def test_a_while_loop_over_constants_stops_when_its_condition_does() -> None:
    nodes = [
        helper.make_node("Less", ["trip", "two"], ["still"]),
        helper.make_node("Add", ["state", "x"], ["next"]),
    ]
    inputs = {"trip": (TensorProto.INT64, []), "going": (TensorProto.BOOL, []), "state": (1, [3])}
    body = graph_of(nodes, inputs, {"still": TensorProto.BOOL, "next": 1})
    loop = helper.make_node("Loop", ["", "flag", "zero"], ["last"], body=body)
    weights = {"two": np.asarray(2), "flag": np.asarray(True), "zero": np.zeros(3, np.float32)}
    graph = agrees(model_of([loop], {"x": [3]}, ["last"], weights), {"x": floats(3)})
    assert kinds(graph) == ["Add"] * 3


def test_a_loop_whose_trips_depend_on_data_is_refused() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["i"], ["trips"], keepdims=0),
        helper.make_node("Loop", ["trips", "", "x"], ["last", "all"], name="loop", body=loop_body()),
    ]
    with pytest.raises(UnboundDimension, match=r"'loop'.*trips depends on data"):
        from_proto(model_of(nodes, {"x": [3]}, ["last", "all"]))


def scan_model(length: int, **attributes: Any) -> onnx.ModelProto:
    nodes = [helper.make_node("Add", ["state", "slice"], ["next"]), helper.make_node("Relu", ["next"], ["seen"])]
    body = graph_of(nodes, {"state": (1, [3]), "slice": (1, [3])}, {"next": 1, "seen": 1})
    node = helper.make_node("Scan", ["zero", "x"], ["last", "all"], body=body, num_scan_inputs=1, **attributes)
    shape = [3, length] if attributes.get("scan_input_axes") == [1] else [length, 3]
    return model_of([node], {"x": shape}, ["last", "all"], {"zero": np.zeros(3, np.float32)})


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"scan_input_directions": [1]},
        {"scan_output_directions": [1]},
        {"scan_output_axes": [1]},
        {"scan_input_axes": [1], "scan_output_axes": [1], "scan_input_directions": [1], "scan_output_directions": [1]},
    ],
)
def test_a_short_scan_is_unrolled(attributes: dict[str, Any]) -> None:
    model = scan_model(4, **attributes)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    graph = agrees(model, {"x": floats(*shape)})
    assert kinds(graph).count("Add") == 4


def test_a_long_scan_keeps_its_body() -> None:
    graph = from_proto(scan_model(500, scan_output_axes=[1]))
    (scan,) = graph.ops
    assert scan.attributes["trip_count"] == 500
    assert shapes(graph) == [(3,), (3, 500)]


def test_weights_inside_a_kept_body_belong_to_the_outer_graph() -> None:
    body = loop_body("MatMul")
    body.node[1].input[1] = "w"
    body.initializer.append(onnx.numpy_helper.from_array(floats(3, 3), "w"))
    graph = from_proto(loop_model(100, body))
    assert graph.parameters == 9
    assert graph.ops[0].bodies["body"].captured == ("loop/body/w",)


def test_sequences_are_resolved() -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["x", "two"], ["parts"], axis=0),
        helper.make_node("SequenceAt", ["parts", "one"], ["second"]),
        helper.make_node("Neg", ["second"], ["minus"]),
        helper.make_node("SequenceInsert", ["parts", "minus"], ["more"]),
        helper.make_node("SequenceErase", ["more", "zero"], ["less"]),
        helper.make_node("ConcatFromSequence", ["less"], ["y"], axis=0),
        helper.make_node("SequenceLength", ["less"], ["count"]),
    ]
    weights = {"two": np.asarray(2), "one": np.asarray(1), "zero": np.asarray(0)}
    model = model_of(nodes, {"x": [5, 3]}, ["y", "count"], weights)
    agrees(model, {"x": floats(5, 3)})


def test_a_stack_of_a_sequence_gets_its_axis() -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["parts"], axis=1, keepdims=0),
        helper.make_node("ConcatFromSequence", ["parts"], ["y"], axis=0, new_axis=1),
    ]
    assert shapes(agrees(model_of(nodes, {"x": [5, 3]}, ["y"]), {"x": floats(5, 3)})) == [(3, 5)]


def test_functions_are_inlined_with_their_attributes() -> None:
    """A function that calls another, with an attribute handed on and one left at its default."""
    scaled = helper.make_node("LeakyRelu", ["a"], ["b"])
    scaled.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    standard = helper.make_opsetid("", 18)
    inner = helper.make_function(
        "local", "Inner", ["a"], ["b"], [scaled], [standard], attribute_protos=[helper.make_attribute("slope", 0.5)]
    )
    call = helper.make_node("Inner", ["p"], ["t"], domain="local")
    call.attribute.append(onnx.AttributeProto(name="slope", ref_attr_name="s", type=onnx.AttributeProto.FLOAT))
    outer = helper.make_function(
        "local",
        "Outer",
        ["p", "q"],
        ["r"],
        [call, helper.make_node("Inner", ["t"], ["u"], domain="local"), helper.make_node("Add", ["u", "q"], ["r"])],
        [standard, helper.make_opsetid("local", 1)],
        attributes=["s"],
    )
    node = helper.make_node("Outer", ["x", "x"], ["y"], name="call", domain="local", s=0.25)
    model = model_of([node], {"x": [3]}, ["y"], functions=[inner, outer], domains=["local"])
    graph = agrees(model, {"x": floats(3)})
    assert kinds(graph) == ["LeakyRelu", "LeakyRelu", "Add"]
    assert [op.attributes.get("alpha") for op in graph.ops] == [0.25, 0.5, None]
    assert {op.sources for op in graph.ops} == {("call",)}


def test_operators_that_only_the_standard_defines_are_expanded() -> None:
    nodes = [helper.make_node("SoftmaxCrossEntropyLoss", ["x", "labels"], ["y"], name="loss")]
    model = model_of(nodes, {"x": [2, 5]}, ["y"], {"labels": integers(1, 4)})
    graph = agrees(model, {"x": floats(2, 5)})
    assert {op.sources for op in graph.ops} == {("loss",)}
