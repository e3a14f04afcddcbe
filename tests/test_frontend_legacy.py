"""Operators of opsets 1 to 6 mean what they meant: their own broadcasting, settings that later became inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from codesign.errors import UnsupportedOperator
from codesign.executor import execute
from codesign.frontend import from_proto
from codesign.lower import lower


def ran(opset: int, node: onnx.NodeProto, **arrays: Any) -> np.ndarray[Any, Any]:
    """The first output of a node whose inputs are `arrays`; integers are constants of the model."""
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    inputs = {name: array for name, array in arrays.items() if array.dtype.kind in "fb"}
    graph = helper.make_graph(
        [node],
        "legacy",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        ],
        [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items() if name not in inputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)
    loaded = from_proto(model)
    assert len(lower(loaded)) == len(loaded.ops)
    found = execute(loaded, inputs)[node.output[0]]
    assert isinstance(found, np.ndarray)
    return found


A = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize(
    ("shape", "axis", "laid"),
    [((3,), 1, (3, 1)), ((2,), 0, (2, 1, 1)), ((3, 4), None, (3, 4)), ((2, 3), -3, (2, 3, 1))],
)
def test_the_second_operand_lies_along_the_first_from_an_axis_on(opset, shape, axis, laid):
    b = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    attributes = {"broadcast": 1} if axis is None else {"broadcast": 1, "axis": axis}
    found = ran(opset, helper.make_node("Sub", ["a", "b"], ["y"], **attributes), a=A, b=b)
    np.testing.assert_array_equal(found, A - b.reshape(laid))


def test_a_slope_for_each_channel():
    slope = np.array([0, 0.5, 1], np.float32)
    found = ran(6, helper.make_node("PRelu", ["a", "s"], ["y"]), a=-A, s=slope)
    np.testing.assert_allclose(found, -A * slope[:, None])


@pytest.mark.parametrize(
    ("opset", "node", "expected"),
    [
        (1, helper.make_node("Reshape", ["a"], ["y"], shape=[4, -1]), A.reshape(4, 6)),
        (1, helper.make_node("Concat", ["a", "a"], ["y"]), np.concatenate([A, A], 1)),
        (1, helper.make_node("Cast", ["a"], ["y"], to="DOUBLE"), A.astype(np.float64)),
        (1, helper.make_node("Pad", ["a"], ["y"], paddings=[0, 1, 0, 0, 0, 2]), np.pad(A, ((0, 0), (1, 0), (0, 2)))),
        (6, helper.make_node("Pad", ["a"], ["y"], pads=[0, 1, 0, 0, 0, 2]), np.pad(A, ((0, 0), (1, 0), (0, 2)))),
        (1, helper.make_node("Dropout", ["a"], ["y"], is_test=0, consumed_inputs=[0]), A),
        (1, helper.make_node("Relu", ["a"], ["y"], consumed_inputs=[0]), A),
    ],
    ids=["Reshape", "Concat", "Cast", "Pad-1", "Pad-2", "Dropout", "Relu"],
)
def test_settings_that_later_became_inputs_or_were_dropped(opset, node, expected):
    found = ran(opset, node, a=A)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


def test_tiles_along_one_axis_and_later_along_each():
    node = helper.make_node("Tile", ["a", "tiles", "axis"], ["y"])
    np.testing.assert_array_equal(ran(1, node, a=A, tiles=3, axis=1), np.tile(A, (1, 3, 1)))
    node = helper.make_node("Tile", ["a", "repeats"], ["y"])
    np.testing.assert_array_equal(ran(6, node, a=A, repeats=[2, 1, 3]), np.tile(A, (2, 1, 3)))


def test_upsampling_by_two_scales():
    node = helper.make_node("Upsample", ["a"], ["y"], height_scale=2.0, width_scale=3.0)
    found = ran(1, node, a=A[None])
    np.testing.assert_array_equal(found[0], A.repeat(2, 1).repeat(3, 2))


def test_training_of_an_old_opset_is_refused():
    vectors = {name: np.ones(3, np.float32) for name in "sbmv"}
    node = helper.make_node("BatchNormalization", ["a", *"sbmv"], ["y", "mean", "var"], name="norm")
    with pytest.raises(UnsupportedOperator, match=r"'norm' \(BatchNormalization\): in training"):
        ran(6, node, a=A, **vectors)
    node = helper.make_node("BatchNormalization", ["a", *"sbmv"], ["y"], is_test=1, epsilon=0.0)
    np.testing.assert_allclose(ran(6, node, a=A, **vectors), A)
