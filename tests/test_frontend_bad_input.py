"""Models that must be refused: one line that names the file, the node and the reason; never anything else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from codesign.errors import BadModel, BadParameter, CodesignError, UnboundDimension, UnsupportedOperator
from codesign.frontend import from_proto, load
from tests.test_frontend import floats, integers, model_of


def good() -> onnx.ModelProto:
    """A small model with a weight, shape arithmetic, a branch and an attribute tensor."""
    branch = [
        helper.make_graph(
            [helper.make_node(kind, ["h"], ["z"])], kind, [], [helper.make_tensor_value_info("z", 1, None)]
        )
        for kind in ("Relu", "Sigmoid")
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("If", ["flag"], ["r"], name="choice", then_branch=branch[0], else_branch=branch[1]),
        helper.make_node("Constant", [], ["target"], value=numpy_helper.from_array(integers(-1))),
        helper.make_node("Reshape", ["r", "target"], ["y"], name="flat"),
    ]
    return model_of(nodes, {"x": [2, 3]}, ["y"], {"w": floats(3, 4), "flag": np.asarray(True)})


def expect(model: onnx.ModelProto, error: type[CodesignError], *words: str, **options: Any) -> None:
    with pytest.raises(error) as caught:
        from_proto(model, source="net.onnx", **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("net.onnx: ")
    for word in words:
        assert word in message


def test_the_good_model_loads() -> None:
    graph = from_proto(good())
    assert [op.kind for op in graph.ops] == ["MatMul", "Relu", "Reshape"]


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "empty"), (b"this is no protobuf at all", "not a protobuf"), (b"\x08\x08", "no ONNX graph")],
)
def test_files_that_hold_no_model_are_refused(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(BadModel, match=word) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="no such file"):
        load(tmp_path / "none.onnx")
    with pytest.raises(BadModel, match="not a regular file"):
        load(tmp_path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    content = good().SerializeToString()
    path.write_bytes(content[: len(content) - 20])
    with pytest.raises(BadModel, match="cut short"):
        load(path)


def test_a_file_beyond_the_protobuf_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(BadModel, match="external data"):
        load(path)


def test_a_cycle_is_named() -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
    ]
    expect(model_of(nodes, {"x": [2]}, ["a"]), BadModel, "cyclic", "'first'")


def test_unsorted_nodes_are_sorted() -> None:
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Neg", ["x"], ["a"])]
    assert [op.kind for op in from_proto(model_of(nodes, {"x": [2]}, ["y"])).ops] == ["Neg", "Relu"]


def test_a_dangling_input_is_named() -> None:
    nodes = [helper.make_node("Add", ["x", "ghost"], ["y"], name="sum")]
    expect(model_of(nodes, {"x": [2]}, ["y"]), BadModel, "'sum'", "'ghost'", "nothing produces")


def test_a_dangling_output_is_named() -> None:
    expect(model_of([helper.make_node("Relu", ["x"], ["a"])], {"x": [2]}, ["y"]), BadModel, "output 'y'")


def _twice_written(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["x"], ["h"], name="again"))


def _twice_stored(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _twice_given(model: onnx.ModelProto) -> None:
    model.graph.input.append(model.graph.input[0])


@pytest.mark.parametrize(
    ("spoil", "word"), [(_twice_written, "'again'"), (_twice_stored, "'w'"), (_twice_given, "'x'")]
)
def test_duplicate_names_are_refused(spoil: Callable[[onnx.ModelProto], None], word: str) -> None:
    model = good()
    spoil(model)
    expect(model, BadModel, word)


def test_duplicate_node_names_are_made_unique() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"], name="n"), helper.make_node("Neg", ["a"], ["y"], name="n")]
    assert [op.name for op in from_proto(model_of(nodes, {"x": [2]}, ["y"])).ops] == ["n", "n_1"]


def test_a_weight_of_the_wrong_size_is_refused() -> None:
    model = good()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    expect(model, BadModel, "'w'", "44 bytes", "needs 48")


def test_a_weight_of_impossible_size_is_refused_without_taking_memory() -> None:
    model = good()
    model.graph.initializer[0].dims[0] = 2**40
    expect(model, BadModel, "'w'", "bytes")
    model.graph.initializer[0].dims[0] = 2**62
    expect(model, BadModel, "'w'", "more than")
    model.graph.initializer[0].dims[0] = -3
    expect(model, BadModel, "'w'", "negative")


def test_an_unknown_element_type_is_refused() -> None:
    model = good()
    model.graph.initializer[0].data_type = 99
    expect(model, UnsupportedOperator, "'w'", "element type 99")


@pytest.mark.parametrize("opset", [0, 999])
def test_an_unknown_opset_is_refused(opset: int) -> None:
    expect(model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"], opset=opset), UnsupportedOperator,
           f"opset {opset}")  # fmt: skip


def test_an_unknown_operator_is_refused_with_near_names() -> None:
    model = model_of([helper.make_node("Relo", ["x"], ["y"], name="typo")], {"x": [2]}, ["y"])
    expect(model, UnsupportedOperator, "'typo'", "'Relo'", "Relu")


def test_an_operator_of_an_unknown_domain_is_refused() -> None:
    model = model_of([helper.make_node("Magic", ["x"], ["y"], name="m", domain="acme")], {"x": [2]}, ["y"])
    expect(model, UnsupportedOperator, "'Magic'", "'acme'")


def test_shapes_that_do_not_match_are_named() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    expect(model_of(nodes, {"x": [2, 5]}, ["y"], {"w": floats(3, 4)}), BadModel, "'product'")


def test_an_input_without_a_shape_is_refused() -> None:
    model = good()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    expect(model, UnboundDimension, "'x'")


def test_a_shape_that_depends_on_data_is_refused() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("ConstantOfShape", ["i"], ["y"], name="filled"),
    ]
    expect(model_of(nodes, {"x": [2]}, ["y"]), BadModel, "'filled'")


def test_an_unknown_dimension_in_bind_is_refused_with_those_that_exist() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": ["batch", "length"]}, ["y"])
    expect(model, BadParameter, "'lenght'", "batch, length", bind={"lenght": 3})
    expect(model, BadParameter, "-1", bind={"length": -1})
    expect(model, BadParameter, "batch", batch=0)


def test_recursive_functions_are_refused() -> None:
    body = [helper.make_node("F", ["a"], ["b"], domain="local")]
    function = helper.make_function("local", "F", ["a"], ["b"], body, [helper.make_opsetid("local", 1)])
    nodes = [helper.make_node("F", ["x"], ["y"], domain="local")]
    expect(model_of(nodes, {"x": [2]}, ["y"], functions=[function], domains=["local"]), BadModel, "nested")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_files_raise_nothing_but_our_errors(data: st.DataObject) -> None:
    from codesign.frontend.read import parse

    content = bytearray(good().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    with contextlib.suppress(CodesignError):
        from_proto(parse(bytes(content), "net.onnx"), source="net.onnx")


def test_names_with_line_breaks_and_terminal_codes_are_shown_escaped() -> None:
    nodes = [helper.make_node("Relu", ["gone"], ["y"], name="a\nb\x1b[2J")]
    expect(model_of(nodes, {"x": [2]}, ["y"]), BadModel, "a\\nb\\x1b")
