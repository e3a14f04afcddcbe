"""Symbolic dimensions and other batches: shapes follow, and values are those of the samples one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from codesign.errors import BadModel
from codesign.executor import Executor
from codesign.frontend import from_proto
from codesign.frontend.rebatch import place_of_batch
from codesign.graph import Graph
from tests.test_frontend import floats, integers, model_of, shapes


def relu(*shape: int | str | None) -> onnx.ModelProto:
    return model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": shape}, ["y"])


def test_unbound_dimensions_are_one_and_named_in_a_warning() -> None:
    graph = from_proto(relu("batch", 3, "length"))
    assert shapes(graph) == [(1, 3, 1)]
    assert len(graph.warnings) == 1
    assert "'batch', 'length'" in graph.warnings[0]


def test_bound_dimensions_warn_no_more() -> None:
    graph = from_proto(relu("batch", 3, "length"), bind={"length": 5}, batch=2)
    assert shapes(graph) == [(2, 3, 5)]
    assert graph.batch == 2
    assert graph.warnings == ()


def test_a_dimension_without_a_name_is_bound_by_input_and_axis() -> None:
    assert shapes(from_proto(relu(None, 3, None), bind={"x.2": 7}, batch=4)) == [(4, 3, 7)]


def test_two_dimensions_written_as_question_marks_need_not_be_equal() -> None:
    assert shapes(from_proto(relu(1, "?", "?"), bind={"x.2": 7})) == [(1, 1, 7)]
    assert shapes(from_proto(relu(1, "?", "?"), shapes={"x": (1, 2, 7)})) == [(1, 2, 7)]


def test_a_dimension_written_as_minus_one_is_free() -> None:
    graph = from_proto(relu(-1, 3, -1), bind={"x.2": 7}, batch=4)
    assert shapes(graph) == [(4, 3, 7)]
    assert graph.warnings == ()


def test_expressions_follow_from_the_names_in_them() -> None:
    model = relu("batch", "past_sequence_length + sequence_length", "2*heads")
    bound = {"past_sequence_length": 7, "sequence_length": 2, "heads": 3}
    assert shapes(from_proto(model, bind=bound)) == [(1, 9, 6)]
    assert shapes(from_proto(model)) == [(1, 2, 2)]


def test_an_expression_may_be_bound_as_a_whole() -> None:
    assert shapes(from_proto(relu("n", "past + 1"), bind={"past + 1": 12})) == [(1, 12)]


def test_no_code_runs_from_the_name_of_a_dimension() -> None:
    name = "__import__('os').abort()"
    assert shapes(from_proto(relu("n", name), bind={name: 3})) == [(1, 3)]


def test_a_shape_depending_on_data_may_be_given_by_the_name_the_model_has_for_it() -> None:
    nodes = [helper.make_node("StringSplit", ["x"], ["y", "n"], name="split", delimiter=" ")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.STRING, [2])],
        [
            helper.make_tensor_value_info("y", TensorProto.STRING, [2, "words"]),
            helper.make_tensor_value_info("n", TensorProto.INT64, [2]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    assert shapes(from_proto(model, bind={"words": 4}))[0] == (2, 4)
    with pytest.raises(BadModel, match="shape depends on 'X', which the model computes"):
        from_proto(model)
    assert set(from_proto(model, bind={"words": 4}, dynamic=True).unknown) == {"y", "n"}


def same_as_single_samples(model: onnx.ModelProto, batch: int = 3) -> Graph:
    """The model at a larger batch must give what it gives for each sample alone."""
    single, many = from_proto(model), from_proto(model, batch=batch)
    assert many.batch == batch
    inputs = {name: floats(batch, *many.tensors[name].shape[1:]) for name in many.inputs}
    together = Executor(many).run(inputs)
    executor = Executor(single)
    for index in range(batch):
        alone = executor.run({name: array[index : index + 1] for name, array in inputs.items()})
        for name in single.outputs:
            np.testing.assert_allclose(together[name][index : index + 1], alone[name], rtol=1e-4, atol=1e-5)
    return many


CASES: dict[str, tuple[list[onnx.NodeProto], list[int], dict[str, np.ndarray[Any, Any]]]] = {
    "reshape with the batch in front": (
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        [1, 4, 6],
        {"s": integers(1, 24)},
    ),
    "reshape whose open dimension would swallow the batch": (
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        [1, 4, 6],
        {"s": integers(1, 4, -1)},
    ),
    "rows merged for a matrix product and split again": (
        [
            helper.make_node("Reshape", ["x", "s"], ["a"]),
            helper.make_node("Gemm", ["a", "w"], ["b"]),
            helper.make_node("Reshape", ["b", "t"], ["y"]),
        ],
        [1, 4, 6],
        {"s": integers(4, 6), "w": floats(6, 5), "t": integers(1, 4, 5)},
    ),
    "rows merged with time in front, and split again": (
        [
            helper.make_node("Transpose", ["x"], ["a"], perm=[1, 0, 2]),
            helper.make_node("Reshape", ["a", "s"], ["b"]),
            helper.make_node("Gemm", ["b", "w"], ["c"]),
            helper.make_node("Relu", ["c"], ["d"]),
            helper.make_node("Reshape", ["d", "t"], ["e"]),
            helper.make_node("Transpose", ["e"], ["y"], perm=[1, 0, 2]),
        ],
        [1, 4, 6],
        {"s": integers(4, 6), "w": floats(6, 5), "t": integers(4, 1, 5)},
    ),
    "attention heads, transposed and back": (
        [
            helper.make_node("Reshape", ["x", "s"], ["a"]),
            helper.make_node("Transpose", ["a"], ["b"], perm=[2, 0, 3, 1, 4]),
            helper.make_node("Split", ["b"], ["q", "k"], axis=0, num_outputs=2),
            helper.make_node("Mul", ["q", "k"], ["c"]),
            helper.make_node("Reshape", ["c", "t"], ["d"]),
            helper.make_node("Transpose", ["d"], ["e"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", ["e", "u"], ["y"]),
        ],
        [1, 4, 24],
        {"s": integers(1, 4, 2, 3, 4), "t": integers(1, 3, 4, 4), "u": integers(1, 4, 12)},
    ),
    "a class token put before the patches": (
        [helper.make_node("Concat", ["token", "x"], ["y"], axis=1)],
        [1, 4, 6],
        {"token": floats(1, 1, 6)},
    ),
    "an expand to a written shape": (
        [helper.make_node("Unsqueeze", ["x", "a"], ["b"]), helper.make_node("Expand", ["b", "s"], ["y"])],
        [1, 4],
        {"a": integers(1), "s": integers(1, 3, 4)},
    ),
    "a slice of the whole batch": (
        [helper.make_node("Slice", ["x", "from", "to", "axes"], ["y"])],
        [1, 6],
        {"from": integers(0, 1), "to": integers(1, 3), "axes": integers(0, 1)},
    ),
    "strided access by flat positions": (
        [helper.make_node("Reshape", ["x", "s"], ["a"]), helper.make_node("Gather", ["a", "i"], ["y"])],
        [1, 6],
        {"s": integers(-1), "i": np.asarray([[5, 0, 3]])},
    ),
    "lookups by sample and position": (
        [helper.make_node("GatherND", ["x", "i"], ["y"])],
        [1, 6],
        {"i": np.asarray([[[0, 5], [0, 2]]])},
    ),
    "a resize to written sizes": (
        [helper.make_node("Resize", ["x", "", "", "s"], ["y"])],
        [1, 2, 3, 3],
        {"s": integers(1, 2, 6, 6)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_batch_written_into_constants_is_replaced(case: str) -> None:
    nodes, shape, weights = CASES[case]
    same_as_single_samples(model_of(nodes, {"x": shape}, ["y"], weights))


def test_initial_states_of_a_recurrent_layer_follow_the_batch() -> None:
    nodes = [helper.make_node("LSTM", ["x", "w", "r", "", "", "h", "h"], ["y"], hidden_size=4, layout=1)]
    weights = {"w": floats(1, 16, 3), "r": floats(1, 16, 4), "h": floats(1, 1, 4)}
    graph = from_proto(model_of(nodes, {"x": [1, 5, 3]}, ["y"], weights), batch=6)
    assert shapes(graph) == [(6, 5, 1, 4)]


def test_a_batch_above_one_can_be_changed_too() -> None:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"])]
    graph = from_proto(model_of(nodes, {"x": [4, 2, 3]}, ["y"], {"s": integers(4, 6)}), batch=2)
    assert shapes(graph) == [(2, 6)]


def test_the_node_that_blocks_another_batch_is_named() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Squeeze", ["a", "zero"], ["y"], name="squeezed"),
    ]
    with pytest.raises(BadModel, match=r"cannot change the batch to 2.*'squeezed'"):
        from_proto(model_of(nodes, {"x": [1, 4]}, ["y"], {"zero": integers(0)}), batch=2)


def test_a_node_that_picks_one_sample_blocks_another_batch() -> None:
    nodes = [helper.make_node("Gather", ["x", "first"], ["y"], name="picks")]
    with pytest.raises(BadModel, match=r"cannot change the batch to 2.*'picks'"):
        from_proto(model_of(nodes, {"x": [1, 4]}, ["y"], {"first": np.asarray(0)}), batch=2)


@pytest.mark.parametrize(
    ("outer", "old", "target", "found"),
    [
        (1, 1, (4, 6), (0, 1)),
        (1, 2, (8, 6), (0, 1)),
        (1, 1, (1, 1, 197), (0, 1)),
        (3, 1, (3, 1, 2, 4), (1, 1)),
        (3, 1, (3, 8), (0, 3)),
        (3, 2, (6, 8), (0, 3)),
        (3, 2, (48,), (0, 3)),
        (6, 2, (4, 3), None),
    ],
)
def test_the_batch_is_found_behind_a_reshape(
    outer: int, old: int, target: tuple[int, ...], found: tuple[int, int] | None
) -> None:
    assert place_of_batch(outer, old, target) == found
