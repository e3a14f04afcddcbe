"""GRAT: which groups are kept, and attention in groups against attention under their mask."""

from __future__ import annotations

import math

import numpy as np
import pytest

import workloads
from tests.block_case import run_block
from tests.workload_case import shapes_of
from workloads.blocks.attention import merge_heads, scaled_dot_product
from workloads.builder import Builder, Value
from workloads.grat import GroupedAttention, Pattern, kept_groups

RANDOM = np.random.default_rng(0)


def test_groups_that_share_a_plane_are_a_third_of_the_video() -> None:
    kept = kept_groups((8, 6, 10), "cross", 1)
    assert kept.shape == (480, 60 + 80 + 48 - 10 - 6 - 8 + 1)
    assert kept.shape[1] / kept.shape[0] == pytest.approx(0.344, abs=5e-4)


def test_groups_near_the_border_see_as_many_as_the_others() -> None:
    kept = kept_groups((4, 5), "near", 1)
    assert kept.shape == (20, 9)
    for group, others in enumerate(kept):
        row, column = divmod(group, 5)
        rows, columns = np.clip(row - 1, 0, 1) + np.arange(3), np.clip(column - 1, 0, 2) + np.arange(3)
        assert sorted(others) == sorted(int(5 * r + c) for r in rows for c in columns)


def test_attention_at_8192_pixels_keeps_less_than_a_hundredth_of_the_scores() -> None:
    """A speed-up of 35.8 of attention, as published, needs a density under 2.8%."""
    shapes = shapes_of(workloads.build("flux_8192", configuration={"double_blocks": 1, "single_blocks": 0}))
    groups = shapes["double0/attention/group_scores"]
    assert math.prod(groups[2:]) / 262144**2 < 0.028


@pytest.mark.parametrize(("grid", "group", "pattern"), [((8, 8), (2, 2), "near"), ((4, 6, 6), (2, 2, 3), "cross")])
def test_attention_in_groups_is_attention_under_their_mask(
    grid: tuple[int, ...], group: tuple[int, ...], pattern: Pattern
) -> None:
    text, heads, size = 3, 2, 16
    tokens = text + math.prod(grid)
    operands = [RANDOM.standard_normal((2, heads, tokens, size), dtype=np.float32) for _ in range(3)]
    counts = [extent // side for extent, side in zip(grid, group, strict=True)]
    kept, per_group = kept_groups(counts, pattern, 1), math.prod(group)
    mask = np.full((tokens, tokens), -np.inf, np.float32)
    mask[:text], mask[:, :text] = 0, 0
    for number, others in enumerate(kept):
        own = slice(text + number * per_group, text + (number + 1) * per_group)
        for other in others:
            mask[own, text + other * per_group : text + (other + 1) * per_group] = 0

    def attention(graph: Builder) -> GroupedAttention:
        return GroupedAttention(graph, grid, group, pattern, 1, (4, 6, 6), text, heads)

    def dense(graph: Builder, *values: Value) -> Value:
        turned = [attention(graph)._turned(one, role) for one, role in zip(values, ("query", "key"), strict=False)]
        context = scaled_dot_product(graph, turned[0], turned[1], values[2], graph.constant("mask", mask))
        return merge_heads(graph, context)

    [expected] = run_block(dense, *operands)
    [found] = run_block(lambda graph, *values: attention(graph)(values), *operands)
    np.testing.assert_allclose(found, expected, atol=2e-5)
