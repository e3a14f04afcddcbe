"""Sparse attention and sparse layers against their definitions in numpy, and their savings against the published."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import workloads
from codesign.frontend import from_proto
from codesign.graph import Tensor, seeded_weight
from codesign.lower import lower
from codesign.work import Attention
from tests.block_case import run_block
from tests.workload_case import Array, assert_close, outputs_here
from workloads.blocks.positions import rotary_table, rotate
from workloads.blocks.selection import above_threshold, statistical_threshold
from workloads.builder import Builder, Value
from workloads.cca_attention import core_context
from workloads.combiner import combined_attention
from workloads.counts import macs_of
from workloads.masformer import block_attention
from workloads.memoryformer import memory_layer

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def weight(name: str, *shape: int) -> Array:
    return seeded_weight(Tensor(name, shape, "float32"), 0)


def softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attention_reference(value: Array, heads: int, visible: Array, bias: bool) -> Array:
    """Attention with one projection, of the keys that are `visible` (queries, keys)."""
    batch, tokens, width = value.shape
    projected = value @ weight("attention/query_key_value/weight", width, 3 * width)
    if bias:
        projected = projected + weight("attention/query_key_value/bias", 3 * width)
    query, key, content = (
        part.reshape(batch, tokens, heads, -1).transpose(0, 2, 1, 3) for part in np.split(projected, 3, axis=-1)
    )
    scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(width // heads)
    context = softmax(np.where(visible, scores, -np.inf)) @ content
    merged = context.transpose(0, 2, 1, 3).reshape(value.shape)
    return merged @ weight("attention/output/weight", width, width) + weight("attention/output/bias", width)


@pytest.mark.parametrize(("block", "previous"), [(4, False), (4, True), (12, False)])
def test_attention_in_blocks_is_attention_with_a_mask(block: int, previous: bool) -> None:
    value, places = normal(2, 12, 16), np.arange(12)
    first = np.maximum(places // block - previous, 0) * block
    visible = (places <= places[:, None]) & (places >= first[:, None])
    [found] = run_block(partial(block_attention, heads=4, block=block, previous=previous), value)
    np.testing.assert_allclose(found, attention_reference(value, 4, visible, False), rtol=1e-3, atol=1e-5)


def test_scores_of_masformer_are_the_published_share_of_full_attention() -> None:
    def scores(full_layers: int) -> int:
        model = workloads.build("masformer_1p3b", configuration={"full_layers": full_layers})
        return sum(work.macs for work in lower(from_proto(model)) if isinstance(work, Attention))

    assert scores(4) / scores(24) == pytest.approx(0.271, rel=0.01)


@pytest.mark.parametrize("pattern", ["fixed", "row_major", "mixture"])
def test_one_segment_makes_combiner_full_attention(pattern: str) -> None:
    value = normal(2, 12, 16)
    block: Any = partial(combined_attention, heads=4, segment=12, pattern=pattern, project=False)
    [found] = run_block(block, value)
    expected = attention_reference(value, 4, np.tri(12, dtype=bool), True)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["fixed_sqrt", "axial_rowmajor", "axial_mixture"])
def test_every_token_reaches_all_earlier_ones_and_none_later(name: str) -> None:
    tokens = RANDOM.integers(0, 100, (1, 12))
    plain = outputs_here(name, {"input_ids": tokens}, layers=1)["logits"]
    for place in (0, 5, 9):
        changed = tokens.copy()
        changed[:, place] = (changed[:, place] + 50) % 100
        moved = np.abs(outputs_here(name, {"input_ids": changed}, layers=1)["logits"] - plain).max(axis=(0, 2))
        assert moved[:place].max(initial=0) < 1e-5
        assert moved[place:].min() > 1e-5


def test_macs_of_combiner_with_fixed_summaries_follow_the_formula() -> None:
    tokens, segment, width, hidden, layers = 2048, 128, 768, 3072, 12
    attention = 2 * tokens * (segment + tokens // segment) * width + 2 * tokens * width
    expected = layers * (attention + tokens * (4 * width**2 + 2 * width * hidden)) + tokens * 1024 * width
    assert macs_of(workloads.build("fixed_sqrt")) == expected


def test_memory_layer_is_the_weighted_sum_of_the_rows_that_signs_address() -> None:
    value, bits, features = normal(3, 12), 4, 5
    [found] = run_block(lambda graph, x: memory_layer(graph, x, features, bits, "memory"), value)
    table = weight("memory/table", 3 * 2**bits, features).reshape(3, 2**bits, features)
    chunks = value.reshape(3, 3, bits)
    rows = ((chunks > 0) * 2 ** np.arange(bits)).sum(-1)
    likely = (1 / (1 + np.exp(-2 * np.abs(chunks)))).prod(-1)
    expected = sum(likely[:, k, None] * table[k, rows[:, k]] for k in range(3))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_memory_layers_leave_the_products_of_attention_and_the_head_alone() -> None:
    tokens, width = 2048, 512
    expected = 6 * 2 * tokens**2 * width + tokens * width * 50304
    assert macs_of(workloads.build("memoryformer_tiny")) == expected


def test_statistical_threshold_keeps_as_many_as_asked_and_mostly_the_largest() -> None:
    rows, kept = normal(64, 13824), 1106

    def block(graph: Builder, value: Value) -> Value:
        return above_threshold(graph, value, statistical_threshold(graph, value, kept))

    [found] = run_block(block, rows)
    counts = (found > 0).sum(-1)
    assert abs(counts.mean() / kept - 1) < 0.05
    largest = np.argsort(rows, axis=-1)[:, -kept:]
    overlap = np.take_along_axis(found > 0, largest, -1).sum(-1) / np.minimum(counts, kept)
    assert overlap.mean() > 0.95


def test_gathered_and_thresholded_forms_of_spark_agree_when_nothing_is_left_out() -> None:
    tokens = RANDOM.integers(0, 100, (2, 10))
    everything = {"slack": 100.0}
    whole = outputs_here("spark_gemma2_2b", {"input_ids": tokens}, **everything)
    first = outputs_here("spark_gemma2_2b", {"input_ids": tokens[:, :9]}, sequence=9, **everything)
    past = {key.replace("present", "past_key_values"): value for key, value in first.items() if key != "logits"}
    found = outputs_here("spark_gemma2_2b_decode", {"input_ids": tokens[:, 9:], **past}, **everything)
    assert_close(found, {**whole, "logits": whole["logits"][:, -1:]})


def test_spark_does_the_published_share_of_the_hosts_work_in_a_decode_step() -> None:
    head = 2304 * 256128
    host, spark = (macs_of(workloads.build(f"{name}_decode")) - head for name in ("gemma2_2b", "spark_gemma2_2b"))
    assert host / spark == pytest.approx(2.54, rel=0.05)


def test_core_context_sees_near_tokens_and_the_cores_of_all_groups_before() -> None:
    tokens, group, window, size = 16, 2, 4, 8
    query, key, content = (normal(1, 2, tokens, size) for _ in range(3))

    def block(graph: Builder, q: Value, k: Value, v: Value) -> tuple[Value, ...]:
        rotation = rotary_table(graph, 1, tokens, 0, size, 10_000.0)
        turned = rotate(graph, q, rotation, "q"), rotate(graph, k, rotation, "k")
        return core_context(graph, q, k, v, rotation, group, window), *turned

    found, query, key = run_block(block, query, key, content)
    groups = (1, 2, tokens // group, group, size)
    weights = softmax(
        np.einsum("bhgd,bhgjd->bhgj", query[:, :, group - 1 :: group], key.reshape(groups)) / np.sqrt(size)
    )
    cores = [np.einsum("bhgj,bhgjd->bhgd", weights, part.reshape(groups)) for part in (key, content)]
    for place in range(tokens):
        start = max(place + 1 - window, 0) // group * group
        keys, values = (
            np.concatenate([core[:, :, : start // group], raw[:, :, start : place + 1]], 2)
            for core, raw in zip(cores, (key, content), strict=True)
        )
        scores = np.einsum("bhd,bhjd->bhj", query[:, :, place], keys) / np.sqrt(size)
        expected = np.einsum("bhj,bhjd->bhd", softmax(scores), values)
        np.testing.assert_allclose(found[:, :, place], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("length", [4096, 131072])
def test_core_caches_hold_the_window_and_a_token_for_each_whole_group_before(length: int) -> None:
    window, group = 1024, 16
    inputs = workloads.build("cca_llama2_7b_decode", bind={"past": length - 1}).graph.input
    kept = next(v.type.tensor_type.shape.dim[2].dim_value for v in inputs if v.name.endswith(".key"))
    assert kept == window + (length - 1 - window) // group
