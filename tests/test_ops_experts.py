"""Mixtures of experts against onnxruntime, work against hand counts."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.errors import BadModel
from codesign.work import Contraction
from tests.onnx_case import NodeCase, normal
from tests.test_ops_quantised import bytes_like

TOKENS, EXPERTS, WIDTH, HIDDEN = 5, 4, 32, 96
"""128 outputs of 2-bit weights would take onnxruntime to its lookup tables, which round the tokens to 8 bits."""


def experts(k=2, bias=True, gates=1, **settings):
    inputs = [
        normal(TOKENS, WIDTH), normal(TOKENS, EXPERTS, seed=9), normal(EXPERTS, gates * HIDDEN, WIDTH) / 4,
        normal(EXPERTS, gates * HIDDEN) if bias else None, normal(EXPERTS, WIDTH, HIDDEN) / 4,
        normal(EXPERTS, WIDTH) if bias else None,
    ]  # fmt: skip
    return NodeCase("MoE", inputs, k=k, domain="com.microsoft", **settings)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("normalised", [0, 1])
def test_routing(k, normalised):
    experts(k, normalize_routing_weights=normalised).check()


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "identity"])
@pytest.mark.parametrize("bias", [False, True])
def test_activation(activation, bias):
    experts(bias=bias, activation_type=activation).check()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"activation_alpha": 1.702},
        {"activation_beta": 1.0},
        {"swiglu_limit": 0.5},
        {"activation_alpha": 1.702, "activation_beta": 1.0, "swiglu_limit": 1.0},
    ],
)
def test_gated_activation(settings):
    experts(gates=2, activation_type="swiglu", swiglu_fusion=1, **settings).check()


def test_gate_and_value_may_lie_side_by_side_or_apart():
    """Forms that no CPU kernel of onnxruntime takes: they give what the interleaved one gives."""
    case = experts(gates=2, activation_type="swiglu", swiglu_fusion=1)
    expected = case.computed()[0]
    tokens, logits, weights, bias, *down = case.arrays
    halves = [(weights[:, start::2], bias[:, start::2]) for start in (0, 1)]
    together = [np.concatenate(parts, axis=1) for parts in zip(*halves, strict=True)]
    settings = {"k": 2, "domain": "com.microsoft", "activation_type": "swiglu"}
    side_by_side = NodeCase("MoE", [tokens, logits, *together, *down], swiglu_fusion=2, **settings)
    np.testing.assert_allclose(side_by_side.computed()[0], expected, 1e-5, 1e-5)
    apart = NodeCase("MoE", [tokens, logits, *halves[0], *down, *halves[1]], **settings)
    np.testing.assert_allclose(apart.computed()[0], expected, 1e-5, 1e-5)


def quantised(bits=4, block=0, zeros=False, gates=1, routing=False, **settings):
    packed = 8 // bits

    def scales(outputs, inputs):
        shape = (EXPERTS, outputs, inputs // block) if block else (EXPERTS, outputs)
        return np.abs(normal(*shape)) / 50 + np.float32(0.005)

    def zero_points(outputs, inputs):
        shape = (outputs, -(-(inputs // block) // packed)) if block else (-(-outputs // packed),)
        return bytes_like(EXPERTS, *shape) if zeros else None

    up, down = (gates * HIDDEN, WIDTH), (WIDTH, HIDDEN)
    inputs = [normal(TOKENS, WIDTH), normal(TOKENS, EXPERTS, seed=9)]
    for outputs, depth in (up, down):
        weights = bytes_like(EXPERTS, outputs, depth // packed)
        inputs += [weights, scales(outputs, depth), normal(EXPERTS, outputs)]
    inputs += [None, None, None, zero_points(*up), zero_points(*down), None]
    inputs += [np.abs(normal(TOKENS, EXPERTS, seed=11))] if routing else []
    settings |= {"block_size": block} if block else {}
    while inputs[-1] is None:
        inputs.pop()
    return NodeCase("QMoE", inputs, k=2, expert_weight_bits=bits, domain="com.microsoft", **settings)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("block", [0, 16, 32])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_quantised_experts(bits, block, zeros, gated):
    settings = {"gates": 2, "activation_type": "swiglu", "swiglu_fusion": 1} if gated else {}
    quantised(bits, block, zeros, **settings).check()


@pytest.mark.parametrize("normalised", [0, 1])
def test_routing_weights_beside_the_logits(normalised):
    quantised(routing=True, normalize_routing_weights=normalised).check()


def test_work_counts_the_experts_chosen():
    work = experts(k=2).work()
    assert isinstance(work, Contraction)
    assert work.macs == TOKENS * 2 * 2 * WIDTH * HIDDEN
    packed = quantised(bits=4).work()
    assert packed.macs == work.macs
    assert packed.reads[1].bytes == EXPERTS * HIDDEN * WIDTH // 2


def test_one_token_reads_the_weights_of_its_experts_alone():
    case = experts(k=2)
    case.arrays[0], case.arrays[1] = case.arrays[0][:1], case.arrays[1][:1]
    assert case.work().reads[1].elements == 2 * WIDTH * HIDDEN


def test_what_does_not_fit_is_refused():
    with pytest.raises(BadModel, match=r"MoE\): activation 'tanh' is unknown; expected one of relu, gelu, silu"):
        experts(activation_type="tanh").inferred()
    with pytest.raises(BadModel, match=r"SwiGLU needs a gate"):
        experts(activation_type="swiglu").inferred()
    with pytest.raises(BadModel, match=r"experts' weights have 3 bits, expected 2, 4 or 8"):
        NodeCase("QMoE", quantised().arrays, expert_weight_bits=3, domain="com.microsoft").inferred()


@pytest.mark.parametrize("build", [experts, quantised])
def test_half_precision(build):
    """Computed in float32 and rounded at the end, here as there: two units of the last place."""
    case = build()
    case.arrays = [
        array.astype(np.float16) if array is not None and array.dtype == np.float32 else array for array in case.arrays
    ]
    case.check(2.0**-9)
