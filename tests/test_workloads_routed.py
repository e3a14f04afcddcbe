"""Mixtures of experts: entries to slots and back, capacity, sharing, and weights that break a stick."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workloads
from codesign.graph import Tensor, seeded_weight
from tests.block_case import run_block
from tests.workload_case import Array, assert_close, outputs_here
from workloads.blocks.heads import HeadMixture, head_gates
from workloads.blocks.routing import mixture_of_experts
from workloads.counts import macs_of, parameters_of
from workloads.moduleformer_molm import stick_breaking
from workloads.moh_vit import distance_table, neighbours


def weight(name: str, *shape: int) -> Array:
    return seeded_weight(Tensor(name, shape, "float32"), 0)


def mixture_reference(rows: Array, logits: Array, choices: int, capacity: int) -> Array:
    """Token by token and choice by choice, in the order of priority."""
    experts, width = logits.shape[1], rows.shape[1]
    up = weight("experts/up/weight", experts * width, 6).reshape(experts, width, 6)
    down = weight("experts/down/weight", experts * 6, width).reshape(experts, 6, width)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :choices]
    chosen = np.take_along_axis(logits, order, 1)
    gates = np.exp(chosen - chosen.max(1, keepdims=True))
    gates /= gates.sum(1, keepdims=True)
    filled, total = np.zeros(experts, int), np.zeros_like(rows)
    for choice in range(choices):
        for token, expert in enumerate(order[:, choice]):
            if filled[expert] < capacity:
                hidden = np.maximum(rows[token] @ up[expert], 0)
                total[token] += gates[token, choice] * (hidden @ down[expert])
            filled[expert] += 1
    return total


@settings(max_examples=15, deadline=None)
@given(
    tokens=st.integers(1, 9), experts=st.integers(2, 5), choices=st.integers(1, 2),
    factor=st.sampled_from([0.5, 1.0, 1.3, 10.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_mixture_of_experts_fills_slots_in_order_and_drops_the_rest(
    tokens: int, experts: int, choices: int, factor: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    rows, logits = (random.standard_normal((tokens, size), dtype=np.float32) for size in (4, experts))
    block = partial(mixture_of_experts, hidden=6, choices=choices, capacity_factor=factor, activation="relu")
    [found] = run_block(block, rows[None], logits)
    capacity = min(tokens, max(1, int(np.ceil(factor * tokens * choices / experts))))
    expected = mixture_reference(rows, logits, choices, capacity)
    np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=1e-5)


def test_stick_breaking_weights_are_the_products_of_what_is_left_and_sum_to_at_most_one() -> None:
    blocks, block = 3, 4
    scores = np.random.default_rng(0).standard_normal((1, 2, blocks, block, 2 * block), dtype=np.float32)
    [found] = run_block(partial(stick_breaking, blocks=blocks, block=block), scores)
    taken = 1 / (1 + np.exp(-scores))
    for number, row in np.ndindex(blocks, block):
        left = np.ones((1, 2))
        for key in range(2 * block - 1, -1, -1):
            visible = key <= block + row and (number > 0 or key >= block)
            expected = left * taken[:, :, number, row, key] * visible
            np.testing.assert_allclose(found[:, :, number, row, key], expected, rtol=1e-4, atol=1e-6)
            left = left - expected
    assert found.sum(-1).max() <= 1 + 1e-5


def test_no_logit_of_molm_sees_a_later_token_when_nothing_is_dropped() -> None:
    tokens = np.random.default_rng(0).integers(0, 100, (1, 12))
    changed = tokens.copy()
    changed[:, 7:] = (changed[:, 7:] + 7) % 100
    outputs = [
        outputs_here("molm_350m_4b", {"input_ids": ids}, capacity_factor=9.0)["logits"] for ids in (tokens, changed)
    ]
    np.testing.assert_allclose(outputs[0][:, :7], outputs[1][:, :7], rtol=1e-4, atol=1e-5)
    assert np.abs(outputs[0][:, 7:] - outputs[1][:, 7:]).max() > 1e-3


def test_activated_parameters_of_molm_are_the_published() -> None:
    for name, published in (("molm_350m_4b", 352e6), ("molm_700m_4b", 654e6), ("molm_700m_8b", 704e6)):
        model = workloads.build(name)
        choices = 4 if name == "molm_700m_4b" else 2
        attention, feed = (
            sum(int(np.prod(t.dims)) for t in model.graph.initializer if part in t.name and "gate/" not in t.name)
            for part in ("/attention/", "/mlp/")
        )
        shared = sum(
            int(np.prod(t.dims)) for t in model.graph.initializer
            if t.name.endswith(("attention/key/weight", "attention/value/weight"))
        )  # fmt: skip
        active = (attention - shared) * choices / 16 + feed * choices / 32 + shared
        assert active == pytest.approx(published, rel=0.03)


def test_depth_shares_the_block_and_keeps_its_norms() -> None:
    shallow, deep = (workloads.build("widenet_b", configuration={"depth": depth}) for depth in (1, 12))
    assert parameters_of(deep) - parameters_of(shallow) == 11 * 2 * 2 * 768
    assert macs_of(deep) > 10 * macs_of(shallow)


def test_one_expert_is_the_dense_network() -> None:
    ids = np.random.default_rng(0).integers(0, 100, (2, 8))
    inputs = {"input_ids": ids, "token_type_ids": ids % 2}
    found = outputs_here("albert_base", inputs)
    assert np.isfinite(found["last_hidden_state"]).all()
    with_room = outputs_here("widenet_nlp_e4", inputs, capacity_factor=4.0)
    more_room = outputs_here("widenet_nlp_e4", inputs, capacity_factor=8.0)
    assert_close(more_room, with_room)  # four experts at factor four can take every token


def test_heads_all_on_are_the_host() -> None:
    tokens = np.random.default_rng(0).integers(0, 100, (2, 8))
    sizes = {"width": 64, "heads": 8, "kv_heads": 2, "hidden": 96, "layers": 2, "vocabulary": 100}
    host = outputs_here("llama3_8b", {"input_ids": tokens}, **sizes)["logits"]
    routed = outputs_here("moh_llama3_8b", {"input_ids": tokens}, active=4)["logits"]
    assert_close({"logits": routed[:, -1:]}, {"logits": host})
    fewer = outputs_here("moh_llama3_8b", {"input_ids": tokens}, active=1)["logits"]
    assert np.abs(fewer - routed).max() > 1e-2


def test_each_token_has_the_shared_heads_and_as_many_others_as_are_active() -> None:
    mixture = HeadMixture(heads=8, shared=3, active=2)
    value = np.random.default_rng(0).standard_normal((2, 7, 16), dtype=np.float32)
    [gates] = run_block(lambda graph, x: head_gates(graph, x, mixture), value)
    on = gates[..., 0] > 0
    assert on[:, :3].all()
    np.testing.assert_array_equal(on[:, 3:].sum(1), 2)
    assert on.mean() == mixture.share
    np.testing.assert_allclose(gates[:, :3].sum(1) / 3 + gates[:, 3:].sum(1) / 2, 2, rtol=1e-5)


def test_heads_skipped_are_heads_multiplied_by_zero() -> None:
    random = np.random.default_rng(0)
    inputs = {
        "latent": random.standard_normal((2, 4, 8, 8), dtype=np.float32),
        "time": np.array([[3.0], [700.0]], np.float32),
        "label": np.array([1, 9]),
    }
    masked = outputs_here("moh_dit_xl_2_90", inputs)
    skipped = outputs_here("moh_dit_xl_2_90", inputs, skip=True, capacity_factor=9.0)
    assert_close(skipped, masked)


def test_products_of_attention_scale_with_the_share_of_heads_that_are_on() -> None:
    tokens, width, depth = 256, 1152, 28
    masked, skipped = (macs_of(workloads.build("moh_dit_xl_2_90", configuration={"skip": skip})) for skip in (0, 1))
    products = depth * 2 * tokens**2 * width
    capacity = int(np.ceil(tokens * 8 / 10))  # eight of ten routed heads, rounded up to whole tokens
    share = (6 * tokens + 10 * capacity) / (16 * tokens)
    assert masked - skipped == pytest.approx((1 - share) * products, rel=1e-6)
    assert share == pytest.approx(14 / 16, rel=0.01)


def test_neighbours_of_a_token_are_the_nine_around_it_and_zeros_outside() -> None:
    tokens = np.random.default_rng(0).standard_normal((2, 16, 6), dtype=np.float32)
    [found] = run_block(lambda graph, x: neighbours(graph, x, extent=4, heads=3), tokens)
    padded = np.pad(tokens.reshape(2, 4, 4, 3, 2), ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0)))
    for row, column in np.ndindex(4, 4):
        around = padded[:, row : row + 3, column : column + 3].reshape(2, 9, 3, 2)
        np.testing.assert_array_equal(found[:, :, 4 * row + column], around.transpose(0, 2, 1, 3))


def test_distances_to_a_pooled_grid_are_those_to_its_cells_centres() -> None:
    table, index = distance_table(8, 2)
    for query, key in ((0, 0), (9, 3), (63, 1)):
        rows, columns = (divmod(query, 8), divmod(key, 2))
        steps = np.array([(q - (4 * k + 1.5)) / 7 * 8 for q, k in zip(rows, columns, strict=True)])
        np.testing.assert_allclose(table[index[query, key]], np.sign(steps) * np.log2(np.abs(steps) + 1) / 3, atol=1e-5)
