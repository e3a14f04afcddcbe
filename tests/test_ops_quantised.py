"""Quantisation and integer products: values against the standard's cases and onnxruntime, work against hand counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import BadModel
from codesign.executor.kernels.integer import exactly
from codesign.work import Contraction
from tests.onnx_case import NodeCase, check_standard_case, normal, standard_case_names

STANDARD = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv",
    "QLinearMatMul",
)  # fmt: skip


@pytest.mark.parametrize("name", standard_case_names(*STANDARD))
def test_operator_agrees_with_the_standards_own_case(name):
    check_standard_case(name)


def bytes_like(*shape, seed=0, signed=False):
    generator = np.random.default_rng([seed, *shape])
    return (
        generator.integers(-128, 128, shape).astype(np.int8)
        if signed
        else generator.integers(0, 256, shape).astype(np.uint8)
    )


def scalar(value, dtype=np.float32):
    return np.asarray(value, dtype)


@given(st.integers(1, 3000), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_integer_products_are_exact(depth, seed):
    left, right = bytes_like(3, depth, seed=seed), bytes_like(depth, 4, seed=seed, signed=True)
    exact = left.astype(np.int64) @ right.astype(np.int64)
    np.testing.assert_array_equal(exactly(np.matmul, left, right, depth), exact)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("columns", [False, True])
def test_integer_matrix_product(signed, columns):
    zero = np.array([3, 5, 250, 7], np.uint8) if columns else scalar(9, np.uint8)
    right = bytes_like(6, 4, signed=signed)
    case = NodeCase("MatMulInteger", [bytes_like(5, 6), right, scalar(100, np.uint8), zero.astype(right.dtype)])
    case.check()
    work = case.work()
    assert isinstance(work, Contraction)
    assert (work.macs, work.dtype, work.weight_bytes) == (5 * 6 * 4, "uint8", 0)


def test_quantised_convolution_of_each_channel():
    inputs = [
        bytes_like(2, 4, 9, 8), scalar(0.02), scalar(120, np.uint8),
        bytes_like(6, 2, 3, 3, signed=True), np.linspace(0.001, 0.01, 6, dtype=np.float32), np.zeros(6, np.int8),
        scalar(0.05), scalar(130, np.uint8), np.arange(-300, 300, 100).astype(np.int32),
    ]  # fmt: skip
    case = NodeCase("QLinearConv", inputs, group=2, pads=[1, 1, 1, 1], strides=[2, 1])
    case.check()
    outputs = 2 * 6 * 5 * 8
    assert case.work().macs == outputs * 2 * 9
    assert case.work().epilogue_flops == outputs * 7


@pytest.mark.parametrize("kind", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("signed", [False, True])
def test_quantised_elementwise(kind, signed):
    zero = scalar(10, np.int8 if signed else np.uint8)
    left, right = bytes_like(3, 4, signed=signed), bytes_like(4, seed=1, signed=signed)
    case = NodeCase(
        kind, [left, scalar(0.1), zero, right, scalar(0.2), zero, scalar(0.3), zero], domain="com.microsoft"
    )
    case.check(tolerance=1 / 255 + 1e-6)


def test_products_that_return_to_floats():
    right, scale = bytes_like(6, 4, signed=True), np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    zero, bias = np.zeros(4, np.int8), normal(4)
    microsoft = {"domain": "com.microsoft"}
    NodeCase(
        "MatMulIntegerToFloat",
        [bytes_like(5, 6), right, scalar(0.5), scale, scalar(7, np.uint8), zero, bias],
        **microsoft,
    ).check()
    NodeCase("DynamicQuantizeMatMul", [normal(5, 6), right, scale, zero, bias], **microsoft).check()


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_each_slice_of_an_axis_has_its_scale(axis):
    values = normal(3, 4, 5) * 50
    length = values.shape[axis]
    scale, zero = np.linspace(0.1, 1, length, dtype=np.float32), np.arange(length).astype(np.int8)
    NodeCase("QuantizeLinear", [values, scale, zero], axis=axis, opset=21).check()
    NodeCase("DequantizeLinear", [bytes_like(3, 4, 5, signed=True), scale, zero], axis=axis, opset=21).check()


def test_a_scale_that_does_not_fit_is_named():
    with pytest.raises(BadModel, match=r"node 'node' \(QuantizeLinear\): scale \[7\] does not fit"):
        NodeCase("QuantizeLinear", [normal(3, 4), np.ones(7, np.float32)], axis=1).inferred()
