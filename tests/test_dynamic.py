"""Graphs whose shapes come from data: executed with the values onnxruntime gives, refused by a simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from codesign import device, simulate
from codesign.errors import BadParameter, UnboundDimension
from codesign.executor import Executor, random_inputs
from codesign.frontend import from_proto
from codesign.graph import Graph
from codesign.lower import lower
from codesign.transforms import optimise
from codesign.work import Scan

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def made(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any] | None]],
    outputs: list[str],
    **constants: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "dynamic",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def agrees(model: onnx.ModelProto, inputs: dict[str, Any]) -> Graph:
    """Values, shapes and types are those of onnxruntime, before and after the transforms."""
    shapes = {name: np.shape(value) for name, value in inputs.items() if not isinstance(value, list)}
    graph = from_proto(model, shapes=shapes, dynamic=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, inputs)
    for one in (graph, optimise(graph)):
        found = Executor(one).run(inputs)
        for name, wanted in zip(one.outputs, expected, strict=True):
            mine = found[name]
            assert isinstance(mine, list) == isinstance(wanted, list)
            pairs = zip(mine, wanted, strict=True) if isinstance(wanted, list) else [(mine, wanted)]
            for left, right in pairs:
                assert (left.shape, left.dtype) == (right.shape, right.dtype)
                np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)
    return graph


def numbers(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).standard_normal(shape, dtype=np.float32)


def found_rows() -> onnx.ModelProto:
    """Rows of a product whose first column is positive, normalised: the tail of a detector in small."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], name="product"),
        helper.make_node("Relu", ["product"], ["hidden"], name="relu"),
        helper.make_node("Gather", ["hidden", "zero"], ["column"], axis=1),
        helper.make_node("NonZero", ["column"], ["found"], name="found"),
        helper.make_node("Squeeze", ["found", "first"], ["rows"]),
        helper.make_node("Gather", ["hidden", "rows"], ["chosen"]),
        helper.make_node("Softmax", ["chosen"], ["y"], axis=1),
        helper.make_node("Shape", ["y"], ["size"]),
    ]
    return made(nodes, {"x": (FLOAT, [6, 4])}, ["y", "size"], w=numbers(4, 5), zero=0, first=[0])


def test_rows_found_in_data_are_as_many_as_there_are():
    graph = agrees(found_rows(), {"x": numbers(6, 4)})
    assert set(graph.unknown) >= {"rows", "y", "size"}
    assert "'found' (NonZero)" in graph.unknown["y"]
    assert "hidden" in graph.tensors
    none = np.full((6, 4), 0, np.float32)
    agrees(found_rows(), {"x": none})


def test_what_is_known_is_fused_what_is_not_stays():
    graph = optimise(from_proto(found_rows(), dynamic=True))
    kinds = [op.kind for op in graph.ops]
    assert kinds[0] == "MatMul"
    assert [follower.kind for follower in graph.ops[0].epilogue] == ["Relu"]
    assert kinds[-4:] == ["Squeeze", "Gather", "Softmax", "Shape"]


def test_simulation_names_the_operation_whose_shape_comes_from_data():
    with pytest.raises(UnboundDimension, match=r"'found' \(NonZero\): the result's shape depends on 'X'"):
        from_proto(found_rows())
    graph = from_proto(found_rows(), dynamic=True)
    for refused in (lambda: simulate(graph, device("host")), lambda: lower(graph)):
        with pytest.raises(UnboundDimension, match=r"'found' \(NonZero\)"):
            refused()


def test_reshape_to_a_shape_that_is_an_input():
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["r"]), helper.make_node("Transpose", ["r"], ["y"])]
    model = made(nodes, {"x": (FLOAT, [2, 6]), "shape": (INT, ["rank"])}, ["y"])
    for shape in ([3, 4], [2, 2, 3], [-1]):
        agrees(model, {"x": numbers(2, 6), "shape": np.array(shape)})


def body(nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[str]) -> onnx.GraphProto:
    return helper.make_graph(nodes, "body", inputs, [onnx.ValueInfoProto(name=name) for name in outputs])


