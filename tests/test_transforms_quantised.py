"""Quantise and dequantise pairs turned into operations on integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from codesign.executor.executor import Executor
from codesign.graph import Graph
from codesign.lower import lower
from codesign.transforms import optimise
from codesign.transforms.dead_code import remove_dead_code
from codesign.transforms.quantised import fuse_quantised
from tests.transform_case import Build, assert_consistent, epilogues, keeps_values, kinds, seeded_inputs

SCALE = 0.05
INTEGERS = {"uint8": np.uint8, "int8": np.int8}


class QuantisedBuild(Build):
    """A graph whose values are dequantised before each operation and quantised after."""

    def quantised_input(self, *shape: int, dtype: str = "uint8", zero: int = 3) -> str:
        values = self.input(*shape, dtype=dtype)
        return str(self.op("DequantizeLinear", values, self.constant(SCALE), self.constant(zero, INTEGERS[dtype])))

    def dequantised(self, *shape: int, axis: int | None = None) -> str:
        """Constant int8 weights with one scale, or one each slice of `axis`."""
        values = self.constant(self.random.integers(-100, 100, shape), np.int8, parameter=True)
        if axis is None:
            return str(self.op("DequantizeLinear", values, self.constant(0.01)))
        scale = self.constant(np.linspace(0.005, 0.02, shape[axis]))
        zero = self.constant(np.zeros(shape[axis]), np.int8)
        return str(self.op("DequantizeLinear", values, scale, zero, axis=axis))

    def bias(self, weights: str, count: int) -> str:
        """An int32 bias with the scale of the sums of a product with `weights`."""
        scale = self.weights[next(op for op in self.ops if op.outputs[0] == weights).inputs[1]].inline
        assert scale is not None
        values = self.constant(self.random.integers(-500, 500, count), np.int32, parameter=True)
        return str(self.op("DequantizeLinear", values, self.constant(np.float32(SCALE) * scale), axis=0))

    def quantise(self, value: str, dtype: str = "uint8", zero: int = 7, scale: float = 0.1) -> str:
        return str(self.op("QuantizeLinear", value, self.constant(scale), self.constant(zero, INTEGERS[dtype])))


def within_one_step(graph: Graph) -> Graph:
    """The fused graph, its integer outputs at most one step from the unfused graph's and rarely that."""
    result = remove_dead_code(fuse_quantised(graph))
    assert_consistent(result)
    inputs = seeded_inputs(graph)
    before, after = Executor(graph).run(inputs), Executor(result).run(inputs)
    for name, expected in before.items():
        assert after[name].dtype == expected.dtype
        difference = np.abs(after[name].astype(np.int64) - expected.astype(np.int64))
        assert difference.max() <= 1
        assert difference.mean() < 0.02
        assert np.ptp(expected.astype(np.int64)) > 5
    return result


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_convolution_between_dequantise_and_quantise(axis: int | None, with_bias: bool, dtype: str) -> None:
    build = QuantisedBuild()
    x = build.quantised_input(1, 4, 6, 6, dtype=dtype)
    weights = build.dequantised(8, 4, 3, 3, axis=axis)
    bias = [build.bias(weights, 8)] if with_bias else []
    graph = build.graph(build.quantise(build.op("Conv", x, weights, *bias, pads=(1, 1, 1, 1)), dtype))
    result = within_one_step(graph)
    assert kinds(result) == {"QLinearConv": 1}
    assert result.ops[0].sources == tuple(op.name for op in build.ops)
    assert result.parameters == graph.parameters
    assert sum(work.macs for work in lower(result)) == sum(work.macs for work in lower(graph))


@pytest.mark.parametrize(
    ("limit", "zero", "expected"),
    [
        ("Relu", 0, {"QLinearConv": 1}),
        ("Relu", 7, {"QLinearConv": 1, "Max": 1}),
        ("Clip", 7, {"QLinearConv": 1, "Max": 1, "Min": 1}),
    ],
)
def test_limits_before_quantisation_become_limits_of_integers(limit: str, zero: int, expected: dict[str, int]) -> None:
    build = QuantisedBuild()
    product = build.op("Conv", build.quantised_input(1, 4, 6, 6), build.dequantised(8, 4, 1, 1))
    bounds = [build.constant(0.0), build.constant(6.0)] if limit == "Clip" else []
    graph = build.graph(build.quantise(build.op(limit, product, *bounds), zero=zero))
    assert kinds(within_one_step(graph)) == expected
    assert kinds(optimise(graph)) == {"QLinearConv": 1}


