"""Decoders with nested, tokenised, convolved or sparse parts: each mechanism against what it must equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import workloads
from codesign.frontend import from_proto
from codesign.lower import lower
from codesign.work import Attention
from tests.workload_case import Array, assert_close, outputs_here, reduced, run_here
from workloads.counts import macs_of, parameters_of

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 100, (2, 8))


def with_weights(model: onnx.ModelProto, change: Any) -> onnx.ModelProto:
    """The model with `change(name, array)` for each weight."""
    for tensor in model.graph.initializer:
        changed = change(tensor.name, onnx.numpy_helper.to_array(tensor))
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(changed, np.float32), tensor.name))
    return model


def test_nested_feed_forward_is_the_whole_one_with_the_later_hidden_units_at_zero() -> None:
    def zeroed(name: str, array: Array) -> Array:
        if name.endswith("mlp/up/weight"):
            array = array.copy()
            array[:, 64:] = 0
        return array

    whole = with_weights(reduced("matlm_2p6b_XL"), zeroed)
    nested = reduced("matlm_2p6b_XL", ratios=(2.0,), stored=4.0)
    inputs = {"input_ids": TOKENS}
    assert_close(run_here(nested, inputs), run_here(whole, inputs))


def test_nested_sizes_share_the_stored_weights_and_cost_less_from_size_to_size() -> None:
    sizes = [{"ratios": (ratio,), "stored": 4.0} for ratio in (0.5, 1.0, 2.0, 4.0)]
    models = [workloads.build("matlm_78m_XL", configuration=size) for size in sizes]
    assert len({parameters_of(model) for model in models}) == 1
    macs = [macs_of(model) for model in models]
    assert macs == sorted(set(macs))


def test_parameter_tokens_with_zero_keys_change_nothing_at_the_scale_of_the_others() -> None:
    small = reduced("tokenformer_150m")
    values = {t.name: onnx.numpy_helper.to_array(t) for t in small.graph.initializer}

    def grown(name: str, array: Array) -> Array:
        kept = values[name]
        if kept.shape == array.shape:
            return kept
        array = np.zeros_like(array) if "/keys/" in name else array.copy()
        array[tuple(slice(extent) for extent in kept.shape)] = kept
        return array

    large = with_weights(reduced("tokenformer_150m", slots=36, scale_slots=24), grown)
    inputs = {"input_ids": TOKENS}
    assert_close(run_here(large, inputs), run_here(small, inputs))


def test_macs_of_parameter_attention_are_those_of_its_pairs() -> None:
    macs = macs_of(workloads.build("tokenformer_150m"))
    width, slots, tokens = 768, 768, 2048
    projections = tokens * 2 * width * (3 * slots + slots + 4 * slots) * 12
    assert macs == projections + 12 * 2 * tokens**2 * width + tokens * 50304 * width


@pytest.mark.parametrize("name", ["primer_medium", "sqa"])
def test_decode_steps_continue_the_prefill(name: str) -> None:
    old, new = ("present.", "past_key_values.") if name == "sqa" else ("present_state.", "past_state.")
    whole = outputs_here(name, {"input_ids": TOKENS})
    found = outputs_here(name, {"input_ids": TOKENS[:, :4]}, sequence=4)
    for step in range(4, 8):
        past = {key.replace(old, new): value for key, value in found.items() if key != "logits"}
        found = outputs_here(f"{name}_decode", {"input_ids": TOKENS[:, step : step + 1], **past}, past=step)
    assert_close(found, {**whole, "logits": whole["logits"][:, -1:]})


@pytest.mark.parametrize("name", ["matlm_2p6b_XL", "tokenformer_150m", "primer_medium", "primer_ez_medium", "sqa"])
def test_no_logit_sees_a_later_token(name: str) -> None:
    changed = TOKENS.copy()
    changed[:, 5:] = (changed[:, 5:] + 7) % 100
    outputs = [outputs_here(name, {"input_ids": tokens})["logits"] for tokens in (TOKENS, changed)]
    np.testing.assert_allclose(outputs[0][:, :5], outputs[1][:, :5], rtol=1e-5, atol=1e-6)
    assert np.abs(outputs[0][:, 5:] - outputs[1][:, 5:]).max() > 1e-3


def test_convolutions_of_primer_add_nine_weights_a_channel_and_under_a_hundredth_of_the_macs() -> None:
    model = workloads.build("primer_ez_medium")
    kernels = [t for t in model.graph.initializer if t.name.endswith("_convolution/depthwise/weight")]
    assert sum(int(np.prod(t.dims)) for t in kernels) == 12 * 9 * 768
    assert 0.01 * macs_of(model) > 512 * 12 * 9 * 768


def test_scores_scale_with_the_query_heads_alone() -> None:
    def scores(name: str) -> int:
        works = lower(from_proto(workloads.build(name, bind={"sequence": 256})))
        return sum(work.macs for work in works if isinstance(work, Attention))

    whole = scores("mha")
    shares = {"gqa": 1, "mqa": 1, "sqa": 1 / 2, "ssqa": 1 / 2, "xsqa": 1 / 4, "xsmqa": 1 / 4}
    assert {name: scores(name) / whole for name in shares} == shares


def test_caches_follow_the_key_heads_alone() -> None:
    def cache(name: str) -> int:
        inputs = [value for value in workloads.build(f"{name}_decode").graph.input if "past" in value.name]
        return sum(int(np.prod([d.dim_value for d in value.type.tensor_type.shape.dim])) for value in inputs)

    assert cache("sqa") == cache("gqa") == cache("mha") // 4


@pytest.mark.parametrize(
    ("name", "tokens", "given", "length"),
    [("parti_350m", "image_ids", "text", "image_tokens"), ("bart_base", "decoder_input_ids", "source", "target")],
)
def test_decode_steps_of_an_encoder_decoder_continue_its_prefill_and_read_its_input_once(
    name: str, tokens: str, given: str, length: str
) -> None:
    ids = RANDOM.integers(0, 50, (2, 8))
    source = {
        "text": {"text_ids": RANDOM.integers(0, 100, (2, 5))},
        "source": {"input_ids": RANDOM.integers(0, 100, (2, 6))},
    }
    whole = outputs_here(name, {tokens: ids, **source[given]})
    found = outputs_here(name, {tokens: ids[:, :4], **source[given]}, **{length: 4})
    prefix = f"{given}_"
    kept = {key.replace("present", "past_key_values"): value for key, value in found.items() if key.startswith(prefix)}
    for step in range(4, 8):
        past = {key.replace("present", "past_key_values"): v for key, v in found.items() if key.startswith("present")}
        found = outputs_here(f"{name}_decode", {tokens: ids[:, step : step + 1], **kept, **past}, past=step)
    expected = {key: value for key, value in whole.items() if not key.startswith(prefix)}
    assert_close(found, {**expected, "logits": whole["logits"][:, -1:]})


def test_decoders_side_by_side_do_not_see_each_other() -> None:
    ids = {f"{name}_ids": RANDOM.integers(0, 11, (2, 8)) for name in ("value", "type", "statement")}
    plain = outputs_here("codefill", ids)
    changed = outputs_here("codefill", {**ids, "type_ids": ids["type_ids"][:, ::-1].copy()})
    np.testing.assert_array_equal(plain["value_logits"], changed["value_logits"])
    assert np.abs(plain["type_logits"] - changed["type_logits"]).max() > 1e-4
    first = outputs_here("codefill", {key: value[:, :7] for key, value in ids.items()}, sequence=7)
    past = {key.replace("present", "past_key_values"): value for key, value in first.items() if "present" in key}
    step = outputs_here("codefill_decode", {**{key: value[:, 7:] for key, value in ids.items()}, **past})
    assert_close(step, plain)