def value(name: str, kind: int, shape: list[Any] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def doubling() -> onnx.ModelProto:
    """Double x until its sum exceeds the limit; give every state out."""
    inner = body(
        [
            helper.make_node("Add", ["state", "state"], ["next"]),
            helper.make_node("ReduceSum", ["next"], ["sum"], keepdims=0),
            helper.make_node("Less", ["sum", "limit"], ["going"]),
            helper.make_node("Identity", ["next"], ["seen"]),
        ],
        [value("trip", INT, []), value("on", BOOL, []), value("state", FLOAT, [3])],
        ["going", "next", "seen"],
    )
    inner.output[0].CopyFrom(value("going", BOOL, []))
    inner.output[1].CopyFrom(value("next", FLOAT, [3]))
    inner.output[2].CopyFrom(value("seen", FLOAT, [3]))
    node = helper.make_node("Loop", ["", "on", "x"], ["end", "all"], name="doubling", body=inner)
    return made([node], {"x": (FLOAT, [3]), "limit": (FLOAT, [])}, ["end", "all"], on=True)


@pytest.mark.parametrize("limit", [1, 100, 1e6])
def test_a_loop_takes_as_many_trips_as_its_condition_holds(limit):
    graph = agrees(doubling(), {"x": np.ones(3, np.float32), "limit": np.array(limit, np.float32)})
    assert graph.tensors["end"].shape == (3,)
    assert "trips depends on data" in graph.unknown["all"]


def test_a_loop_whose_state_grows():
    """A cache that grows by a row a trip, as that of a decoder."""
    inner = body(
        [
            helper.make_node("Identity", ["on"], ["going"]),
            helper.make_node("Concat", ["cache", "row"], ["longer"], axis=0),
            helper.make_node("ReduceMean", ["longer", "first"], ["mean"], keepdims=0),
        ],
        [value("trip", INT, []), value("on", BOOL, []), value("cache", FLOAT, ["rows", 2])],
        [],
    )
    inner.output.extend([value("going", BOOL, []), value("longer", FLOAT, ["rows", 2]), value("mean", FLOAT, [2])])
    node = helper.make_node("Loop", ["trips", "", "row"], ["end", "means"], name="grows", body=inner)
    model = made([node], {"trips": (INT, []), "row": (FLOAT, [1, 2])}, ["end", "means"], first=[0])
    for trips in (1, 7, 100):
        graph = agrees(model, {"trips": np.array(trips), "row": numbers(1, 2)})
    assert "changes from shape [1, 2] to [2, 2]" in graph.unknown["end"]


def test_branches_of_other_shapes_are_told_apart_when_they_run():
    branches = {
        "then_branch": body([helper.make_node("Concat", ["x", "x"], ["a"], axis=0)], [], []),
        "else_branch": body([helper.make_node("Neg", ["x"], ["b"])], [], []),
    }
    branches["then_branch"].output.append(value("a", FLOAT, [4, 2]))
    branches["else_branch"].output.append(value("b", FLOAT, [2, 2]))
    nodes = [
        helper.make_node("If", ["flag"], ["chosen"], name="choice", **branches),
        helper.make_node("Exp", ["chosen"], ["y"]),
    ]
    model = made(nodes, {"x": (FLOAT, [2, 2]), "flag": (BOOL, [])}, ["y"])
    for flag in (True, False):
        graph = agrees(model, {"x": numbers(2, 2), "flag": np.array(flag)})
    assert "'chosen' differs between its branches" in graph.unknown["y"]


def test_a_scan_over_data_of_unknown_length():
    inner = body(
        [helper.make_node("Add", ["sum", "slice"], ["next"]), helper.make_node("Identity", ["next"], ["seen"])],
        [value("sum", FLOAT, [2]), value("slice", FLOAT, [2])],
        [],
    )
    inner.output.extend([value("next", FLOAT, [2]), value("seen", FLOAT, [2])])
    nodes = [
        helper.make_node("Compress", ["x", "keep"], ["kept"], axis=0),
        helper.make_node("Scan", ["zero", "kept"], ["total", "sums"], body=inner, num_scan_inputs=1),
    ]
    model = made(nodes, {"x": (FLOAT, [5, 2]), "keep": (BOOL, [5])}, ["total", "sums"], zero=np.zeros(2, np.float32))
    agrees(model, {"x": numbers(5, 2), "keep": np.array([1, 0, 1, 1, 0], bool)})


def test_sequences_of_which_the_length_is_data():
    """Parts whose lengths are data, one taken at a position that is data, the rest joined."""
    nodes = [
        helper.make_node("SplitToSequence", ["x", "lengths"], ["parts"], axis=0),
        helper.make_node("SequenceAt", ["parts", "place"], ["one"]),
        helper.make_node("SequenceErase", ["parts", "place"], ["others"]),
        helper.make_node("SequenceInsert", ["others", "one"], ["turned"]),
        helper.make_node("ConcatFromSequence", ["turned"], ["y"], axis=0),
        helper.make_node("SequenceLength", ["turned"], ["count"]),
    ]
    model = made(
        nodes, {"x": (FLOAT, [6, 2]), "lengths": (INT, ["n"]), "place": (INT, [])}, ["one", "turned", "y", "count"]
    )
    for lengths, place in (([1, 2, 3], 1), ([3, 3], -1), ([6], 0)):
        agrees(model, {"x": numbers(6, 2), "lengths": np.array(lengths), "place": np.array(place)})


def test_a_sequence_gathered_by_a_loop():
    inner = body(
        [
            helper.make_node("Identity", ["on"], ["going"]),
            helper.make_node("Add", ["trip", "trip"], ["twice"]),
            helper.make_node("SequenceInsert", ["items", "twice"], ["more"]),
        ],
        [value("trip", INT, []), value("on", BOOL, []), helper.make_tensor_sequence_value_info("items", INT, None)],
        [],
    )
    inner.output.extend([value("going", BOOL, []), helper.make_tensor_sequence_value_info("more", INT, None)])
    nodes = [
        helper.make_node("SequenceEmpty", [], ["empty"], dtype=INT),
        helper.make_node("Loop", ["trips", "", "empty"], ["items"], name="gather", body=inner),
    ]
    model = made(nodes, {"trips": (INT, [])}, ["items"])
    for trips in (1, 5):
        agrees(model, {"trips": np.array(trips)})


def test_symbolic_dimensions_follow_the_shapes_of_the_inputs():
    nodes = [helper.make_node("MatMul", ["x", "y"], ["z"])]
    model = made(nodes, {"x": (FLOAT, ["rows", "shared"]), "y": (FLOAT, ["shared", 3])}, ["z"])
    graph = agrees(model, {"x": numbers(5, 4), "y": numbers(4, 3)})
    assert graph.tensors["z"].shape == (5, 3)
    with pytest.raises(BadParameter, match=r"input 'y' has shape \[5, 3\]; the model states \[shared, 3\]"):
        from_proto(model, shapes={"x": (5, 4), "y": (5, 3)})


def test_an_input_without_a_shape_takes_any():
    model = made([helper.make_node("Relu", ["x"], ["y"])], {"x": (FLOAT, None)}, ["y"])
    graph = from_proto(model, dynamic=True)
    for shape in ((), (3,), (2, 1, 2)):
        x = numbers(*shape)
        np.testing.assert_array_equal(Executor(graph).run({"x": x})["y"], np.maximum(x, 0))
    with pytest.raises(BadParameter, match=r"'x' has no shape"):
        random_inputs(graph, 0)


def test_a_loop_is_counted_with_the_trips_bound_to_it():
    with pytest.raises(UnboundDimension, match=r"trips depends on data; .* or bind 'doubling.trips'"):
        from_proto(doubling())
    graph = from_proto(doubling(), bind={"doubling.trips": 12})
    assert graph.tensors["all"].shape == (12, 3)
    assert any("counted with 12 trips" in warning for warning in graph.warnings)
    (work,) = lower(graph)
    assert isinstance(work, Scan)
    assert work.steps == 12
    assert (
        simulate(graph, device("host")).latency_s
        > simulate(from_proto(doubling(), bind={"doubling.trips": 6}), device("host")).latency_s
    )
    with pytest.raises(BadParameter, match=r"no dimension 'double.trips'.*doubling.trips"):
        from_proto(doubling(), bind={"double.trips": 12})