@pytest.mark.parametrize("axis", [None, 1])
def test_matrix_product_between_dequantise_and_quantise(axis: int | None) -> None:
    build = QuantisedBuild()
    product = build.op("MatMul", build.quantised_input(2, 5, 16), build.dequantised(16, 8, axis=axis))
    assert kinds(within_one_step(build.graph(build.quantise(product)))) == {"QLinearMatMul": 1}


def test_product_of_two_activations() -> None:
    build = QuantisedBuild()
    left, right = build.quantised_input(2, 5, 16), build.quantised_input(2, 16, 6, dtype="int8", zero=-2)
    assert kinds(within_one_step(build.graph(build.quantise(build.op("MatMul", left, right), scale=0.2)))) == {
        "QLinearMatMul": 1
    }


def test_linear_layer_with_bias_and_activation_is_one_integer_product() -> None:
    build = QuantisedBuild()
    weights = build.dequantised(16, 8, axis=1)
    product = build.op("MatMul", build.quantised_input(2, 5, 16), weights)
    activated = build.op("Gelu", build.op("Add", product, build.parameter(8)), opset=20)
    graph = build.graph(build.quantise(activated, scale=0.05))
    within_one_step(graph)
    result = optimise(graph)
    assert epilogues(result) == {"MatMulInteger": ["DequantizeLinear", "Add", "Gelu", "QuantizeLinear"]}


@pytest.mark.parametrize("turned", [0, 1])
def test_gemm_without_quantisation_after_gives_floats(turned: int) -> None:
    build = QuantisedBuild()
    weights = build.dequantised(8, 16, axis=0) if turned else build.dequantised(16, 8, axis=1)
    product = build.op("Gemm", build.quantised_input(5, 16), weights, build.bias(weights, 8), transB=turned)
    assert kinds(keeps_values(build.graph(product), optimise)) == {"QGemm": 1}


def test_gemm_with_a_float_bias_adds_it_after_the_integer_product() -> None:
    build = QuantisedBuild()
    product = build.op("Gemm", build.quantised_input(5, 16), build.dequantised(16, 8, axis=1), build.parameter(8))
    result = keeps_values(build.graph(product), optimise)
    assert epilogues(result) == {"MatMulInteger": ["DequantizeLinear", "Add"]}


@pytest.mark.parametrize("turned", [0, 1])
def test_gemm_between_dequantise_and_quantise(turned: int) -> None:
    build = QuantisedBuild()
    weights = build.dequantised(8, 16, axis=0) if turned else build.dequantised(16, 8, axis=1)
    product = build.op("Gemm", build.quantised_input(5, 16), weights, build.bias(weights, 8), transB=turned)
    assert kinds(within_one_step(build.graph(build.quantise(product)))) == {"QGemm": 1}


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("Sigmoid", {}),
        ("LeakyRelu", {"alpha": 0.1}),
        ("GlobalAveragePool", {}),
        ("AveragePool", {"kernel_shape": (2, 2)}),
    ],
)
def test_one_dequantised_value_quantised_after(kind: str, attributes: dict[str, Any]) -> None:
    build = QuantisedBuild()
    x = build.quantised_input(2, 9, 4, 5, dtype="int8")
    result = build.quantise(build.op(kind, x, **attributes), "int8", scale=0.0123)
    assert kinds(within_one_step(build.graph(result))) == {f"QLinear{kind}": 1}


def test_softmax_says_which_version_it_follows() -> None:
    build = QuantisedBuild()
    result = build.quantise(build.op("Softmax", build.quantised_input(2, 3, 8), opset=13), zero=0, scale=1 / 256)
    fused = within_one_step(build.graph(result))
    assert [(op.kind, op.attributes["opset"]) for op in fused.ops] == [("QLinearSoftmax", 13)]


def test_values_of_different_scales_joined_and_chosen_between() -> None:
    build = QuantisedBuild()
    left, right = build.quantised_input(2, 8), build.quantised_input(2, 8, zero=90)
    joined = build.quantise(build.op("Concat", left, right, axis=1), scale=0.0321)
    chosen = build.quantise(build.op("Where", build.input(2, 8, dtype="bool"), left, right), scale=0.0321)
    result = within_one_step(build.graph(joined, chosen))
    assert kinds(result) == {"QLinearConcat": 1, "QLinearWhere": 1}


