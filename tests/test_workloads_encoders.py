"""Text encoders: positions as biases, and contents against distances."""

from __future__ import annotations

import numpy as np

import workloads
from codesign.graph import Tensor, seeded_weight
from tests.block_case import run_block
from tests.workload_case import Array, outputs_here
from workloads.blocks.positions import alibi, distance_buckets, relative_buckets
from workloads.builder import Builder, Value
from workloads.counts import macs_of
from workloads.deberta import disentangled_attention, relative_places

RANDOM = np.random.default_rng(0)


def weight(name: str, *shape: int) -> Array:
    return seeded_weight(Tensor(name, shape, "float32"), 0)


def test_biases_by_distance_fall_linearly_on_both_sides() -> None:
    [bias] = run_block(lambda graph, x: graph.add(x, alibi(graph, 8, 5, 5)), np.zeros((8, 5, 5), np.float32))
    far = np.abs(np.arange(5)[:, None] - np.arange(5))
    for head in range(8):
        np.testing.assert_allclose(bias[head], -far * 2.0 ** -(head + 1))


def test_twelve_heads_have_the_slopes_of_eight_and_every_other_of_sixteen() -> None:
    [bias] = run_block(lambda graph, x: graph.add(x, alibi(graph, 12, 1, 2)), np.zeros((12, 1, 2), np.float32))
    slopes = [2.0 ** -(head + 1) for head in range(8)] + [2.0 ** -(head + 0.5) for head in range(0, 4)]
    np.testing.assert_allclose(-bias[:, 0, 0], slopes)


def test_relative_buckets_look_up_the_bucket_of_each_distance() -> None:
    for causal in (True, False):

        def block(graph: Builder, x: Value, causal: bool = causal) -> Value:
            return graph.add(x, relative_buckets(graph, 3, 4, 6, causal, buckets=8, furthest=16))

        [bias] = run_block(block, np.zeros((3, 4, 6), np.float32))
        relative = np.arange(6)[None, :] - (np.arange(4)[:, None] + 2)
        table = weight("relative_bias/weight", 8, 3)
        buckets = distance_buckets(np.minimum(relative, 0) if causal else relative, causal, 8, 16)
        np.testing.assert_allclose(bias, table[buckets].transpose(2, 0, 1))
    assert list(distance_buckets(np.array([0, -1, -15, -16, -127, -500]), True, 32, 128)) == [0, 1, 15, 16, 31, 31]


def test_disentangled_scores_are_those_of_each_pair_of_tokens_and_their_distance() -> None:
    batch, tokens, width, heads, furthest = 2, 6, 8, 2, 4
    value, relative = (RANDOM.standard_normal(shape, dtype=np.float32) for shape in ((batch, tokens, width), (8, 8)))

    def block(graph: Builder, x: Value, table: Value, mask: Value) -> Value:
        return disentangled_attention(
            graph, x, heads, table, relative_places(graph, tokens, furthest, False), mask, False
        )

    [found] = run_block(block, value, relative, np.zeros((batch, 1, 1, tokens), np.float32))

    def heads_of(source: Array, role: str, bias: bool = True) -> Array:
        projected = source @ weight(f"attention/{role}/weight", width, width)
        projected = projected + weight(f"attention/{role}/bias", width) if bias else projected
        return projected.reshape(*source.shape[:-1], heads, width // heads)

    query, key, content = heads_of(value, "query"), heads_of(value, "key", False), heads_of(value, "value")
    far_key, far_query = heads_of(relative, "far_key", False), heads_of(relative, "far_query")
    context = np.zeros((batch, tokens, heads, width // heads))
    for b, i, h in np.ndindex(batch, tokens, heads):
        scores = np.empty(tokens)
        for j in range(tokens):
            near, back = (int(np.clip(d + furthest, 0, 2 * furthest - 1)) for d in (i - j, j - i))
            scores[j] = query[b, i, h] @ (key[b, j, h] + far_key[near, h]) + key[b, j, h] @ far_query[back, h]
        scores = np.exp(scores / np.sqrt(3 * width // heads))
        context[b, i, h] = scores / scores.sum() @ content[b, :, h]
    expected = context.reshape(value.shape) @ weight("attention/output/weight", width, width)
    np.testing.assert_allclose(found, expected + weight("attention/output/bias", width), rtol=1e-3, atol=1e-4)


def test_disentangled_attention_costs_what_the_formula_says_more_than_berts() -> None:
    tokens, width, far = 512, 768, 2 * 512
    models = [workloads.build("deberta_base", configuration={"layers": layers}) for layers in (1, 2)]
    layer = macs_of(models[1]) - macs_of(models[0])
    plain = 12 * tokens * width**2 + 2 * tokens**2 * width
    # the distances' own projections depend on weights alone and are made once: no part of an inference
    assert layer - plain == 2 * tokens * far * width


def test_padding_and_order_reach_an_encoder_through_its_biases() -> None:
    ids = RANDOM.integers(0, 100, (1, 8))
    mask = np.array([[1, 1, 1, 1, 1, 1, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids}
    plain = outputs_here("mosaicbert_base", inputs)["last_hidden_state"]
    padded = outputs_here("mosaicbert_base", {**inputs, "input_ids": np.where(mask, ids, 7)})["last_hidden_state"]
    np.testing.assert_array_equal(plain[:, :6], padded[:, :6])
    turned = outputs_here("mosaicbert_base", {**inputs, "input_ids": ids[:, [1, 0, *range(2, 8)]]})["last_hidden_state"]
    assert np.abs(turned[:, 4] - plain[:, 4]).max() > 1e-4
