"""ONNX Runtime's operators that packed weights, old exporters and its own optimiser bring: values against onnxruntime,
work against hand counts."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from codesign.errors import BadModel
from codesign.work import Contraction, Gather
from tests.onnx_case import NodeCase, normal
from tests.test_ops_quantised import bytes_like

MICROSOFT = {"domain": "com.microsoft"}


def numbers(*shape, high=9, dtype=np.int32):
    return np.random.default_rng(shape).integers(0, high, shape).astype(dtype)


FORMS = {
    "Trilu": ([normal(4, 5), np.asarray(1, np.int64)], {"upper": 0}),
    "Pad": ([normal(2, 3), np.array([1, 0, 0, 2], np.int64), np.float32([2.5])], {}),
    "GatherND": ([normal(2, 3, 4), np.array([[0, 1], [1, 2]], np.int64)], {}),
    "Range": ([np.asarray(end, np.float32) for end in (1, 9, 2)], {}),
    "ExpandDims": ([normal(2, 3), np.asarray(1, np.int32)], {}),
    "TransposeMatMul": ([normal(2, 5, 4), normal(2, 5, 3)], {"transA": 1, "alpha": 0.5}),
    "MatMulInteger16": ([numbers(3, 4, high=30000, dtype=np.int16), numbers(4, 5, high=30000, dtype=np.int16)], {}),
    "NhwcMaxPool": (
        [bytes_like(1, 7, 8, 3)],
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "ceil_mode": 1},
    ),
}


@pytest.mark.parametrize("kind", FORMS)
def test_form_of_a_standard_operator(kind):
    inputs, attributes = FORMS[kind]
    NodeCase(kind, inputs, **attributes, **MICROSOFT).check()


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grid_sampling(mode, padding):
    inputs = [normal(1, 2, 5, 6), normal(1, 3, 4, 2)]
    NodeCase("GridSample", inputs, mode=mode, padding_mode=padding, **MICROSOFT).check()


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        ("Relu", {}),
        ("Tanh", {}),
        ("Sigmoid", {}),
        ("LeakyRelu", {"activation_alpha": 0.1}),
        ("HardSigmoid", {"activation_alpha": 0.3, "activation_beta": 0.4}),
    ],
)
def test_gemm_with_an_activation(activation, parameters):
    case = NodeCase(
        "FusedGemm", [normal(3, 4), normal(5, 4), normal(5)], transB=1, alpha=0.7, beta=1.5,
        activation=activation, **parameters, **MICROSOFT,
    )  # fmt: skip
    case.check()
    assert case.work().macs == 3 * 4 * 5


def test_gemm_with_an_unknown_activation_is_refused():
    with pytest.raises(BadModel, match=r"FusedGemm\): activation 'Rely' is unknown; did you mean Relu"):
        NodeCase("FusedGemm", [normal(3, 4), normal(4, 5)], activation="Rely", **MICROSOFT).inferred()


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("depth", [64, 40])
def test_product_with_weights_of_4_bits_that_stand_for_floats(code, depth):
    inputs = [normal(2, 3, depth), bytes_like(5 * depth // 2), np.abs(normal(-(-5 * depth // 32)))]
    case = NodeCase("MatMulBnb4", inputs, N=5, K=depth, block_size=32, quant_type=code, **MICROSOFT)
    case.check()
    work = case.work()
    assert isinstance(work, Contraction)
    assert (work.macs, work.reads[1].bytes) == (2 * 3 * depth * 5, 5 * depth // 2)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", [False, True])
def test_rows_of_a_table_quantised_in_bytes(bits, zeros):
    packed = 8 // bits
    inputs = [bytes_like(10, 64 // packed), np.array([[0, 3, -1], [2, 9, 5]], np.int64), normal(10, 2)]
    inputs += [bytes_like(10, -(-2 // packed))] if zeros else []
    case = NodeCase("GatherBlockQuantized", inputs, bits=bits, block_size=32, **MICROSOFT)
    case.check()
    work = case.work()
    assert isinstance(work, Gather)
    assert work.reads[0].bytes == 6 * 64 // packed


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4])
@pytest.mark.parametrize("axes", [(0, 1), (1, 0), (0, 0), (1, 1), (0, -1), (2, 1)])
@pytest.mark.parametrize("zeros", [False, True])
def test_slices_of_a_table_of_4_bit_integers(dtype, axes, zeros):
    gathered, cut = axes
    low, shape = int(ml_dtypes.iinfo(dtype).min), (32, 48, 8)
    blocks = [-(-extent // 16) if axis == cut % 3 else extent for axis, extent in enumerate(shape)]
    inputs = [(numbers(*shape, high=16) + low).astype(dtype), np.array([[0, 3], [5, 7]], np.int64), normal(*blocks)]
    inputs += [(numbers(*blocks, high=16) + low).astype(dtype)] if zeros else []
    NodeCase(
        "GatherBlockQuantized", inputs, block_size=16, gather_axis=gathered, quantize_axis=cut, constants=(0, 2, 3),
        **MICROSOFT,
    ).check()  # fmt: skip


def test_table_and_scales_that_do_not_fit_are_refused():
    inputs = [bytes_like(10, 32), np.array([0], np.int64), normal(10, 3)]
    with pytest.raises(BadModel, match=r"data \[10, 32\] of 4 bits and scales \[10, 3\] do not fit blocks of 32 along"):
        NodeCase("GatherBlockQuantized", inputs, bits=4, block_size=32, **MICROSOFT).inferred()


@pytest.mark.parametrize("shape", [(2, 4, 6, 8), (2, 6, 32)])
@pytest.mark.parametrize("positions", [[3], [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 7]]])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("part", [{}, {"rotary_embedding_dim": 4, "num_heads": 4}])
def test_rotary_embedding(shape, positions, interleaved, part):
    half = 2 if part else 4
    inputs = [normal(*shape), np.array(positions, np.int64), normal(16, half), normal(16, half, seed=1)]
    NodeCase("RotaryEmbedding", inputs, interleaved=interleaved, **part, **MICROSOFT).check()


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("positions", [False, True])
def test_embedding_with_normalisation(segments, mask, positions):
    inputs = [
        numbers(2, 5), numbers(2, 5, high=2) if segments else None, normal(9, 8), normal(12, 8, seed=1),
        normal(2, 8, seed=2) if segments else None, normal(8), normal(8, seed=3),
        np.array([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], np.int32) if mask else None,
    ]  # fmt: skip
    case = NodeCase("EmbedLayerNormalization", [*inputs, *([numbers(2, 5)] if positions else [])], 3, **MICROSOFT)
    case.check()
    tables = (9, 12, *((2,) if segments else ()))
    assert sum(read.elements for read in case.work().reads) >= sum(min(80, rows * 8) for rows in tables)


def test_an_id_outside_the_table_is_named():
    inputs = [numbers(2, 5) + 5, None, normal(9, 8), normal(12, 8), None, normal(8), normal(8)]
    with pytest.raises(BadModel, match=r"ids from \d+ to \d+ in a table of 9 rows"):
        NodeCase("EmbedLayerNormalization", inputs, 2, **MICROSOFT).computed()


@pytest.mark.parametrize("kind", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
@pytest.mark.parametrize("skip", [(2, 6, 8), (1, 6, 8), (6, 8)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_sum_and_normalisation(kind, skip, dtype):
    vectors = [normal(8, seed=seed) for seed in ((1, 2, 3) if kind == "SkipLayerNormalization" else (1, 3))]
    inputs = [array.astype(dtype) for array in (normal(2, 6, 8), normal(*skip, seed=4), *vectors)]
    tolerance = 1e-4 if dtype == np.float32 else 2.0**-10
    NodeCase(kind, inputs, epsilon=1e-5, **MICROSOFT).check(tolerance)
