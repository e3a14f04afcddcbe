"""ONNX Runtime's fused products and attentions: values against onnxruntime itself, work against hand counts."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.work import Attention
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
