"""ONNX Runtime's quantised operators: values against onnxruntime to one step, work against hand counts."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from codesign.errors import BadModel
from codesign.work import Contraction
from tests.onnx_case import NodeCase, normal, relative_error
from tests.test_ops_quantised import bytes_like, scalar


def steps_apart(kind, inputs, **attributes):
    """Largest difference from onnxruntime in steps of the result, after checking shape and type."""
    case = NodeCase(kind, inputs, domain="com.microsoft", **attributes)
    if kind == "QLinearSoftmax":
        # An attribute called as what the case itself takes for the version of the standard.
        case.node.attribute.append(helper.make_attribute("opset", 13))
        case.op.attributes["opset"] = 13
    (mine,), (theirs,) = case.computed(), case.expected()
    assert case.inferred() == [(theirs.shape, theirs.dtype.name)]
    assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
    assert case.work().flops > 0
    return int(np.max(np.abs(mine.astype(int) - theirs.astype(int))))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("kind", "shape", "attributes"),
    [
        ("QLinearSigmoid", (2, 5), {}),
        ("QLinearLeakyRelu", (2, 5), {"alpha": 0.1}),
        ("QLinearSoftmax", (2, 3, 5), {"axis": -1}),
        ("QLinearGlobalAveragePool", (2, 3, 5, 4), {}),
        ("QLinearAveragePool", (2, 3, 6, 6), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ],
)
def test_one_quantised_input(kind, shape, attributes, signed):
    zero = scalar(3, np.int8 if signed else np.uint8)
    inputs = [bytes_like(*shape, signed=signed), scalar(0.03), zero, scalar(1 / 128), zero]
    assert steps_apart(kind, inputs, **attributes) <= 1


def test_joined_inputs_of_different_scales():
    zeros = [scalar(3, np.uint8), scalar(120, np.uint8)]
    inputs = [
        scalar(0.05), scalar(7, np.uint8), bytes_like(2, 3), scalar(0.03), zeros[0],
        bytes_like(2, 4, seed=1), scalar(0.1), zeros[1],
    ]  # fmt: skip
    assert steps_apart("QLinearConcat", inputs, axis=1) <= 1


def test_choice_between_quantised_inputs():
    zeros = [scalar(3, np.uint8), scalar(120, np.uint8), scalar(50, np.uint8)]
    inputs = [
        normal(2, 3) > 0, bytes_like(2, 3), scalar(0.03), zeros[0], bytes_like(2, 3, seed=1), scalar(0.1), zeros[1],
        scalar(0.07), zeros[2],
    ]  # fmt: skip
    assert steps_apart("QLinearWhere", inputs) <= 1


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("transposed", [0, 1])
def test_quantised_gemm(quantised, transposed):
    columns = np.linspace(0.01, 0.02, 4, dtype=np.float32)
    right = bytes_like(4, 6, signed=True) if transposed else bytes_like(6, 4, signed=True)
    inputs = [
        bytes_like(5, 6), scalar(0.02), scalar(120, np.uint8), right, columns, np.zeros(4, np.int8),
        np.arange(-200, 200, 100).astype(np.int32),
    ]  # fmt: skip
    if quantised:
        assert steps_apart("QGemm", [*inputs, scalar(0.05), scalar(100, np.uint8)], transB=transposed) <= 1
    else:
        NodeCase("QGemm", inputs, domain="com.microsoft", transB=transposed).check()


def test_work_is_the_standard_operators_with_conversions_on_the_way_in_and_out():
    zero = scalar(0, np.uint8)
    case = NodeCase(
        "QLinearSoftmax", [bytes_like(4, 8), scalar(0.1), zero, scalar(1 / 256), zero], domain="com.microsoft", axis=-1
    )
    work, plain = case.work(), NodeCase("Softmax", [normal(4, 8)], opset=13, axis=-1).work()
    assert (work.kind, work.read_bytes) == ("Softmax", 4 * 8)
    assert work.flops == plain.flops + 4 * 8 * (3 + 6)


def test_work_of_a_quantised_gemm():
    zero = scalar(1, np.uint8)
    inputs = [bytes_like(5, 6), scalar(0.02), zero, bytes_like(6, 4), scalar(0.1), zero, None, scalar(0.05), zero]
    work = NodeCase("QGemm", inputs, domain="com.microsoft").work()
    assert isinstance(work, Contraction)
    assert (work.macs, work.dtype) == (5 * 6 * 4, "uint8")
    # A scaling and the six operations of a quantisation.
    assert work.epilogue_flops == 5 * 4 * 7


@pytest.mark.parametrize(("bits", "zeros"), [(4, "none"), (4, "packed"), (4, "float"), (8, "none"), (8, "packed")])
@pytest.mark.parametrize("depth", [64, 40])
def test_product_with_packed_weights(bits, zeros, depth):
    blocks = -(-depth // 32)
    inputs = [normal(2, 3, depth), bytes_like(5, blocks, 32 * bits // 8), np.abs(normal(5 * blocks)) / 8]
    if zeros == "packed":
        inputs.append(bytes_like(5 * -(-blocks * bits // 8), seed=2))
    elif zeros == "float":
        inputs.append(normal(5 * blocks, seed=2))
    NodeCase(
        "MatMulNBits", inputs, domain="com.microsoft", N=5, K=depth, block_size=32, bits=bits, accuracy_level=1
    ).check()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize("zeros", [False, True])
def test_product_with_packed_weights_whose_other_side_may_be_rounded(bits, block, zeros):
    """Agreement to float32's rounding, where what is rounded away is a thousand times that."""
    columns, depth = 48, 128
    inputs = [
        normal(5, depth),
        bytes_like(columns, depth // block, block * bits // 8),
        np.abs(normal(columns, depth // block)),
    ]
    inputs[0][0, :block] = 0
    inputs += [bytes_like(columns, -(-(depth // block) * bits // 8))] if zeros else []
    case = NodeCase(
        "MatMulNBits", inputs, domain="com.microsoft", N=columns, K=depth, block_size=block, bits=bits,
        accuracy_level=4, constants=(1, 2, 3),
    )  # fmt: skip
    case.check(1e-6)
    exact = NodeCase("MatMulNBits", inputs, domain="com.microsoft", N=columns, K=depth, block_size=block, bits=bits)
    assert relative_error(exact.computed()[0], case.expected()[0]) > 1e-3
    assert case.work().flops > exact.work().flops


def test_rows_of_packed_weights_name_their_block():
    """4 bits without zero points, the one form in which onnxruntime reads `g_idx` (it is deprecated there)."""
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(2), 32)).astype(np.int32)
    inputs = [normal(3, 64), bytes_like(5, 2, 16), np.abs(normal(5, 2)), None, order]
    NodeCase("MatMulNBits", inputs, domain="com.microsoft", N=5, K=64, block_size=32, bits=4).check()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_product_with_packed_weights_and_a_bias(bits):
    inputs = [normal(3, 64), bytes_like(5, 2, 32 * bits // 8), np.abs(normal(5, 2)), None, None, normal(5)]
    NodeCase("MatMulNBits", inputs, domain="com.microsoft", N=5, K=64, block_size=32, bits=bits).check()


def test_work_of_packed_weights_reads_their_bits():
    inputs = [normal(3, 64), bytes_like(5, 2, 16), normal(10)]
    work = NodeCase("MatMulNBits", inputs, domain="com.microsoft", N=5, K=64, block_size=32, bits=4).work()
    assert work.macs == 3 * 64 * 5
    assert work.reads[1].bytes == 5 * 64 // 2


def test_packed_weights_of_the_wrong_size_are_refused():
    inputs = [normal(3, 64), bytes_like(5, 2, 15), normal(10)]
    case = NodeCase("MatMulNBits", inputs, domain="com.microsoft", N=5, K=64, block_size=32, bits=4)
    with pytest.raises(BadModel, match=r"node 'node' \(MatMulNBits\): A \[3, 64\] and 150 bytes of B, expected .* 160"):
        case.inferred()
