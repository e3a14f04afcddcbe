"""The executor: order, freeing, weights, bodies, epilogues, and what it says when something does not fit."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
from scipy import special

from codesign.errors import BadModel, BadParameter
from codesign.executor import Executor, execute, random_inputs
from codesign.executor.bodies import run_body
from codesign.graph import Graph, Op, Tensor, Weight
from codesign.ops.base import operators


def build(ops, inputs, outputs, weights=None, **shapes):
    """A graph of these ops; `shapes` gives (shape, dtype) or a shape of float32 for each tensor."""
    tensors = {}
    for name, described in shapes.items():
        shape, dtype = described if described and isinstance(described[-1], str) else (described, "float32")
        tensors[name] = Tensor(name, shape, dtype)
    given = {name: Weight(tensors[name], value) for name, value in (weights or {}).items()}
    return Graph("test", tensors, given, tuple(ops), tuple(inputs), tuple(outputs))


def two_products(weights):
    ops = [Op("first", "MatMul", ("x", "w"), ("h",)), Op("second", "MatMul", ("h", "v"), ("y",))]
    return build(ops, ["x"], ["y"], weights, x=(2, 3), w=(3, 4), v=(4, 5), h=(2, 4), y=(2, 5))


@pytest.fixture
def arrays():
    generator = np.random.default_rng(7)
    return {
        name: generator.standard_normal(shape).astype(np.float32)
        for name, shape in {"x": (2, 3), "w": (3, 4), "v": (4, 5)}.items()
    }


def test_computes_operations_in_order(arrays):
    graph = two_products({name: arrays[name] for name in "wv"})
    result = execute(graph, {"x": arrays["x"]})
    assert list(result) == ["y"]
    np.testing.assert_allclose(result["y"], arrays["x"] @ arrays["w"] @ arrays["v"], rtol=1e-5)


def test_frees_a_value_after_its_last_reader(arrays):
    graph = two_products({name: arrays[name] for name in "wv"})
    seen = {}

    def observe(op, outputs):
        if op.name == "first":
            seen["hidden"] = weakref.ref(outputs[0])
        else:
            seen["alive at second"] = seen["hidden"]() is not None

    Executor(graph).run({"x": arrays["x"]}, observe)
    assert seen["alive at second"]
    assert seen["hidden"]() is None


def test_missing_weights_are_made_from_a_seed_only_when_asked(arrays):
    graph = two_products({"w": None, "v": None})
    with pytest.raises(BadModel, match=r"weight 'w' \[3, 4\].*seed_weights"):
        execute(graph, {"x": arrays["x"]})
    first, again, other = (execute(graph, {"x": arrays["x"]}, seed_weights=seed)["y"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_weights_beyond_the_cache_are_read_again():
    reads = []

    def load():
        reads.append(1)
        return np.eye(3, dtype=np.float32)

    tensors = {name: Tensor(name, (3, 3), "float32") for name in "xwy"}
    weights = {"w": Weight(tensors["w"], load=load)}
    graph = Graph("test", tensors, weights, (Op("product", "MatMul", ("x", "w"), ("y",)),), ("x",), ("y",))
    x = np.ones((3, 3), np.float32)
    for limit, expected in ((1 << 20, 1), (0, 2)):
        reads.clear()
        executor = Executor(graph, weight_cache_bytes=limit)
        executor.run({"x": x})
        executor.run({"x": x})
        assert len(reads) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, r"input 'x' is missing; expected shape \[2, 3\] and type float32"),
        ({"x": np.ones((2, 4), np.float32)}, r"input 'x' has shape \[2, 4\] and type float32; expected shape \[2, 3\]"),
        ({"x": np.ones((2, 3))}, r"input 'x' .* type float64; expected shape \[2, 3\] and type float32"),
        ({"x1": np.ones((2, 3), np.float32)}, r"no input 'x1'; did you mean x\?; its inputs are x"),
    ],
)
def test_wrong_inputs_are_named(arrays, change, message):
    with pytest.raises(BadParameter, match=message):
        execute(two_products({name: arrays[name] for name in "wv"}), change)


def test_a_failing_operation_is_named(arrays):
    graph = build([Op("bad", "MatMul", ("x", "x"), ("y",))], ["x"], ["y"], x=(2, 3), y=(2, 2))
    with pytest.raises(BadModel, match=r"node 'bad' \(MatMul\).*float32\[2, 3\]"):
        execute(graph, {"x": arrays["x"]})


@pytest.mark.parametrize("second", ["@", "v"])
def test_epilogue_follows_the_operation_and_leaves_its_operands_alone(arrays, second):
    relu, add = Op("relu", "Relu", ("@",), ("r",)), Op("add", "Add", ("@", second), ("y",))
    op = Op("product", "MatMul", ("x", "w"), ("y",), epilogue=(relu, add))
    vector = np.arange(4, dtype=np.float32)
    graph = build([op], ["x"], ["y"], {"w": arrays["w"], "v": vector}, x=(2, 3), w=(3, 4), v=(4,), y=(2, 4), r=(2, 4))
    result = execute(graph, {"x": arrays["x"]})["y"]
    rectified = np.maximum(arrays["x"] @ arrays["w"], 0)
    np.testing.assert_allclose(result, rectified + (rectified if second == "@" else vector), rtol=1e-6)
    np.testing.assert_array_equal(vector, np.arange(4))


@pytest.mark.parametrize(
    ("kind", "attributes", "formula"),
    [
        ("Relu", {}, lambda x: np.maximum(x, 0)),
        ("Sigmoid", {}, special.expit),
        ("Gelu", {}, lambda x: x * special.ndtr(x)),
        ("Gelu", {"approximate": "tanh"}, lambda x: 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3)))),
        ("Swish", {}, lambda x: x * special.expit(x)),
        ("Swish", {"alpha": 1.5}, lambda x: x * special.expit(1.5 * x)),
        ("HardSwish", {}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    ],
)
@pytest.mark.parametrize("view", [False, True])
def test_activations_in_an_epilogue(kind, attributes, formula, view):
    x = np.linspace(-8, 8, 60, dtype=np.float32).reshape(3, 20)
    follower = Op("follower", kind, ("@",), ("y",), attributes)
    first = Op("view", "Identity", ("x",), ("y",)) if view else Op("sum", "Add", ("x", "zero"), ("y",))
    op = replace(first, epilogue=(follower,))
    zero = np.zeros(20, np.float32)
    graph = build([op], ["x"], ["y"], {} if view else {"zero": zero}, x=(3, 20), y=(3, 20), zero=(20,))
    before = x.copy()
    np.testing.assert_allclose(execute(graph, {"x": x})["y"], formula(x.astype(np.float64)), atol=2e-6)
    np.testing.assert_array_equal(x, before)


def test_clip_in_an_epilogue_takes_limits_from_weights():
    x = np.linspace(-8, 8, 21, dtype=np.float32)
    limits = {"low": np.float32(-1), "high": np.float32(6)}
    op = Op("sum", "Add", ("x", "x"), ("y",), epilogue=(Op("clip", "Clip", ("@", "low", "high"), ("y",)),))
    arrays = {name: np.asarray(value) for name, value in limits.items()}
    graph = build([op], ["x"], ["y"], arrays, x=(21,), y=(21,), low=(), high=())
    np.testing.assert_array_equal(execute(graph, {"x": x})["y"], np.clip(2 * x, -1, 6))


def test_an_output_that_is_a_weight_or_an_input_is_the_callers_own():
    graph = build([], ["x"], ["x", "w"], {"w": np.ones(3, np.float32)}, x=(2,), w=(3,))
    x = np.zeros(2, np.float32)
    executor = Executor(graph)
    result = executor.run({"x": x})
    for array in result.values():
        array += 5
    assert not x.any()
    np.testing.assert_array_equal(executor.run({"x": x})["w"], np.ones(3))


class _Twice:
    """Control flow in the least form: runs its body two times on its own result."""

    def compute(self, op, inputs):
        (once,) = run_body(op.bodies["body"], inputs)
        return run_body(op.bodies["body"], [once])


def test_a_body_reads_captured_values_and_its_own_weights(monkeypatch):
    monkeypatch.setitem(operators(), ("", "Twice"), _Twice())
    shapes = {name: Tensor(name, (2, 2), "float32") for name in ("h", "s", "t", "captured", "bias")}
    bias = Weight(shapes["bias"], np.full((2, 2), 3, np.float32))
    inner = (Op("product", "MatMul", ("h", "captured"), ("s",)), Op("sum", "Einsum", ("s", "bias"), ("t",), EQUATION))
    body = Graph("body", shapes, {"bias": bias}, inner, ("h",), ("t",), captured=("captured",))
    ops = [
        Op("outer", "MatMul", ("x", "x"), ("captured",)),
        Op("loop", "Twice", ("x",), ("y",), bodies={"body": body}),
    ]
    graph = build(ops, ["x"], ["y"], x=(2, 2), captured=(2, 2), y=(2, 2))
    x = np.array([[1, 2], [0, 1]], np.float32)
    once = (x @ (x @ x)) * 3
    np.testing.assert_allclose(execute(graph, {"x": x})["y"], (once @ (x @ x)) * 3)


EQUATION = {"equation": "ij,ij->ij"}


def test_random_inputs_are_valid_for_what_they_feed():
    ops = [
        Op("wide", "Cast", ("ids",), ("cast",), {"to": 7}),
        Op("look", "Gather", ("table", "cast"), ("y",)),
    ]
    graph = build(
        ops, ["ids", "attention_mask", "flag", "x"], ["y"], {"table": None},
        ids=((2, 50), "int32"), cast=((2, 50), "int64"), table=(5, 3), y=(2, 50, 3),
        attention_mask=((2, 50), "int64"), flag=((2,), "bool"), x=(100, 100),
    )  # fmt: skip
    made, again = random_inputs(graph, 3), random_inputs(graph, 3)
    for name, array in made.items():
        np.testing.assert_array_equal(array, again[name])
        assert array.shape == graph.tensors[name].shape
        assert array.dtype.name == graph.tensors[name].dtype
    assert set(np.unique(made["ids"])) == {0, 1, 2, 3, 4}
    assert (made["attention_mask"] == 1).all()
    assert made["flag"].all()
    assert abs(made["x"].mean()) < 0.05
    assert abs(made["x"].std() - 1) < 0.05
    assert not np.array_equal(random_inputs(graph, 4)["x"], made["x"])
