"""What the papers of the vision networks claim of their parts: equivalences, limit cases, costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest

import workloads
from codesign.errors import BadParameter
from codesign.graph import Tensor, seeded_weight
from tests.block_case import run_block, run_model
from tests.workload_case import Array
from workloads.biformer import routed_attention
from workloads.blocks.agent import agent_attention
from workloads.blocks.attention import self_attention
from workloads.blocks.deformable import deformable_convolution
from workloads.blocks.embedding import unfold
from workloads.blocks.window import distance_bias, fill_mask
from workloads.builder import Builder, Value
from workloads.counts import macs_of
from workloads.crossformer import grouped
from workloads.davit import channel_attention
from workloads.efficientvit_msra import cascaded_attention
from workloads.litv2_hilo import hilo_attention
from workloads.metaformer_baselines import random_mixer
from workloads.next_vit import pooled_attention
from workloads.poolformer import pool_mixer
from workloads.pvt import reduced_attention
from workloads.t2t_vit import FEATURES, TOKEN_WIDTH, random_feature_attention

RANDOM = np.random.default_rng(1)


def normal(*shape: int) -> Array:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def weight(name: str, *shape: int) -> Array:
    """The values that a weight of this name has in `run_block`."""
    return seeded_weight(Tensor(name, shape, "float32"), 0)


def macs(block: Callable[..., Value], *shape: int) -> int:
    """Multiply-accumulates of `block` on one input."""
    graph = Builder("block")
    graph.output(block(graph, graph.input("input", shape)), "output")
    return macs_of(graph.model())


def softmax(scores: Array) -> Array:
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def close(found: Array, expected: Array) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def plain_attention(graph: Builder, value: Value, heads: int, name: str = "attention", separate: bool = False) -> Value:
    return self_attention(graph, value, heads, name, separate=separate)[0]


@pytest.mark.parametrize(
    ("name", "parameters", "multiply_accumulates"),
    [
        ("crossformer_t", 27_776_794, 2.854e9),
        ("crossformer_s", 30_657_394, 4.902e9),
        ("crossformer_b", 51_971_554, 9.153e9),
        ("crossformer_l", 91_971_184, 16.096e9),
        ("crossformer_pp_s", 23_325_340, 4.418e9),
        ("crossformer_pp_b", 51_994_594, 9.570e9),
        ("cvt_13_224", 19_997_480, 4.566e9),
        ("cvt_21_224", 31_622_696, 7.178e9),
        ("litv2_s", 27_854_764, 3.726e9),
        ("litv2_b", 86_535_052, 13.175e9),
        ("efficientvit_m0", 2_349_436, 79.19e6),
        ("efficientvit_m3", 6_900_722, 262.66e6),
        ("efficientvit_m5", 12_473_772, 521.58e6),
        ("agent_deit_t", 6_015_640, 1.168e9),
        ("agent_deit_b", 87_204_904, 17.53e9),
    ],
)
def test_counts_are_those_of_the_authors_layer_shapes_to_the_last_digit(
    name: str, parameters: int, multiply_accumulates: float
) -> None:
    found = workloads.count(name)
    assert found.params == parameters
    assert found.macs == pytest.approx(multiply_accumulates, rel=6e-4)


def test_routing_to_every_region_is_attention_to_every_token() -> None:
    grid = normal(2, 8, 8, 16)
    routed = partial(routed_attention, heads=2)
    [all_regions] = run_block(lambda g, v: routed(g, v, regions=2, picked=4), grid)
    [one_region] = run_block(lambda g, v: routed(g, v, regions=1, picked=1), grid)
    close(all_regions, one_region)


def test_a_region_reaches_itself_and_those_that_pick_it() -> None:
    """Four regions pick one each, so that a change in each of the four reaches at most eight in all, of sixteen."""
    grid, reached = normal(1, 8, 8, 16), 0
    route = partial(routed_attention, regions=2, picked=1, heads=2)
    [before] = run_block(lambda g, v: route(g, v), grid)
    for row, column in ((0, 0), (0, 7), (7, 0), (7, 7)):
        changed = grid.copy()
        changed[:, row, column] += 1e-3
        [after] = run_block(lambda g, v: route(g, v), changed)
        touched = np.abs(after - before).max(-1)[0] > 1e-7
        regions = touched.reshape(2, 4, 2, 4).any((1, 3))
        assert regions[row // 4, column // 4]
        reached += int(regions.sum())
    assert 4 <= reached <= 8


def test_regions_that_do_not_fill_the_grid_are_refused() -> None:
    with pytest.raises(BadParameter, match="7x7 regions do not fill a grid of 16x16"):
        workloads.build("biformer_tiny", bind={"image": 64})


def test_hilo_without_pooling_or_windows_is_ordinary_attention() -> None:
    tokens, extents = normal(2, 16, 24), (4, 4)
    hilo = partial(hilo_attention, extents=extents, heads=3)
    [high] = run_block(lambda g, v: hilo(g, v, alpha=0.0, window=4), tokens)
    [plain] = run_block(lambda g, v: plain_attention(g, v, 3, "attention/high"), tokens)
    close(high, plain)


def test_hilo_layer_costs_what_the_authors_counter_says() -> None:
    assert workloads.count("hilo_layer").macs == 83_467_776


def test_pooled_attention_without_pooling_is_ordinary_attention() -> None:
    image = normal(2, 24, 4, 4)
    [pooled] = run_block(lambda g, v: pooled_attention(g, v, reduction=1, head_size=8), image)
    tokens = np.ascontiguousarray(image.reshape(2, 24, 16).transpose(0, 2, 1))
    [plain] = run_block(lambda g, v: plain_attention(g, v, 3, separate=True), tokens)
    close(pooled.reshape(2, 24, 16).transpose(0, 2, 1), plain)


def test_spatial_reduction_divides_the_products_by_the_square_of_its_stride() -> None:
    def products(reduction: int) -> int:
        width = 32
        block = partial(reduced_attention, heads=2, reduction=reduction, extent=16)
        keys = 256 // reduction**2
        layers = 2 * 256 * width**2 + 2 * keys * width**2 + (keys * width**2 * reduction**2 if reduction > 1 else 0)
        return macs(lambda g, v: block(g, v), 1, 256, width) - layers

    assert products(1) == 2 * 256 * 256 * 32
    assert products(1) == 16 * products(4)


def test_channel_attention_is_linear_in_the_pixels() -> None:
    block = partial(channel_attention, heads=4)
    small, large = (macs(lambda g, v: block(g, v), 1, side, side, 32) for side in (8, 16))
    assert large == 4 * small


def test_channel_attention_is_softmax_of_keys_by_values_applied_to_queries() -> None:
    grid, heads, width = normal(1, 3, 3, 8), 2, 8
    [found] = run_block(lambda g, v: channel_attention(g, v, heads), grid)
    kernel, bias = (
        weight("attention/query_key_value/weight", width, 3 * width),
        weight("attention/query_key_value/bias", 3 * width),
    )
    query, key, content = np.split(grid.reshape(9, width) @ kernel + bias, 3, axis=-1)
    heads_apart = [part.reshape(9, heads, width // heads).transpose(1, 0, 2) for part in (query, key, content)]
    query, key, content = heads_apart
    scores = softmax(key.transpose(0, 2, 1) @ content / np.sqrt(width // heads))
    mixed = (scores @ query.transpose(0, 2, 1)).transpose(2, 0, 1).reshape(9, width)
    expected = mixed @ weight("attention/output/weight", width, width) + weight("attention/output/bias", width)
    close(found.reshape(9, width), expected)


def test_agents_make_the_cost_of_attention_linear_in_the_tokens() -> None:
    heads, agents, width = 2, 4, 16

    def cost(side: int) -> int:
        block = partial(agent_attention, heads=heads, extents=(side, side), agents=agents)
        return macs(lambda g, v: block(g, v, v, v), 1, side * side, width) - 9 * side * side * width

    assert cost(8) == 4 * 64 * agents * width
    assert cost(16) == 4 * cost(8)


def test_agents_gather_and_spread_by_two_softmaxes() -> None:
    """Against numpy, with as many agents as the position tables are wide, so that these are not stretched."""
    heads, width, side = 2, 8, 7
    tokens = normal(1, side * side, width)
    block = partial(agent_attention, heads=heads, extents=(side, side), agents=49)
    [found] = run_block(lambda g, v: block(g, v, v, v), tokens)
    apart = tokens[0].reshape(49, heads, 4).transpose(1, 0, 2)

    def bias(name: str) -> Array:
        parts = ((side, side, "table"), (side, 1, "rows"), (1, side, "columns"))
        return sum(weight(f"{name}/{part}", heads, 49, h, w) for h, w, part in parts).reshape(heads, 49, 49)

    scores = apart @ apart.transpose(0, 2, 1) / 2
    gathered = softmax(scores + bias("gather_bias")) @ apart
    spread = softmax(scores + bias("spread_bias").transpose(0, 2, 1)) @ gathered
    image = np.pad(tokens[0].reshape(side, side, width), ((1, 1), (1, 1), (0, 0)))
    kernel, local = (
        weight("local/weight", width, 1, 3, 3),
        weight("local/bias", width) + np.zeros((side, side, width), "f4"),
    )
    for row in range(3):
        for column in range(3):
            local = local + image[row : row + side, column : column + side] * kernel[:, 0, row, column]
    close(found[0], spread.transpose(1, 0, 2).reshape(49, width) + local.reshape(49, width))


def test_near_and_far_groups_cost_the_same() -> None:
    costs = {interval: macs(partial(_grouped, interval=interval), 1, 16, 16, 32) for interval in (1, 2, 4)}
    assert len(set(costs.values())) == 1


def _grouped(graph: Builder, value: Value, interval: int) -> Value:
    return grouped(graph, value, heads=2, group=4, interval=interval)


@pytest.mark.parametrize("interval", [1, 2])
def test_what_fills_the_last_groups_is_hidden(interval: int) -> None:
    [mask] = run_block(lambda g, v: g.add(fill_mask(g, (6, 6), (4, 4), interval), v), np.zeros(1, "f4"))
    inside = np.pad(np.ones((6, 6)), ((0, 2), (0, 2)))
    count = 2 // interval
    groups = [
        inside[row + i : row + 4 * interval : interval, column + j : column + 4 * interval : interval]
        for row in range(0, 4 * interval * count, 4 * interval)
        for column in range(0, 4 * interval * count, 4 * interval)
        for i in range(interval)
        for j in range(interval)
    ]
    np.testing.assert_array_equal(mask[:, 0, 0] == 0, np.stack(groups).reshape(len(groups), 16) == 1)


def test_convolutional_projections_quarter_the_keys_and_keep_the_class_token() -> None:
    model = workloads.build("cvt_13_224")
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.value_info}
    assert shapes["stage0/block0/attention/scores"] == [1, 1, 56 * 56, 28 * 28]
    assert shapes["stage2/block0/attention/scores"] == [1, 6, 14 * 14 + 1, 7 * 7 + 1]


def test_each_head_of_the_cascade_waits_for_the_one_before() -> None:
    graph = Builder("cascade")
    value = graph.input("input", (1, 24, 4, 4))
    graph.output(cascaded_attention(graph, value, 3, (3, 3, 3)), "output")
    needs: dict[str, set[str]] = {}
    for node in graph.model().graph.node:
        before = set().union(*(needs.get(name, set()) for name in node.input))
        heads = {part for part in node.name.split("/") if part.startswith("head") and part != "heads"}
        for output in node.output:
            needs[output] = before | heads
    contexts = {name: heads for name, heads in needs.items() if name.endswith("/context")}
    assert sorted(len(heads) for heads in contexts.values()) == [1, 2, 3]


def test_class_token_attention_is_linear_in_the_tokens() -> None:
    from workloads.crossvit import _class_attention

    width = 16
    block = partial(_class_attention, heads=2)
    costs = [macs(lambda g, v: block(g, v), 1, tokens, width) - 2 * width**2 for tokens in (10, 20)]
    assert costs[1] == 2 * costs[0]


def test_unfolding_gathers_every_window_as_torch_does() -> None:
    image = normal(2, 3, 7, 6)
    [tokens] = run_block(lambda g, v: unfold(g, v, kernel=3, stride=2, padding=1), image)
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = [padded[:, :, r : r + 3, c : c + 3].reshape(2, 27) for r in range(0, 7, 2) for c in range(0, 6, 2)]
    np.testing.assert_array_equal(tokens, np.stack(windows, 1))


def test_random_features_are_summed_before_any_query_is_seen() -> None:
    tokens = normal(1, 6, 10)
    [found] = run_block(random_feature_attention, tokens)
    name = "attention/key_query_value"
    projected = tokens[0] @ weight(f"{name}/weight", 10, 3 * TOKEN_WIDTH) + weight(f"{name}/bias", 3 * TOKEN_WIDTH)
    key, query, content = np.split(projected.astype(np.float64), 3, axis=-1)
    directions = weight("attention/directions", TOKEN_WIDTH, FEATURES)
    key, query = (np.exp(x @ directions - (x**2).sum(-1, keepdims=True) / 2) / np.sqrt(FEATURES) for x in (key, query))
    weights = query @ key.T
    context = weights @ content / (weights.sum(-1, keepdims=True) + 1e-8)
    output = context @ weight("attention/output/weight", TOKEN_WIDTH, TOKEN_WIDTH)
    close(found[0], output + weight("attention/output/bias", TOKEN_WIDTH) + content)


def test_performers_save_1_3_billion_products_of_t2t_at_depth_14() -> None:
    saved = workloads.count("t2t_vit_t_14").macs - workloads.count("t2t_vit_14").macs
    assert saved == pytest.approx(1.3e9, rel=0.02)


def test_tnt_costs_a_seventh_more_than_deit_of_the_same_width() -> None:
    assert workloads.count("tnt_s").macs / workloads.count("deit_small").macs == pytest.approx(1.14, abs=0.01)


def test_pooling_leaves_nothing_of_a_constant_image_not_even_at_its_border() -> None:
    [mixed] = run_block(pool_mixer, np.full((1, 3, 5, 5), 2.5, dtype=np.float32))
    np.testing.assert_allclose(mixed, 0, atol=1e-6)


def test_a_random_mixture_of_equal_tokens_is_the_token() -> None:
    image = np.repeat(normal(1, 4, 1, 1), 9, axis=3).reshape(1, 4, 3, 3)
    [mixed] = run_block(random_mixer, image)
    close(mixed, image)


def test_distance_bias_does_not_know_directions() -> None:
    [bias] = run_block(lambda g, v: g.add(distance_bias(g, 2, (3, 4)), v), np.zeros(1, "f4"))
    places = [(row, column) for row in range(3) for column in range(4)]
    seen: dict[tuple[int, int], Any] = {}
    for i, (r, c) in enumerate(places):
        for j, (s, d) in enumerate(places):
            np.testing.assert_array_equal(seen.setdefault((abs(r - s), abs(c - d)), bias[:, i, j]), bias[:, i, j])


def test_a_deformable_convolution_that_moves_nothing_is_half_a_convolution() -> None:
    """Masks are sigmoids: where the predictor gives zeros, each tap stays in its place and counts half."""
    graph, image = Builder("deformable"), normal(2, 3, 6, 6)
    graph.output(deformable_convolution(graph, graph.input("image", image.shape), 5, 2, "merge", stride=2), "merged")
    model = workloads.materialise(graph.model(), 0)
    for tensor in model.graph.initializer:
        if "offset" in tensor.name:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))
    merged = run_model(model, {"image": image})["merged"]
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    kernel = values["merge/product/weight"].reshape(5, 3, 2, 2)
    patches = image.reshape(2, 3, 3, 2, 3, 2)
    expected = np.einsum("bcirjs,ocrs->boij", patches, kernel) / 2 + values["merge/product/bias"][:, None, None]
    close(merged, expected)
