"""ONNX Runtime's fused products and attentions: values against onnxruntime itself, work against hand counts."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.errors import BadModel
from codesign.work import Attention, Contraction
from tests.onnx_case import NodeCase, normal

MICROSOFT = {"domain": "com.microsoft"}


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("batch", [0, 1])
def test_fused_matrix_product(trans_a, trans_b, batch):
    left = (5, 2, 7) if batch else (2, 5, 7)
    left = (*left[:-2], left[-1], left[-2]) if trans_a and not batch else left
    if trans_a and batch:
        left = (7, 2, 5)
    right = (2, 4, 7) if trans_b else (2, 7, 4)
    case = NodeCase(
        "FusedMatMul", [normal(*left), normal(*right)], transA=trans_a, transB=trans_b, transBatchA=batch, alpha=0.5,
        **MICROSOFT,
    )  # fmt: skip
    case.check()
    assert case.work().macs == 2 * 5 * 7 * 4


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mask", [None, "lengths", "keys"])
@pytest.mark.parametrize("causal", [0, 1])
def test_multi_head_attention(bias, mask, causal):
    padding = {None: None, "lengths": np.array([4, 6], np.int32), "keys": np.ones((2, 6), np.int32)}[mask]
    if mask == "keys":
        padding[0, 4:] = 0
    inputs = [normal(2, 6, 16), normal(2, 6, 16, seed=1), normal(2, 6, 16, seed=2), normal(48) if bias else None]
    case = NodeCase(
        "MultiHeadAttention", [*inputs, padding, normal(1, 4, 6, 6)], num_heads=4, unidirectional=causal, **MICROSOFT
    )
    case.check()
    work = case.work()
    assert isinstance(work, Attention)
    assert (work.macs, work.causal) == (2 * 4 * 6 * 6 * (4 + 4), bool(causal))


def test_multi_head_attention_with_a_past():
    past = [normal(2, 4, 3, 4, seed=5), normal(2, 4, 3, 4, seed=6)]
    inputs = [normal(2, 2, 16), normal(2, 2, 16, seed=1), normal(2, 2, 16, seed=2), None, None, None, *past]
    NodeCase("MultiHeadAttention", inputs, outputs=3, num_heads=4, **MICROSOFT).check()


def test_cross_attention_with_keys_already_in_heads():
    inputs = [normal(2, 3, 16), normal(2, 4, 7, 4, seed=1), normal(2, 4, 7, 4, seed=2)]
    NodeCase("MultiHeadAttention", inputs, num_heads=4, **MICROSOFT).check()


def grouped(past, new, packed=False, rotary=0, **attributes):
    """Two sequences, four heads that share two, sixteen channels a head."""
    inputs = [normal(2, new, (4 + 2 * 2) * 16 if packed else 4 * 16)]
    inputs += [None, None] if packed else [normal(2, new, 32, seed=1), normal(2, new, 32, seed=2)]
    inputs += [normal(2, 2, past, 16, seed=3), normal(2, 2, past, 16, seed=4)]
    inputs += [np.full(2, past + new - 1, np.int32), np.asarray(past + new, np.int32)]
    if rotary:
        inputs += [np.cos(normal(32, 8)), np.sin(normal(32, 8))]
    return NodeCase(
        "GroupQueryAttention", inputs, 3, num_heads=4, kv_num_heads=2, do_rotary=rotary, **attributes, **MICROSOFT
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rotary", [0, 1])
@pytest.mark.parametrize(("past", "new"), [(0, 6), (5, 1)])
def test_grouped_query_attention(packed, rotary, past, new):
    case = grouped(past, new, packed=packed, rotary=rotary)
    case.check()
    work = case.work()
    assert work.macs == 2 * 4 * new * (past + new) * 32
    assert work.epilogue_flops == (3 * 2 * new * 6 * 16 if rotary else 0)


def test_grouped_query_attention_sees_a_window_and_is_capped():
    grouped(7, 1, local_window_size=3).check()
    grouped(0, 8, local_window_size=3).check()
    grouped(0, 6, softcap=2.0).check()


def test_grouped_query_attention_refuses_what_it_does_not_know():
    with pytest.raises(BadModel, match=r"GroupQueryAttention\): smooth_softmax: not known"):
        grouped(0, 6, smooth_softmax=1).inferred()


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", [None, "lengths", "keys"])
def test_attention_with_its_projection(causal, mask):
    padding = {None: None, "lengths": np.array([6, 4], np.int32), "keys": np.ones((2, 6), np.int32)}[mask]
    inputs = [normal(2, 6, 12), normal(12, 48), normal(48), padding]
    case = NodeCase("Attention", inputs, num_heads=4, unidirectional=causal, **MICROSOFT)
    case.check()
    work = case.work()
    assert isinstance(work, Contraction)
    assert work.macs == 2 * 6 * 12 * 48
    assert work.flops > 2 * (work.macs + 2 * 4 * 6 * 6 * 8)


def test_attention_with_its_projection_and_a_past():
    inputs = [normal(2, 2, 12), normal(12, 48), normal(48), None, normal(2, 2, 4, 3, 4)]
    NodeCase("Attention", inputs, 2, num_heads=4, unidirectional=1, **MICROSOFT).check()
