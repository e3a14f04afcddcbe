"""Products, convolutions, normalisations, softmax, attention: values against onnxruntime, work against hand counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codesign.errors import BadModel
from codesign.work import Contraction
from tests.onnx_case import NodeCase, check_standard_case, normal, standard_case_names


@pytest.mark.parametrize(
    ("left", "right", "batch", "m"),
    [
        ((5, 7), (7, 3), 1, 5),
        ((2, 3, 5, 7), (7, 4), 1, 30),
        ((2, 3, 5, 7), (1, 1, 7, 4), 1, 30),
        ((2, 3, 5, 7), (2, 3, 7, 4), 6, 5),
        ((2, 1, 5, 7), (3, 7, 4), 6, 5),
        ((7,), (7, 4), 1, 1),
        ((5, 7), (7,), 1, 5),
        ((7,), (7,), 1, 1),
        ((5, 7), (2, 7, 3), 2, 5),
    ],
)
def test_matmul_agrees_and_folds_rows_that_share_the_right_side(left, right, batch, m):
    case = NodeCase("MatMul", [normal(*left), normal(*right)])
    case.check()
    work = case.work()
    assert isinstance(work, Contraction)
    assert (work.batch, work.m, work.k) == (batch, m, 7)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("addend", [None, (4,), (5, 1), (5, 4), ()])
def test_gemm(trans_a, trans_b, addend):
    left, right = normal(*((7, 5) if trans_a else (5, 7))), normal(*((4, 7) if trans_b else (7, 4)))
    inputs = [left, right] + ([normal(*addend)] if addend is not None else [])
    NodeCase("Gemm", inputs, transA=trans_a, transB=trans_b, alpha=0.5, beta=1.5).check()
    NodeCase("Gemm", inputs, transA=trans_a, transB=trans_b).check()


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("ij,jk->ik", [(3, 4), (4, 5)], 60),
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)], 120),
        ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)], 720),
        ("...ij,...jk->...ik", [(2, 3, 4), (1, 4, 5)], 120),
        ("bhwqc,hkc->bhwqk", [(2, 3, 4, 5, 6), (3, 7, 6)], 5040),
        ("i,j->ji", [(3,), (4,)], 12),
        ("ij,ij->", [(3, 4), (3, 4)], 12),
        ("ij,jk,kl->il", [(3, 4), (4, 5), (5, 6)], 150),
        ("ij,j", [(3, 4), (4,)], 12),
        ("ij->ji", [(3, 4)], 0),
        ("ii->i", [(4, 4)], 0),
        ("ijk->j", [(3, 4, 5)], 0),
        ("ijk,jl->l", [(3, 4, 5), (4, 2)], 8),
    ],
)
def test_einsum(equation, shapes, macs):
    case = NodeCase("Einsum", [normal(*shape, seed=index) for index, shape in enumerate(shapes)], equation=equation)
    case.check()
    work = case.work()
    assert (work.flops if macs else work.macs) == 2 * macs


def test_einsum_says_which_label_disagrees():
    with pytest.raises(BadModel, match=r"label 'j'.*4 and 5"):
        NodeCase("Einsum", [normal(3, 4), normal(5, 6)], equation="ij,jk->ik").inferred()


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 3))
    per_axis = st.lists
    kernel = draw(per_axis(st.integers(1, 4), min_size=rank, max_size=rank))
    dilations = draw(per_axis(st.integers(1, 2), min_size=rank, max_size=rank))
    strides = draw(per_axis(st.integers(1, 3), min_size=rank, max_size=rank))
    groups, inputs, outputs = draw(
        st.sampled_from([(1, 3, 5), (1, 1, 1), (2, 4, 6), (4, 4, 4), (4, 4, 8), (3, 9, 3), (1, 8, 2)])
    )
    extents = [
        (size - 1) * step + 1 + extra
        for size, step, extra in zip(
            kernel, dilations, draw(per_axis(st.integers(0, 6), min_size=rank, max_size=rank)), strict=True
        )
    ]
    attributes = {"kernel_shape": kernel, "dilations": dilations, "strides": strides, "group": groups}
    mode = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", "pads"]))
    if mode == "pads":
        attributes["pads"] = draw(per_axis(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank))
    else:
        attributes["auto_pad"] = mode
    if mode.startswith("SAME"):
        attributes["dilations"] = [1] * rank
    batch = draw(st.integers(1, 3))
    inputs_list = [normal(batch, inputs, *extents), normal(outputs, inputs // groups, *kernel)]
    return NodeCase("Conv", [*inputs_list, *([normal(outputs)] if draw(st.booleans()) else [])], **attributes)


@given(convolutions())
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_convolution_of_any_geometry(case):
    case.check()


def test_convolution_unfolds_in_blocks_that_cover_the_output(monkeypatch):
    import codesign.executor.kernels.convolution as kernels

    case = NodeCase("Conv", [normal(5, 6, 17, 13), normal(4, 6, 3, 3)], pads=[1, 1, 1, 1])
    for budget in (1, 6 * 9 * 13 * 4 * 5, 6 * 9 * 13 * 17 * 4 * 2, 1 << 30):
        monkeypatch.setattr(kernels, "BLOCK_BYTES", budget)
        case.check()


def test_convolution_work_counts_one_product_a_group():
    work = NodeCase("Conv", [normal(2, 8, 10, 12), normal(6, 4, 3, 3)], group=2, strides=[2, 1]).work()
    assert isinstance(work, Contraction)
    assert (work.batch, work.m, work.n, work.k) == (2, 2 * 4 * 10, 3, 36)
    assert work.convolution is not None
    assert work.convolution.output_spatial == (4, 10)


def test_convolution_names_the_node_when_channels_disagree():
    with pytest.raises(BadModel, match=r"node 'node' \(Conv\): 8 input channels"):
        NodeCase("Conv", [normal(1, 8, 5, 5), normal(4, 4, 3, 3)]).inferred()


@pytest.mark.parametrize(
    ("rank", "groups", "attributes"),
    [
        (2, 1, {}),
        (2, 2, {"strides": [2, 3], "pads": [1, 0, 2, 1]}),
        (2, 4, {"strides": [2, 2], "output_padding": [1, 1], "pads": [1, 1, 1, 1]}),
        (1, 1, {"strides": [3], "dilations": [2]}),
        (3, 2, {"strides": [1, 2, 2]}),
        (2, 1, {"strides": [2, 2], "output_shape": [11, 12]}),
        (2, 1, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        (2, 1, {"strides": [3, 2], "auto_pad": "SAME_LOWER"}),
    ],
)
def test_transposed_convolution(rank, groups, attributes):
    image, weights = normal(2, 4, *range(5, 5 + rank)), normal(4, 3, *(3,) * rank)
    case = NodeCase("ConvTranspose", [image, weights, normal(3 * groups)], group=groups, **attributes)
    case.check()
    positions = 2 * np.prod(image.shape[2:])
    assert case.work().macs == positions * 4 * 3 * 3**rank


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Sigmoid", "LeakyRelu", "Clip", "HardSigmoid", "HardSwish"])
def test_fused_convolution(activation):
    parameters = {"LeakyRelu": [0.2], "Clip": [-0.5, 0.5], "HardSigmoid": [0.3, 0.4]}.get(activation)
    attributes = {"activation_params": parameters} if parameters else {}
    inputs = [normal(1, 3, 8, 8), normal(4, 3, 3, 3), normal(4), normal(1, 4, 6, 6)]
    case = NodeCase("FusedConv", inputs, domain="com.microsoft", activation=activation, **attributes)
    case.check()
    assert case.work().macs == 4 * 36 * 27
    assert case.work().epilogue_flops >= 2 * 4 * 36


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, None])
def test_softmax_family(kind, opset, axis):
    attributes = {} if axis is None else {"axis": axis}
    NodeCase(kind, [normal(3, 4, 5) * 30], opset=opset, **attributes).check()


def test_batch_normalisation():
    vectors = [normal(6), normal(6, seed=1), normal(6, seed=2), np.abs(normal(6, seed=3))]
    NodeCase("BatchNormalization", [normal(2, 6, 4, 5), *vectors], opset=15, epsilon=1e-3).check()
    NodeCase("BatchNormalization", [normal(2, 6), *vectors], opset=15).check()


@pytest.mark.parametrize("axis", [-1, 1, 2])
@pytest.mark.parametrize("outputs", [1, 3])
def test_layer_normalisation(axis, outputs):
    values = normal(2, 3, 4) + 2
    shape = values.shape[axis:]
    NodeCase(
        "LayerNormalization", [values, normal(*shape), normal(*shape)], outputs=outputs, axis=axis, epsilon=1e-3
    ).check()


def test_root_mean_square_normalisation():
    NodeCase("RMSNormalization", [normal(2, 3, 8), normal(8)], opset=23, epsilon=1e-4).check()
    NodeCase("SimplifiedLayerNormalization", [normal(2, 3, 8), normal(8)], epsilon=1e-4).check()


def test_skip_layer_normalisation():
    values, skip, gain, beta, bias = normal(2, 3, 8), normal(2, 3, 8, seed=1), normal(8), normal(8, seed=2), normal(8)
    microsoft = {"domain": "com.microsoft", "epsilon": 1e-5}
    NodeCase("SkipLayerNormalization", [values, skip, gain, beta, bias], **microsoft).check()
    NodeCase("SkipLayerNormalization", [values, skip, gain], **microsoft).check()
    NodeCase("SkipSimplifiedLayerNormalization", [values, skip, gain, bias], **microsoft).check()


def test_group_and_instance_normalisation():
    values = normal(2, 6, 4, 5)
    NodeCase("InstanceNormalization", [values, normal(6), normal(6, seed=1)], epsilon=1e-3).check()
    NodeCase("GroupNormalization", [values, normal(6), normal(6, seed=1)], opset=21, num_groups=3).check()


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalisation(p):
    NodeCase("LpNormalization", [normal(3, 4, 5)], axis=1, p=p).check()


@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_normalisation(size):
    NodeCase("LRN", [normal(2, 7, 4, 4) * 9], size=size, alpha=0.1, beta=0.6, bias=1.5).check()


STANDARD = (
    "MatMul", "Gemm", "Einsum", "Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization",
    "LayerNormalization", "RMSNormalization", "GroupNormalization", "LRN", "LpNormalization",
    "MeanVarianceNormalization",
    "Softmax", "LogSoftmax", "Hardmax", "Attention", "RotaryEmbedding",
)  # fmt: skip


@pytest.mark.parametrize("name", standard_case_names(*STANDARD))
def test_operator_agrees_with_the_standards_own_case(name):
    check_standard_case(name)


@pytest.mark.parametrize("shape", [(3, 1), (4, 7), (2, 3, 1000), (1, 50000)])
def test_rows_far_from_zero_keep_their_deviation(shape):
    """The two-pass variance: a mean 1000 times the deviation costs ten bits, not all of them."""
    values = normal(*shape) + 1000
    exact = values.astype(np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
    gain = np.ones(shape[-1], np.float32)
    (result,) = NodeCase("LayerNormalization", [values, gain, 0 * gain]).computed()
    np.testing.assert_allclose(result, exact, atol=2e-3)


def test_half_precision_is_normalised_in_single():
    half = [array.astype(np.float16) for array in (normal(4, 64) * 100, normal(64), normal(64, seed=1))]
    NodeCase("LayerNormalization", half).check(tolerance=2.0**-10)
