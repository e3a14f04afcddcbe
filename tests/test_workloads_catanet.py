"""CATANet: tokens sorted by content and back, attention in groups against a mask, patches that overlap."""

from __future__ import annotations

import numpy as np
import pytest

import workloads
from tests.block_case import run_block
from tests.workload_case import macs_by_onnx_shapes
from workloads.blocks.attention import merge_heads, scaled_dot_product, split_heads
from workloads.builder import Builder, Value
from workloads.catanet import averaged, content_order, grouped_attention, patch_starts

RANDOM = np.random.default_rng(0)


def test_tokens_are_sorted_by_their_nearest_centre_and_keep_their_order_within() -> None:
    tokens, centres = (RANDOM.standard_normal(shape, dtype=np.float32) for shape in ((2, 40, 6), (5, 6)))

    def block(graph: Builder, value: Value, middle: Value) -> tuple[Value, Value, Value]:
        order = content_order(graph, value, middle)
        rows = graph.gather_rows(value, order, "sorted")
        return order, rows, graph.scatter_rows(rows, order, "restored")

    unit = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    order, rows, back = run_block(block, tokens, unit)
    nearest = (tokens @ unit.T / np.linalg.norm(tokens, axis=2, keepdims=True)).argmax(axis=2)
    np.testing.assert_array_equal(order, nearest.argsort(axis=1, kind="stable"))
    np.testing.assert_array_equal(rows, np.take_along_axis(tokens, order[..., None], 1))
    np.testing.assert_array_equal(back, tokens)


@pytest.mark.parametrize(("count", "group"), [(12, 4), (10, 4), (9, 5)])
def test_groups_attend_to_their_own_and_the_next_with_the_end_mirrored(count: int, group: int) -> None:
    query, key, content = (RANDOM.standard_normal((2, count, 8), dtype=np.float32) for _ in range(3))
    groups = -(-count // group)
    place = np.r_[np.arange(count), np.arange(count - 1, count - 1 - (groups * group - count) - group, -1)]

    def dense(graph: Builder, *operands: Value) -> Value:
        """All queries against the extended keys, those of other groups hidden."""
        own = np.arange(count) // group
        reach = np.arange(place.size) // group
        mask = np.where((reach == own[:, None]) | (reach == own[:, None] + 1), 0, -np.inf).astype(np.float32)
        extended = [operands[0], *(graph.pick(one, place, 1, "extended") for one in operands[1:])]
        heads = [split_heads(graph, one, 2, f"part{at}") for at, one in enumerate(extended)]
        mixed = scaled_dot_product(graph, heads[0], heads[1], heads[2], graph.constant("mask", mask))
        return merge_heads(graph, mixed)

    [expected] = run_block(dense, query, key, content)
    [found] = run_block(lambda graph, *operands: grouped_attention(graph, *operands, 2, group), query, key, content)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("extent", "side"), [(20, 5), (21, 5), (13, 6), (4, 5)])
def test_patches_cover_the_image_and_their_mean_gives_it_back(extent: int, side: int) -> None:
    side = min(side, extent)
    starts = patch_starts(extent, side)
    assert starts[0] == 0
    assert starts[-1] + side == extent
    image = RANDOM.standard_normal((1, 2, extent, 3), dtype=np.float32)

    def block(graph: Builder, value: Value) -> Value:
        cut = graph.pick(value, (starts[:, None] + np.arange(side)).ravel(), 2, "cut")
        return averaged(graph, cut, 2, starts, side, extent)

    np.testing.assert_allclose(run_block(block, image)[0], image, rtol=1e-6)


def test_the_cost_is_linear_in_the_pixels() -> None:
    one, four = (
        macs_by_onnx_shapes(workloads.build("catanet_x4", bind={"height": 96 * side, "width_pixels": 128 * side}))
        for side in (1, 2)
    )
    assert four / one == pytest.approx(4, rel=0.05)
