"""Activation functions recognised in the formulas that exporters write."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from codesign.transforms.activations import fuse_activations
from tests.transform_case import Build, keeps_values, kinds

Formula = Callable[[Build, str], str]


def _gelu(order: str) -> Formula:
    """x / sqrt(2) -> Erf -> + 1, multiplied with x and one half in the given order."""

    def formula(build: Build, x: str) -> str:
        half = build.constant(0.5)
        if order == "reciprocal":
            scaled = build.op("Mul", x, build.constant(math.sqrt(0.5)))
        else:
            scaled = build.op("Div", x, build.constant(math.sqrt(2)))
        shifted = build.op("Add", build.op("Erf", scaled), build.constant(1.0))
        if order == "x (half shifted)":
            return str(build.op("Mul", x, build.op("Mul", half, shifted)))
        if order == "(half x) shifted":
            return str(build.op("Mul", build.op("Mul", half, x), shifted))
        if order == "over two":
            return str(build.op("Div", build.op("Mul", shifted, x), build.constant(2.0)))
        return str(build.op("Mul", build.op("Mul", x, shifted), half))

    return formula


def _gelu_tanh(nested: bool) -> Formula:
    def formula(build: Build, x: str) -> str:
        slope, cubic = build.constant(math.sqrt(2 / math.pi)), build.constant(0.044715)
        if nested:
            square = build.op("Mul", build.op("Mul", x, cubic), x)
            inner = build.op("Mul", build.op("Mul", x, slope), build.op("Add", square, build.constant(1.0)))
        else:
            cube = build.op("Mul", build.op("Pow", x, build.constant(3.0)), cubic)
            inner = build.op("Mul", build.op("Add", x, cube), slope)
        shifted = build.op("Add", build.op("Tanh", inner), build.constant(1.0))
        return str(build.op("Mul", build.op("Mul", x, build.constant(0.5)), shifted))

    return formula


def _swish(build: Build, x: str) -> str:
    return str(build.op("Mul", build.op("Sigmoid", x), x))


def _quick_gelu(build: Build, x: str) -> str:
    return str(build.op("Mul", x, build.op("Sigmoid", build.op("Mul", x, build.constant(1.702)))))


def _mish(build: Build, x: str) -> str:
    return str(build.op("Mul", x, build.op("Tanh", build.op("Softplus", x))))


def _hard_swish(build: Build, x: str) -> str:
    return str(build.op("Mul", x, build.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)))


def _clipped(build: Build, x: str) -> str:
    shifted = build.op("Add", x, build.constant(3.0))
    return str(build.op("Clip", shifted, build.constant(0.0), build.constant(6.0)))


def _hard_swish_clipped(build: Build, x: str) -> str:
    return str(build.op("Div", build.op("Mul", x, _clipped(build, x)), build.constant(6.0)))


def _hard_swish_of_gate(build: Build, x: str) -> str:
    return str(build.op("Mul", x, build.op("Div", _clipped(build, x), build.constant(6.0))))


def _hard_sigmoid(build: Build, x: str) -> str:
    return str(build.op("Div", _clipped(build, x), build.constant(6.0)))


@pytest.mark.parametrize(
    ("formula", "kind", "attributes"),
    [
        (_gelu("x (half shifted)"), "Gelu", {}),
        (_gelu("(half x) shifted"), "Gelu", {}),
        (_gelu("(x shifted) half"), "Gelu", {}),
        (_gelu("over two"), "Gelu", {}),
        (_gelu("reciprocal"), "Gelu", {}),
        (_gelu_tanh(nested=False), "Gelu", {"approximate": "tanh"}),
        (_gelu_tanh(nested=True), "Gelu", {"approximate": "tanh"}),
        (_swish, "Swish", {}),
        (_quick_gelu, "Swish", {"alpha": pytest.approx(1.702)}),
        (_mish, "Mish", {}),
        (_hard_swish, "HardSwish", {}),
        (_hard_swish_clipped, "HardSwish", {}),
        (_hard_swish_of_gate, "HardSwish", {}),
        (_hard_sigmoid, "HardSigmoid", {"alpha": pytest.approx(1 / 6), "beta": 0.5}),
    ],
)
def test_formula_becomes_its_operator(formula: Formula, kind: str, attributes: dict[str, object]) -> None:
    build = Build()
    before = build.op("Tanh", build.input(4, 33))
    after = formula(build, before)
    result = keeps_values(build.graph(build.op("Neg", after)), fuse_activations)
    assert kinds(result) == {"Tanh": 1, kind: 1, "Neg": 1}
    assert dict(result.ops[1].attributes) == attributes
    assert result.ops[1].sources == tuple(op.name for op in build.ops[1:-1])


def test_swiglu_keeps_its_gate_product() -> None:
    build = Build()
    x, gate = build.input(4, 8), build.input(4, 8)
    result = keeps_values(build.graph(build.op("Mul", gate, _swish(build, x))), fuse_activations)
    assert kinds(result) == {"Swish": 1, "Mul": 1}


def test_formula_with_another_constant_stays() -> None:
    build = Build()
    x = build.input(4, 8)
    shifted = build.op("Add", build.op("Erf", build.op("Div", x, build.constant(1.5))), build.constant(1.0))
    graph = build.graph(build.op("Mul", x, build.op("Mul", shifted, build.constant(0.5))))
    assert fuse_activations(graph) is graph


def test_formula_whose_piece_is_an_output_stays() -> None:
    build = Build()
    x = build.input(4, 8)
    gate = build.op("Sigmoid", x)
    graph = build.graph(build.op("Mul", x, gate), gate)
    assert fuse_activations(graph) is graph
