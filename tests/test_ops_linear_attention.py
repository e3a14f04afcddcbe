"""Linear attention, causal convolution and what stands beside them in hybrid decoders, against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.errors import BadModel
from codesign.work import Contraction, Scan
from tests.onnx_case import NodeCase, normal

MICROSOFT = {"domain": "com.microsoft"}
BATCH, KEYS, VALUES = 2, 4, 6


def attention(rule, steps=5, query_heads=2, heads=2, past=True, by_key=False, one_rate=False, **settings):
    inputs = [
        normal(BATCH, steps, query_heads * KEYS), normal(BATCH, steps, heads * KEYS, seed=1) / 2,
        normal(BATCH, steps, heads * VALUES, seed=2), normal(BATCH, heads, KEYS, VALUES) if past else None,
    ]  # fmt: skip
    inputs += [-np.abs(normal(BATCH, steps, heads * (KEYS if by_key else 1), seed=3)) if "gated" in rule else None]
    rates = 1 / (1 + np.exp(-normal(BATCH, steps, 1 if one_rate else heads, seed=4)))
    inputs += [rates] if "delta" in rule else []
    return NodeCase(
        "LinearAttention", inputs, 2, q_num_heads=query_heads, kv_num_heads=heads, update_rule=rule, **settings,
        **MICROSOFT,
    )  # fmt: skip


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"past": False},
        {"steps": 1},
        {"query_heads": 4},
        {"heads": 4},
        {"scale": 0.3},
        {"one_rate": True},
        {"by_key": True},
    ],
    ids=str,
)
def test_linear_attention(rule, settings):
    attention(rule, **settings).check(1e-5)


def test_work_of_linear_attention():
    work = attention("gated_delta").work()
    assert isinstance(work, Scan)
    cells = BATCH * KEYS * VALUES
    # What the state holds of a key, the outer product, and the query: two heads each.
    assert (work.steps, work.step_macs, work.state_bytes) == (5, 3 * 2 * cells, 2 * cells * 4)
    assert work.step_flops == 2 * cells + 2 * BATCH * 2 * VALUES


def test_linear_attention_refuses_what_it_lacks():
    case = attention("linear")
    case.op.attributes["update_rule"] = "delta"
    with pytest.raises(BadModel, match=r"update rule 'delta' needs input 5 \('beta'\)"):
        case.inferred()
    with pytest.raises(BadModel, match=r"attribute 'update_rule' is 'sum', expected one of linear"):
        attention("sum").inferred()
    with pytest.raises(BadModel, match=r"attribute 'state_window' asks for states of the past"):
        attention("linear", state_window=2).inferred()


@pytest.mark.parametrize("outputs", [1, 2])
def test_gates(outputs):
    inputs = [normal(2, 3, 4), normal(4), -np.abs(normal(4)), normal(2, 3, 4, seed=1)]
    NodeCase("LinearAttentionGate", inputs, outputs, **MICROSOFT).check(1e-5)


def convolution(length=5, past=True, bias=True, layout=(), dilation=1, **settings):
    channels, taps = 3, 4
    carried, tail = (taps - 1) * dilation, layout or (channels,)
    values = normal(BATCH, length, *tail) if layout else normal(BATCH, channels, length)
    state = normal(BATCH, carried, *tail) if layout else normal(BATCH, channels, carried)
    inputs = [values, normal(channels, 1, taps), normal(channels) if bias else None, state if past else None]
    settings |= {"channels_last": 1} if layout else {}
    return NodeCase("CausalConvWithState", inputs, 2, dilation=dilation, **settings, **MICROSOFT)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"past": False},
        {"bias": False},
        {"length": 1},
        {"activation": "silu"},
        {"dilation": 2},
        {"layout": (3,)},
        {"layout": (1, 3), "dilation": 2},
    ],
    ids=str,
)
def test_causal_convolution(settings):
    case = convolution(**settings)
    case.check(1e-5)
    work = case.work()
    assert isinstance(work, Contraction)
    assert work.macs == BATCH * 3 * settings.get("length", 5) * 4


def test_causal_convolution_refuses_what_no_cpu_kernel_knows():
    with pytest.raises(BadModel, match=r"CausalConvWithState\): state_window: not known"):
        convolution(state_window=2).inferred()
    with pytest.raises(BadModel, match=r"activation 'relu' is unknown; expected none, silu or swish"):
        convolution(activation="relu").inferred()


@pytest.mark.parametrize(("scale", "activation"), [(8, "silu"), (4, "sigmoid"), (4, "swish")])
def test_gated_normalisation(scale, activation):
    inputs = [normal(2, 3, 8), normal(scale), normal(2, 3, 8, seed=1)]
    NodeCase("GatedRMSNorm", inputs, activation=activation, epsilon=1e-3, **MICROSOFT).check(1e-5)


@pytest.mark.parametrize("shape", [(8,), (4,), None])
def test_normalisation_of_branches_side_by_side(shape):
    inputs = [normal(2, 3, 8), *([normal(*shape)] if shape else [])]
    NodeCase("BranchwiseRMSNorm", inputs, num_branches=2, **MICROSOFT).check(1e-5)


@pytest.mark.parametrize("shape", [(8,), (3, 8), (24,), None])
def test_normalisation_of_branches_on_an_axis(shape):
    inputs = [normal(2, 5, 3, 8), *([normal(*shape)] if shape else [])]
    NodeCase("BranchwiseRMSNorm", inputs, **MICROSOFT).check(1e-5)


def test_scaled_and_gated_elements():
    NodeCase("ScaledSiLU", [normal(2, 3, 8)], alpha=1.5, **MICROSOFT).check()
    NodeCase("ScaledSiLU", [normal(2, 3, 8), np.asarray(0.7, np.float32)], **MICROSOFT).check()
    NodeCase("GatedAdd", [normal(2, 3, 8), normal(2, 3, 8, seed=1), normal(2, 3, 1)], **MICROSOFT).check()


@pytest.mark.parametrize("shape", [(2, 4, 6, 16), (2, 6, 64)])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotation_by_positions_in_time_height_and_width(shape, layout, interleaved):
    positions = np.random.default_rng(0).integers(0, 16, (3, 2, 6)).astype(np.int64)
    NodeCase(
        "MRotaryEmbedding", [normal(*shape), positions, normal(16, 8), normal(16, 8, seed=1)], num_heads=4,
        mrope_section=[4, 2, 2], mrope_layout=layout, interleaved=interleaved, **MICROSOFT,
    ).check()  # fmt: skip


def test_inverse():
    case = NodeCase("Inverse", [normal(2, 4, 4) + 3 * np.eye(4, dtype=np.float32)], **MICROSOFT)
    case.check()
    # 14 multiply-accumulates of the factorisation, 16 a column of the solves.
    assert case.work().macs >= 2 * (14 + 4 * 16)
