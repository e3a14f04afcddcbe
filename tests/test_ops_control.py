"""If, Loop and Scan that stay in the graph: values by an Executor, shapes and cost by trips of the body."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from codesign.errors import BadModel
from codesign.executor.executor import execute
from codesign.frontend import from_proto
from codesign.graph import Graph
from codesign.lower import lower
from codesign.work import Scan
from tests.test_ops_light import all_cases, to_array


@pytest.fixture(autouse=True)
def _nothing_unrolled(monkeypatch):
    monkeypatch.setattr("codesign.frontend.control.MOST_TRIPS", 0)


def value(name: str, shape: list[int], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(node: onnx.NodeProto, inputs: list, outputs: list, *constants: tuple[str, np.ndarray]) -> Graph:
    weights = [numpy_helper.from_array(array, name) for name, array in constants]
    graph = helper.make_graph([node], "control", inputs, outputs, weights)
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def recurrent_loop(limit: int = 5, last: int = 100) -> Graph:
    """state <- state W + trip while trip < last; every state is given out."""
    nodes = [
        helper.make_node("MatMul", ["state", "W"], ["product"]),
        helper.make_node("Cast", ["trip"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["product", "number"], ["next"]),
        helper.make_node("Identity", ["next"], ["seen"]),
        helper.make_node("Less", ["trip", "last"], ["going_on"]),
    ]
    body = helper.make_graph(
        nodes,
        "body",
        [value("trip", [], TensorProto.INT64), value("going", [], TensorProto.BOOL), value("state", [2, 3])],
        [value("going_on", [], TensorProto.BOOL), value("next", [2, 3]), value("seen", [2, 3])],
    )
    node = helper.make_node("Loop", ["limit", "", "start"], ["end", "all"], name="loop", body=body)
    return model(
        node,
        [value("start", [2, 3])],
        [value("end", [2, 3]), value("all", [limit, 2, 3])],
        ("limit", np.array(limit, np.int64)),
        ("last", np.array(last, np.int64)),
        ("W", np.array([[0.5, 0, 0], [0, 0.25, 1], [1, 0, 0.5]], np.float32)),
    )


def expected_states(start: np.ndarray, trips: int) -> list[np.ndarray]:
    matrix = np.array([[0.5, 0, 0], [0, 0.25, 1], [1, 0, 0.5]], np.float32)
    states = [start]
    for trip in range(trips):
        states.append(states[-1] @ matrix + trip)
    return states[1:]


def test_loop_carries_its_state_and_stacks_what_each_trip_gives():
    graph = recurrent_loop()
    assert [op.kind for op in graph.ops] == ["Loop"]
    start = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = execute(graph, {"start": start})
    states = expected_states(start, 5)
    np.testing.assert_allclose(found["end"], states[-1], rtol=1e-6)
    np.testing.assert_allclose(found["all"], np.stack(states), rtol=1e-6)


def test_loop_ends_when_its_condition_does():
    start = np.ones((2, 3), np.float32)
    found = execute(recurrent_loop(limit=5, last=2), {"start": start})
    np.testing.assert_allclose(found["all"], np.stack(expected_states(start, 3)), rtol=1e-6)


def test_loop_costs_its_body_once_a_trip():
    (work,) = lower(recurrent_loop())
    assert isinstance(work, Scan)
    assert (work.steps, work.step_macs) == (5, 2 * 3 * 3)
    assert work.step_flops == 6 + 1 + 1
    assert work.state_bytes == 8 + 1 + 2 * 3 * 4
    assert work.write_bytes == 6 * 4 + 5 * 6 * 4
    assert 3 * 3 * 4 in [operand.bytes for operand in work.reads]


def test_loop_costs_in_the_type_of_the_deployment():
    (work,) = lower(recurrent_loop(), "float16")
    assert isinstance(work, Scan)
    assert work.dtype == "float16"
    assert work.state_bytes == 8 + 1 + 2 * 3 * 2
    assert 3 * 3 * 2 in [operand.bytes for operand in work.reads]


LINEAR_ATTENTION = [case.name for case in all_cases() if re.fullmatch("test_linear_attention_.*_expanded", case.name)]


@pytest.mark.parametrize(
    "name", ["test_if", "test_scan9_sum", "test_scan9_multi_state", "test_scan9_scalar", *LINEAR_ATTENTION]
)
def test_graph_with_bodies_agrees_with_the_standard(name):
    case = next(case for case in all_cases() if case.name == name)
    graph = from_proto(case.model)
    assert len([op for op in graph.ops if op.bodies]) == 1
    inputs, expected = case.data_sets[0]
    names = [info.name for info in case.model.graph.input]
    found = execute(graph, dict(zip(names, map(to_array, inputs), strict=True)))
    for info, wanted in zip(case.model.graph.output, expected, strict=True):
        np.testing.assert_allclose(found[info.name], to_array(wanted), rtol=case.rtol, atol=case.atol)


def test_standard_has_linear_attention_as_a_scan():
    assert len(LINEAR_ATTENTION) >= 10


def test_scan_walks_any_axis_in_either_direction():
    """Running sums from the end along axis 1, given out along axis 0 in the order of the input."""
    body = helper.make_graph(
        [helper.make_node("Add", ["sum", "slice"], ["next"]), helper.make_node("Identity", ["next"], ["seen"])],
        "body",
        [value("sum", [2]), value("slice", [2])],
        [value("next", [2]), value("seen", [2])],
    )
    node = helper.make_node(
        "Scan", ["zero", "x"], ["total", "sums"], name="scan", body=body, num_scan_inputs=1,
        scan_input_axes=[1], scan_input_directions=[1], scan_output_axes=[1], scan_output_directions=[1],
    )  # fmt: skip
    graph = model(
        node, [value("x", [2, 7])], [value("total", [2]), value("sums", [2, 7])], ("zero", np.zeros(2, np.float32))
    )
    numbers = np.arange(14, dtype=np.float32).reshape(2, 7)
    found = execute(graph, {"x": numbers})
    np.testing.assert_array_equal(found["total"], numbers.sum(axis=1))
    np.testing.assert_array_equal(found["sums"], np.cumsum(numbers[:, ::-1], axis=1)[:, ::-1])
    (work,) = lower(graph)
    assert isinstance(work, Scan)
    assert (work.steps, work.step_flops) == (7, 2)


def choice() -> Graph:
    """Either x + x, or x @ x."""
    then = helper.make_graph([helper.make_node("Add", ["x", "x"], ["sum"])], "then", [], [value("sum", [4, 4])])
    other = helper.make_graph(
        [helper.make_node("MatMul", ["x", "x"], ["square"])], "else", [], [value("square", [4, 4])]
    )
    node = helper.make_node("If", ["condition"], ["y"], name="if", then_branch=then, else_branch=other)
    return model(node, [value("condition", [], TensorProto.BOOL), value("x", [4, 4])], [value("y", [4, 4])])


@pytest.mark.parametrize("condition", [True, False])
def test_branch_is_chosen_when_it_runs(condition):
    numbers = np.arange(16, dtype=np.float32).reshape(4, 4)
    found = execute(choice(), {"condition": np.array(condition), "x": numbers})
    np.testing.assert_allclose(found["y"], numbers + numbers if condition else numbers @ numbers)


def test_unknown_choice_costs_the_dearer_branch():
    (work,) = lower(choice())
    assert (work.macs, work.write_bytes) == (64, 64)


def test_body_cannot_run_without_the_graph_around_it():
    from codesign.ops.base import find

    (op,) = choice().ops
    with pytest.raises(BadModel, match="run it as part of a graph"):
        find(op).compute(op, [np.array(True)])
