"""CATANet: super-resolution by attention among tokens of like content, which are sorted next to each other first.

Liu et al., CVPR 2025 (arXiv:2503.06896). Tokens are sorted by the nearest of a few centres kept from training; groups
of neighbours in that order attend to their own and the next group, and to the centres.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from onnx import TensorProto

from workloads.blocks.activation import activate
from workloads.blocks.attention import merge_heads, scaled_dot_product, split_heads
from workloads.blocks.convolution import convolution, depthwise
from workloads.blocks.dense import layer_norm, linear
from workloads.blocks.embedding import grid_of, tokens_of
from workloads.blocks.residual import residual
from workloads.blocks.segmentation import resized
from workloads.blocks.super_resolution import pixel_shuffle, small_image
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

OVERLAP = 2
"""Pixels that two neighbouring patches share."""

LEAK = 0.1

VARIANTS: Table = {f"catanet_x{scale}": {"scale": scale} for scale in (2, 3, 4)}

REDUCED: Table = {
    "catanet_x4": {
        "height": 10, "width_pixels": 9, "width": 8, "keys": 6, "hidden": 12, "heads": 2, "centres": (3, 5),
        "groups": (16, 7), "patches": (5, 6),
    }
}  # fmt: skip


@variants(VARIANTS, REDUCED)
def catanet(
    graph: Builder,
    batch: int,
    height: int,
    width_pixels: int,
    *,
    scale: int,
    width: int = 40,
    keys: int = 36,
    hidden: int = 96,
    heads: int = 4,
    centres: Sequence[int] = (16, 32, 64, 128) * 2,
    groups: Sequence[int] = (256, 128, 64, 32) * 2,
    patches: Sequence[int] = (16, 20, 24, 28) * 2,
) -> None:
    """Pixels (batch, 3, height, width_pixels) to an image of `scale` times the extents.

    Each block has its number of `centres`, its size of `groups` and the side of its `patches`.
    """
    pixels, extents = small_image(graph, batch, height, width_pixels), (height, width_pixels)
    shallow = value = convolution(graph, pixels, width, 3, "shallow", 1, 1, bias=True)
    for number, (count, group, side) in enumerate(zip(centres, groups, patches, strict=True)):
        with graph.scope(f"block{number}"):
            aggregate = partial(
                aggregated, graph, extents=extents, keys=keys, heads=heads, centres=count, group=group
            )
            attend = partial(overlapping_patches, graph, extents=extents, side=side, keys=keys, heads=heads)
            inner = value
            for name, mix in (("aggregation", aggregate), ("local", attend)):
                with graph.scope(name):
                    tokens = residual(graph, tokens_of(graph, inner), mix, 1, layer_norm)
                    feed = partial(convolved_feed_forward, graph, hidden=hidden, extents=extents)
                    inner = grid_of(graph, residual(graph, tokens, feed, 2, layer_norm), height, width_pixels)
            value = graph.add(value, convolution(graph, inner, width, 3, "convolution", 1, 1, bias=True), "skip")
    value = graph.add(value, shallow, "global_skip")
    for step in [2, 2] if scale == 4 else [scale]:
        value = graph.unary("LeakyRelu", pixel_shuffle(graph, value, width, step), alpha=LEAK)
    image = convolution(graph, value, 3, 3, "last", 1, 1, bias=True)
    plain = resized(graph, pixels, (height * scale, width_pixels * scale), "plain")
    graph.output(graph.add(image, plain, "sum"), "enlarged")


def aggregated(
    graph: Builder, tokens: Value, extents: tuple[int, int], keys: int, heads: int, centres: int, group: int
) -> Value:
    """Attention in groups of tokens that are alike, and of every token to the centres, in the sorted order and back."""
    width = tokens.shape[-1]
    with graph.scope("attention"):
        middle = graph.constant("centres", _unit_rows(centres, width))
        order = content_order(graph, tokens, middle)
        query, key, content = (
            graph.gather_rows(linear(graph, tokens, features, role, bias=False), order, f"{role}/sorted")
            for role, features in (("query", keys), ("key", keys), ("value", width))
        )
        within = grouped_attention(graph, query, key, content, heads, group)
        middle = graph.unsqueeze(middle, [0])
        middle_key, middle_content = (
            split_heads(graph, linear(graph, middle, features, role, bias=False), heads, role)
            for role, features in (("centre_key", keys), ("centre_value", width))
        )
        to_centres = scaled_dot_product(
            graph, split_heads(graph, query, heads, "query"), middle_key, middle_content, name="centre_scores"
        )
        mixed = graph.add(within, merge_heads(graph, to_centres), "both")
        mixed = linear(graph, graph.scatter_rows(mixed, order, "restored"), width, "output", bias=False)
        return tokens_of(graph, convolution(graph, grid_of(graph, mixed, *extents), width, 1, "pointwise"))


def _unit_rows(count: int, width: int) -> np.ndarray[Any, Any]:
    """Centres as training would leave them, fixed and of length one."""
    rows = np.random.default_rng(count).standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def content_order(graph: Builder, tokens: Value, centres: Value) -> Value:
    """Places of the tokens (batch, tokens) sorted by their nearest centre by cosine, ties in their old order."""
    batch, count, _ = tokens.shape
    with graph.scope("order"):
        unit = graph.unary("LpNormalization", tokens, axis=-1, p=2)
        alike = graph.matmul(unit, graph.transpose(centres, (1, 0)), "cosines")
        [nearest] = graph.node("ArgMax", [alike], [(batch, count)], data_type=TensorProto.INT64, axis=-1, keepdims=0)
        descending = graph.unary("Neg", graph.cast(nearest, TensorProto.FLOAT))
        return graph.top_k(descending, count)[1]  # of equal entries the standard takes the first one first


def grouped_attention(graph: Builder, query: Value, key: Value, content: Value, heads: int, group: int) -> Value:
    """Queries of each group of the sorted tokens attend to the keys of their own and the next one. What is missing of
    the last groups is filled with the last tokens in reverse."""
    batch, count, width = content.shape
    groups = -(-count // group)
    spare = groups * group - count
    with graph.scope("groups"):
        query = _grouped(graph, _extended(graph, query, spare), group)
        key, content = (_with_next(graph, _extended(graph, one, spare + group), group) for one in (key, content))
        operands = [
            split_heads(graph, one, heads, role)
            for one, role in ((query, "query"), (key, "key"), (content, "value"))
        ]
        mixed = merge_heads(graph, scaled_dot_product(graph, operands[0], operands[1], operands[2]))
        mixed = graph.reshape(mixed, (batch, groups * group, width), "ungrouped")
        return graph.slice(mixed, 0, count, 1, "kept") if spare else mixed


def _extended(graph: Builder, value: Value, more: int) -> Value:
    """`more` tokens after the last: the last ones in reverse."""
    count = value.shape[1]
    return graph.concat([value, graph.reversed(value, count - more, count, 1, "mirrored")], 1) if more else value


def _grouped(graph: Builder, value: Value, group: int) -> Value:
    """Tokens (batch, tokens, features) in groups: (batch x groups, group, features)."""
    batch, count, features = value.shape
    return graph.reshape(value, (batch * count // group, group, features), "groups")


def _with_next(graph: Builder, value: Value, group: int) -> Value:
    """Each group but the last with the one after it: (batch x groups, 2 group, features)."""
    batch, count, features = value.shape
    groups = count // group - 1
    apart = graph.reshape(value, (batch, groups + 1, group, features), "apart")
    own, following = graph.slice(apart, 0, groups, 1, "own"), graph.slice(apart, 1, groups + 1, 1, "next")
    both = graph.concat([own, following], 2, "own_and_next")
    return graph.reshape(both, (batch * groups, 2 * group, features), "groups")


def overlapping_patches(
    graph: Builder, tokens: Value, extents: tuple[int, int], side: int, keys: int, heads: int
) -> Value:
    """Attention inside square patches that share two rows with their neighbours, where the results are averaged."""
    width = tokens.shape[-1]
    starts = [patch_starts(extent, side) for extent in extents]
    with graph.scope("attention"):
        grid = grid_of(graph, tokens, *extents)
        for axis, first in ((2, starts[0]), (3, starts[1])):
            grid = graph.pick(grid, (first[:, None] + np.arange(side)).ravel(), axis, "cut")
        counts = [len(first) for first in starts]
        apart = graph.reshape(grid, (tokens.shape[0], width, counts[0], side, counts[1], side), "apart")
        patches = graph.transpose(apart, (0, 2, 4, 3, 5, 1), "patches")
        patches = graph.reshape(patches, (tokens.shape[0] * counts[0] * counts[1], side * side, width), "tokens")
        query, key, content = (
            split_heads(graph, linear(graph, patches, features, role, bias=False), heads, role)
            for role, features in (("query", keys), ("key", keys), ("value", width))
        )
        mixed = merge_heads(graph, scaled_dot_product(graph, query, key, content))
        mixed = linear(graph, mixed, width, "output", bias=False)
        split = graph.reshape(mixed, (tokens.shape[0], *counts, side, side, width), "split")
        grid = graph.transpose(split, (0, 5, 1, 3, 2, 4), "joined")
        grid = graph.reshape(grid, (tokens.shape[0], width, counts[0] * side, counts[1] * side), "overlapping")
        for axis, first, extent in ((2, starts[0], extents[0]), (3, starts[1], extents[1])):
            grid = averaged(graph, grid, axis, first, side, extent)
        return tokens_of(graph, grid)


def patch_starts(extent: int, side: int) -> np.ndarray[Any, Any]:
    """First row of each patch; the last one ends at the border."""
    step = side - OVERLAP
    regular = np.arange(0, max(extent - side, 0) + step, step) if extent > side else np.zeros(1, int)
    return np.minimum(regular, max(extent - side, 0))


def averaged(graph: Builder, grid: Value, axis: int, starts: np.ndarray[Any, Any], side: int, extent: int) -> Value:
    """Rows (or columns) of patches one after the other, made one row for each of the image: the mean of those that
    cover it."""
    covering: list[list[int]] = [[] for _ in range(extent)]
    for patch, start in enumerate(starts):
        for place in range(side):
            covering[start + place].append(patch * side + place)
    result: Value | None = None
    for number in range(max(map(len, covering))):
        chosen = np.array([places[min(number, len(places) - 1)] for places in covering])
        shares = np.array([(number < len(places)) / len(places) for places in covering], np.float32)
        shape = (extent, *(1,) * (grid.rank - 1 - axis))
        share = graph.constant("shares", shares.reshape(shape))
        part = graph.multiply(graph.pick(grid, chosen, axis, "covering"), share, "part")
        result = part if result is None else graph.add(result, part, "mean")
    assert result is not None
    return result


def convolved_feed_forward(graph: Builder, value: Value, hidden: int, extents: tuple[int, int]) -> Value:
    """Feed-forward layers with a depthwise 5x5 convolution of the hidden features, activated, added to them."""
    with graph.scope("mlp"):
        inner = activate(graph, linear(graph, value, hidden, "up"), "gelu")
        local = activate(graph, depthwise(graph, grid_of(graph, inner, *extents), 5, "depthwise"), "gelu")
        return linear(graph, graph.add(inner, tokens_of(graph, local), "convolved"), value.shape[-1], "down")
