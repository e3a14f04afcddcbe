"""ONNX Runtime's attentions: values against onnxruntime itself over the inputs and attributes that exporters use, work
against hand counts."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.errors import BadModel
from codesign.work import Contraction
from tests.onnx_case import NodeCase, normal, relative_error
from tests.test_ops_quantised import bytes_like, scalar

MICROSOFT = {"domain": "com.microsoft"}
HEADS = {"num_heads": 4, **MICROSOFT}
QUERY, KEY, VALUE = normal(2, 6, 16), normal(2, 6, 16, seed=1), normal(2, 6, 16, seed=2)
PAST = [normal(2, 4, 3, 4, seed=5), normal(2, 4, 3, 4, seed=6)]
HOLES = np.array([[1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 1, 1]], np.int32)
BY_QUERY = np.ones((2, 6, 6), np.int32)
BY_QUERY[:, :, 4:] = 0
LEFT_PADDED = np.ones((2, 9), np.int32)
LEFT_PADDED[0, :2] = 0

MULTI_HEAD = {
    "keys of another length": [QUERY, normal(2, 9, 16), normal(2, 9, 16, seed=1)],
    "wider values": [QUERY, KEY, normal(2, 6, 24)],
    "mask with holes": [QUERY, KEY, VALUE, None, HOLES],
    "mask of each query": [QUERY, KEY, VALUE, None, BY_QUERY],
    "mask that hides every key": [QUERY, KEY, VALUE, None, HOLES * np.array([[0], [1]], np.int32)],
    "lengths with running sums": [QUERY, KEY, VALUE, None, np.array([4, 6, 0, 6, 12, 0, 4, 10], np.int32)],
    "mask of the past too": [QUERY, KEY, VALUE, None, LEFT_PADDED, None, *PAST],
    "bias, bias of scores and past": [QUERY, KEY, VALUE, normal(48), None, normal(2, 4, 6, 9), *PAST],
    "bias of scores for all heads": [QUERY, KEY, VALUE, None, None, normal(2, 1, 6, 6)],
}


@pytest.mark.parametrize("form", MULTI_HEAD)
@pytest.mark.parametrize("settings", [{}, {"unidirectional": 1}, {"mask_filter_value": -3.0, "scale": 0.3}])
def test_multi_head_attention(form, settings):
    if form == "keys of another length" and "unidirectional" in settings:
        pytest.skip("onnxruntime lets the last query see every key, whatever its place")
    outputs = 3 if len(MULTI_HEAD[form]) > 7 else 1
    NodeCase("MultiHeadAttention", MULTI_HEAD[form], outputs, **settings, **HEADS).check()


@pytest.mark.parametrize("past", [False, True])
def test_scores_of_multi_head_attention(past):
    inputs = [QUERY, KEY, VALUE, None, None if past else HOLES, None, *(PAST if past else [])]
    types = ["float32"] * 4
    NodeCase("MultiHeadAttention", inputs, 4, typed=types, unidirectional=1, **HEADS).check()


@pytest.mark.parametrize("beams", [None, 2])
def test_multi_head_attention_on_buffers(beams):
    """A step whose caches are longer than what they hold, tokens of the past each of its own beam."""
    new, buffers = [normal(2, 1, 16, seed=seed) for seed in range(3)], [normal(2, 4, 8, 4), normal(2, 4, 8, 4, seed=1)]
    origin = [] if beams is None else [np.random.default_rng(0).integers(0, 2, (1, 2, 8)).astype(np.int32)]
    inputs = [*new, None, None, None, *buffers, np.array([3], np.int32), *origin]
    NodeCase("MultiHeadAttention", inputs, 3, **HEADS).check()


def test_packed_inputs_are_what_they_are_apart():
    """No CPU kernel of onnxruntime takes them; the forms they stand for are held to it above."""
    apart = NodeCase("MultiHeadAttention", [QUERY, KEY, VALUE, normal(48)], **HEADS).computed()[0]
    split = [array.reshape(2, 6, 4, 1, 4) for array in (QUERY, KEY, VALUE)]
    packed = [np.concatenate(split, axis=3), None, None, normal(48)]
    halves = [QUERY, np.concatenate(split[1:], axis=3), None, normal(48)]
    for inputs in (packed, halves):
        case = NodeCase("MultiHeadAttention", inputs, **HEADS)
        assert case.inferred() == [((2, 6, 16), "float32")]
        np.testing.assert_array_equal(case.computed()[0], apart)


def test_inputs_that_do_not_split_into_heads_are_named():
    with pytest.raises(BadModel, match=r"query, key, value \[\[2, 6, 16\], \[2, 6, 15\], \[2, 6, 16\]\] and 4 heads"):
        NodeCase("MultiHeadAttention", [QUERY, normal(2, 6, 15), VALUE], **HEADS).inferred()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("beams", [None, 2])
def test_decoder_step_on_buffers(bias, beams):
    new, buffers = [normal(2, 1, 16, seed=seed) for seed in range(3)], [normal(2, 4, 8, 4), normal(2, 4, 8, 4, seed=1)]
    origin = np.random.default_rng(0).integers(0, 2, (1, 2, 8)).astype(np.int32)
    inputs = [*new, None, None, *buffers, np.array([3], np.int32)]
    inputs += [None, None] if beams is None else [np.array([beams], np.int32), origin]
    inputs += [normal(48)] if bias else []
    NodeCase("DecoderMaskedMultiHeadAttention", inputs, 3, past_present_share_buffer=1, **HEADS).check()


def test_decoder_step_over_an_encoders_keys():
    mask = np.array([[1, 1, 1, 0, 1, 1, 1], [1, 0, 1, 1, 1, 1, 1]], np.int32)
    inputs = [normal(2, 1, 16), normal(2, 4, 7, 4), normal(2, 4, 7, 4, seed=1), mask, *[None] * 6, normal(48)]
    case = NodeCase("DecoderMaskedMultiHeadAttention", inputs, **HEADS)
    case.check()
    assert case.work().macs == 2 * 4 * 7 * 8


PROJECTED = {
    "lengths": {"mask": np.array([6, 4], np.int32)},
    "ends and starts": {"mask": np.array([5, 6, 1, 2], np.int32)},
    "holes": {"mask": HOLES},
    "by query": {"mask": BY_QUERY},
    "a mask that stands for none": {"mask": np.ones((2, 1), np.int32)},
    "bias of scores": {"scores": normal(1, 4, 6, 6)},
    "no bias": {"bias": None},
}


@pytest.mark.parametrize("form", PROJECTED)
@pytest.mark.parametrize("settings", [{}, {"unidirectional": 1}, {"mask_filter_value": -2.0, "scale": 0.3}])
def test_attention_with_its_projection(form, settings):
    given = {"bias": normal(48), "mask": None, "scores": None, **PROJECTED[form]}
    inputs = [normal(2, 6, 12), normal(12, 48), given["bias"], given["mask"], None, given["scores"]]
    case = NodeCase("Attention", inputs, **settings, **HEADS)
    case.check()
    work = case.work()
    assert isinstance(work, Contraction)
    assert work.macs == 2 * 6 * 12 * 48
    assert work.flops > 2 * (work.macs + 2 * 4 * 6 * 6 * 8)


def test_a_mask_that_leaves_out_keys_is_refused():
    with pytest.raises(BadModel, match=r"MultiHeadAttention\): mask \[2, 6\] does not cover 9 keys"):
        NodeCase("MultiHeadAttention", [QUERY, KEY, VALUE, None, HOLES, None, *PAST], 3, **HEADS).computed()


def test_attention_with_wider_values():
    inputs = [normal(2, 6, 12), normal(12, 16 + 16 + 24), normal(56)]
    NodeCase("Attention", inputs, qkv_hidden_sizes=[16, 16, 24], **HEADS).check()


def test_attention_with_its_projection_and_a_past():
    mask = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 1]], np.int32)
    inputs = [normal(2, 2, 12), normal(12, 48), normal(48), mask, normal(2, 2, 4, 3, 4)]
    NodeCase("Attention", inputs, 2, unidirectional=1, **HEADS).check()


@pytest.mark.parametrize("name", ["do_rotary", "past_present_share_buffer"])
def test_attention_refuses_what_no_cpu_kernel_knows(name):
    with pytest.raises(BadModel, match=rf"attribute '{name}' is 1, which no CPU kernel"):
        NodeCase("Attention", [normal(2, 6, 12), normal(12, 48)], **{name: 1}, **HEADS).inferred()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("form", ["plain", "causal", "mask", "past"])
def test_attention_with_an_integer_projection(signed, columns, form):
    length = 2 if form == "past" else 6
    weights = bytes_like(12, 48, signed=signed)
    scale = np.abs(normal(48)) / 100 if columns else scalar(0.01)
    zero = np.full(48, 3, weights.dtype) if columns else np.asarray(3, weights.dtype)
    inputs = [
        bytes_like(2, length, 12), weights, normal(48), scalar(0.02), scale, HOLES if form == "mask" else None,
        scalar(120, np.uint8), zero, *([normal(2, 2, 4, 3, 4)] if form == "past" else []),
    ]  # fmt: skip
    causal = int(form in ("causal", "past"))
    case = NodeCase("QAttention", inputs, 2 if form == "past" else 1, unidirectional=causal, **HEADS)
    case.check()
    work = case.work()
    assert isinstance(work, Contraction)
    assert (work.macs, work.dtype) == (2 * length * 12 * 48, "uint8")


def grouped(past, new, batch=2, packed=False, rotary=0, buffer=None, lengths=None, extra=(), outputs=3, **attributes):
    """Four heads that share two, sixteen channels a head; `extra` are the inputs from the positions on."""
    inputs = [normal(batch, new, (4 + 2 * 2) * 16 if packed else 4 * 16)]
    inputs += [None, None] if packed else [normal(batch, new, 32, seed=1), normal(batch, new, 32, seed=2)]
    inputs += [normal(batch, 2, buffer or past, 16, seed=seed) for seed in (3, 4)]
    inputs += [np.full(batch, past + new - 1, np.int32) if lengths is None else np.array(lengths, np.int32) - 1]
    inputs += [np.asarray(past + new, np.int32)]
    inputs += [np.cos(normal(32, 8)), np.sin(normal(32, 8))] if rotary else [None, None]
    inputs += extra
    return NodeCase(
        "GroupQueryAttention", inputs, outputs, num_heads=4, kv_num_heads=2, do_rotary=rotary, **attributes, **MICROSOFT
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rotary", [0, 1])
@pytest.mark.parametrize(("past", "new", "batch"), [(0, 6, 2), (5, 1, 2), (5, 3, 1)])
def test_grouped_query_attention(packed, rotary, past, new, batch):
    case = grouped(past, new, batch, packed=packed, rotary=rotary)
    case.check()
    work = case.work()
    assert work.macs == batch * 4 * new * (past + new) * 32
    assert work.epilogue_flops == (3 * batch * new * 6 * 16 if rotary else 0)


SETTINGS = {
    "window": {"local_window_size": 3},
    "softcap": {"softcap": 2.0},
    "scale": {"scale": 0.2},
    "smooth": {"smooth_softmax": 1},
    "sees all": {"causal": 0},
    "interleaved": {"rotary": 1, "rotary_interleaved": 1},
    "sink": {"extra": [None, None, normal(4)]},
    "sink, window and softcap": {"extra": [None, None, normal(4)], "local_window_size": 3, "softcap": 5.0},
    "scores": {"outputs": 4, "qk_output": 1},
    "probabilities": {"outputs": 4, "qk_output": 2, "smooth_softmax": 1},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("past", "new", "batch"), [(0, 6, 2), (7, 1, 2), (5, 3, 1)])
def test_settings_of_grouped_query_attention(name, past, new, batch):
    grouped(past, new, batch, **SETTINGS[name]).check()


@pytest.mark.parametrize(("past", "new", "batch"), [(0, 6, 2), (5, 1, 2), (5, 3, 1)])
def test_grouped_query_attention_with_positions_and_bias(past, new, batch):
    positions = np.tile(np.arange(past, past + new), (batch, 1)).astype(np.int64)
    bias = normal(batch, 4, new, past + new)
    grouped(past, new, batch, rotary=1, extra=[positions, bias]).check()


@pytest.mark.parametrize("kind", ["PER_TENSOR", "PER_CHANNEL"])
@pytest.mark.parametrize("bits", [4, 8])
def test_grouped_query_attention_on_quantised_caches(kind, bits):
    scale = np.float32([0.3]) if kind == "PER_TENSOR" else np.abs(normal(32)) / 3 + np.float32(0.1)
    case = grouped(
        5, 1, rotary=1, extra=[None, None, None, scale, scale], k_quant_type=kind, v_quant_type=kind,
        kv_cache_bit_width=bits,
    )  # fmt: skip
    for index in (3, 4):
        case.arrays[index] = bytes_like(2, 2, 5, 8 if bits == 4 else 16, seed=index, signed=bits == 8)
    case.check()


def check_rows(case, lengths, queries):
    """Agreement of the rows that mean something: of the queries given, and of what the caches hold."""
    result, *presents = zip(case.computed(), case.expected(), strict=True)
    for sequence, (length, count) in enumerate(zip(lengths, queries, strict=True)):
        assert relative_error(result[0][sequence, :count], result[1][sequence, :count]) < 1e-4
        for mine, theirs in presents:
            np.testing.assert_allclose(mine[sequence, :, :length], theirs[sequence, :, :length], 1e-5, 1e-6)


def test_sequences_of_different_lengths():
    check_rows(grouped(0, 6, lengths=[6, 4], rotary=1), (6, 4), (6, 4))
    check_rows(grouped(5, 1, lengths=[6, 4], rotary=1), (6, 4), (1, 1))


def test_caches_with_room_for_more():
    check_rows(grouped(5, 1, rotary=1, buffer=12), (6, 6), (1, 1))


def test_chunks_of_different_lengths():
    counts = np.array([2, 3], np.int32)
    case = grouped(5, 3, lengths=[7, 8], buffer=12, rotary=1, extra=[*[None] * 7, counts])
    check_rows(case, (7, 8), (2, 3))


def test_grouped_query_attention_refuses_what_it_does_not_know():
    with pytest.raises(BadModel, match=r"GroupQueryAttention\): input 14, sliding_window_cache: not known"):
        grouped(0, 6, sliding_window_cache=1, extra=[*[None] * 5, normal(16)]).inferred()
    with pytest.raises(BadModel, match=r"k_quant_type PER_TENSOR of 2 bits: not known"):
        grouped(0, 6, k_quant_type="PER_TENSOR", kv_cache_bit_width=2).inferred()


@pytest.mark.parametrize("form", ["grouped", "multi-head", "masked"])
def test_half_precision(form):
    """Computed in float32 and rounded at the end, here as there: two units of the last place."""
    case = {
        "grouped": lambda: grouped(5, 1, rotary=1, smooth_softmax=1),
        "multi-head": lambda: NodeCase("MultiHeadAttention", [QUERY, KEY, VALUE, normal(48)], **HEADS),
        "masked": lambda: NodeCase("MultiHeadAttention", [QUERY, KEY, VALUE, None, HOLES], **HEADS),
    }[form]()
    case.arrays = [
        array.astype(np.float16) if array is not None and array.dtype == np.float32 else array for array in case.arrays
    ]
    case.check(2.0**-9)