def test_a_product_and_what_follows_it_may_be_stored_in_different_types() -> None:
    build = QuantisedBuild()
    x = build.quantised_input(1, 4, 6, 6)
    product = build.quantise(build.op("Conv", x, build.dequantised(4, 4, 1, 1)), scale=0.05, zero=120)
    real = build.op("DequantizeLinear", product, build.constant(0.05), build.constant(120, np.uint8))
    total = build.op("Add", real, build.input(1, 4, 6, 6))
    graph = build.graph(build.quantise(total, "int8", zero=-3, scale=0.04))
    within_one_step(graph)
    result = optimise(graph)
    assert epilogues(result) == {"QLinearConv": ["DequantizeLinear", "Add", "QuantizeLinear"]}
    inputs = seeded_inputs(graph)
    unfused, fused = Executor(fuse_quantised(graph)).run(inputs), Executor(result).run(inputs)
    np.testing.assert_array_equal(fused[graph.outputs[0]], unfused[graph.outputs[0]])


def test_arithmetic_of_the_standard_leaves_floats_between_quantisations() -> None:
    build = QuantisedBuild()
    product = build.op("Conv", build.quantised_input(1, 4, 6, 6), build.dequantised(8, 4, 3, 3))
    graph = build.graph(build.quantise(product))
    assert kinds(optimise(graph, quantised="standard")) == {"DequantizeLinear": 2, "Conv": 1}
    assert kinds(optimise(graph, quantised="fused")) == {"QLinearConv": 1}


def test_convolution_with_float_bias_and_an_activation() -> None:
    build = QuantisedBuild()
    x = build.quantised_input(1, 4, 6, 6)
    product = build.op("Conv", x, build.dequantised(8, 4, 1, 1, axis=0), build.parameter(8))
    result = keeps_values(build.graph(build.op("HardSwish", product)), optimise)
    assert epilogues(result) == {"ConvInteger": ["DequantizeLinear", "Add", "HardSwish"]}


@pytest.mark.parametrize(("kind", "fused"), [("Add", "QLinearAdd"), ("Mul", "QLinearMul")])
def test_sum_and_product_of_dequantised_values(kind: str, fused: str) -> None:
    build = QuantisedBuild()
    left, right = build.quantised_input(2, 8), build.quantised_input(2, 8, zero=90)
    # Not 0.02: sums would fall on halves, and the integer operators add the zero point before they round.
    graph = build.graph(build.quantise(build.op("Relu", build.op(kind, left, right)), scale=0.021))
    assert kinds(within_one_step(graph)) == {fused: 1, "Max": 1}


def test_rearranging_between_equal_scales_moves_integers() -> None:
    build = QuantisedBuild()
    x = build.quantised_input(1, 4, 6, 6)
    pooled = build.quantise(build.op("MaxPool", x, kernel_shape=(2, 2), strides=(2, 2)), zero=3, scale=SCALE)
    turned = build.op("DequantizeLinear", pooled, build.constant(SCALE), build.constant(3, np.uint8))
    turned = build.quantise(build.op("Transpose", turned, perm=(0, 2, 3, 1)), zero=3, scale=SCALE)
    result = keeps_values(build.graph(turned), lambda graph: remove_dead_code(fuse_quantised(graph)), tolerance=0.0)
    assert kinds(result) == {"MaxPool": 1, "Transpose": 1}


@pytest.mark.parametrize(("scale", "zero"), [(0.06, 3), (SCALE, 4)])
def test_rearranging_between_different_scales_stays(scale: float, zero: int) -> None:
    build = QuantisedBuild()
    graph = build.graph(build.quantise(build.reshape(build.quantised_input(2, 8), 16), zero=zero, scale=scale))
    assert fuse_quantised(graph) is graph


def test_concatenation_of_equal_scales_moves_integers() -> None:
    build = QuantisedBuild()
    parts = [build.quantised_input(2, 8) for _ in range(2)]
    graph = build.graph(build.quantise(build.op("Concat", *parts, axis=1), zero=3, scale=SCALE))
    assert kinds(within_one_step(graph)) == {"Concat": 1}


def test_dequantisation_that_a_float_operation_reads_too_stays() -> None:
    build = QuantisedBuild()
    x = build.quantised_input(1, 4, 6, 6)
    product = build.quantise(build.op("Conv", x, build.dequantised(8, 4, 1, 1)))
    result = keeps_values(build.graph(product, build.op("Softmax", x)), optimise, tolerance=0.0)
    assert kinds(result) == {"DequantizeLinear": 1, "Softmax": 1, "QLinearConv": 1}
    assert "n0" in next(op for op in result.ops if op.kind == "QLinearConv").sources


def test_dequantised_value_without_quantisation_after_stays() -> None:
    build = QuantisedBuild()
    graph = build.graph(build.op("Softmax", build.quantised_input(2, 8)))
    assert fuse_quantised(graph) is graph
