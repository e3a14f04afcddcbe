"""Mixture-of-head attention in TransNeXt: a classifier of images whose tokens see their neighbours and a pooled grid.

Jin et al., 2024 (arXiv:2410.11842) on Shi, TransNeXt, CVPR 2024 (arXiv:2311.17132). Queries and keys have length one; a
token's nine neighbours and the pooled grid share one softmax, with biases by distance from a small perceptron.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from onnx import TensorProto

from workloads.blocks.activation import activate
from workloads.blocks.attention import merge_heads, split_heads
from workloads.blocks.convolution import average_pool, convolution, depthwise
from workloads.blocks.dense import classifier, layer_norm, linear
from workloads.blocks.embedding import grid_of, image_input, tokens_of
from workloads.blocks.heads import HeadMixture, head_gates
from workloads.blocks.residual import residual
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

REDUCTIONS = (8, 4, 2, 1)
RATIOS = (8, 8, 4, 4)
NEIGHBOURS = 9
norm = partial(layer_norm, epsilon=1e-6)

BASE = {"width": 96, "depths": (5, 5, 23, 5)}
SMALL = {"width": 72, "depths": (5, 5, 22, 5)}
VARIANTS: Table = {
    "moh_vit_b_75": {**BASE, "shared": (4, 8, 4, 5), "active": (0, 0, 8, 16)},
    "moh_vit_b_50": {**BASE, "shared": (2, 2, 2, 4), "active": (2, 4, 6, 8)},
    "moh_vit_s_80": {**SMALL, "shared": (3, 6, 3, 8), "active": (0, 0, 6, 12)},
    "moh_vit_s_75": {**SMALL, "shared": (3, 6, 3, 4), "active": (0, 0, 6, 12)},
}
REDUCED: Table = {
    "moh_vit_s_75": {
        "image": 64, "width": 16, "head_size": 4, "depths": (1, 1, 1, 1), "shared": (4, 2, 2, 4),
        "active": (0, 4, 8, 16), "classes": 10,
    },
}  # fmt: skip


@variants(VARIANTS, REDUCED)
def moh_vit(
    graph: Builder,
    batch: int,
    image: int,
    *,
    width: int,
    depths: tuple[int, ...],
    shared: tuple[int, ...],
    active: tuple[int, ...],
    head_size: int = 24,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes). In each stage `shared` heads are always on and
    `active` of the others; with none of these, all heads are on and nothing routes."""
    grid = image_input(graph, batch, image, 32)
    extent = image
    for stage, depth in enumerate(depths):
        channels, (kernel, stride) = width * 2**stage, ((7, 4) if stage == 0 else (3, 2))
        extent //= stride
        with graph.scope(f"stage{stage}"):
            patches = convolution(graph, grid, channels, kernel, "embedding", stride, kernel // 2, bias=True)
            value = layer_norm(graph, tokens_of(graph, patches), "embedding/norm", 1e-5)
            heads = channels // head_size
            mixture = HeadMixture(heads, shared[stage], active[stage]) if active[stage] else None
            mix = partial(attention, graph, extent=extent, heads=heads, reduction=REDUCTIONS[stage], mixture=mixture)
            feed = partial(convolved_gate, graph, hidden=2 * RATIOS[stage] * channels // 3, extent=extent)
            for block in range(depth):
                with graph.scope(f"block{block}"):
                    value = residual(graph, residual(graph, value, mix, 1, norm), feed, 2, norm)
            value = norm(graph, value, "norm")
            grid = grid_of(graph, value, extent, extent)
    graph.output(classifier(graph, graph.mean(value, [1], "pool"), classes), "logits")


def convolved_gate(graph: Builder, value: Value, hidden: int, extent: int) -> Value:
    """down(gelu(depthwise(a)) * b), a and b from one projection, the convolution over the tokens' grid."""
    with graph.scope("mlp"):
        inner, gate = graph.split(linear(graph, value, 2 * hidden, "up"), 2, name="inner_gate")
        local = tokens_of(graph, depthwise(graph, grid_of(graph, inner, extent, extent), 3, "depthwise"))
        return linear(graph, graph.multiply(activate(graph, local, "gelu"), gate, "gated"), value.shape[-1], "down")


def attention(
    graph: Builder, value: Value, extent: int, heads: int, reduction: int, mixture: HeadMixture | None
) -> Value:
    """Attention of tokens (batch, extent^2, channels) to all of them, or (`reduction` > 1) to their neighbours and to
    the grid shrunk by that, its heads gated by the mixture."""
    channels = value.shape[-1]
    with graph.scope("attention"):
        query = unit(graph, split_heads(graph, linear(graph, value, channels, "query"), heads, "query"), "query")
        keys = extent // reduction
        seen = keys**2 + (_neighbours_inside(extent) if reduction > 1 else 0)
        scaled = _scaled(graph, query, np.broadcast_to(np.log(seen), (extent**2,)).astype(np.float32))
        bias = distance_bias(graph, heads, extent, keys)
        if reduction == 1:
            key, content = _keys_values(graph, value, heads)
            context = _attend(graph, scaled, key, content, bias)
        else:
            context = _near_and_pooled(graph, value, query, scaled, bias, extent, heads, reduction)
        if mixture is not None:
            context = graph.multiply(context, head_gates(graph, value, mixture), "gated_heads")
        return linear(graph, merge_heads(graph, context), channels, "output")


def unit(graph: Builder, value: Value, name: str) -> Value:
    """`value` with rows of length one."""
    return graph.unary("LpNormalization", value, f"{name}/unit", axis=-1, p=2)


def _scaled(graph: Builder, query: Value, log_seen: np.ndarray[Any, Any]) -> Value:
    """(query + embedding) x softplus(temperature) x log of the number of keys seen."""
    _, heads, tokens, size = query.shape
    moved = graph.add(query, graph.weight("query_embedding", heads, 1, size), "query_embedded")
    warmth = activate(graph, graph.weight("temperature", heads, 1, 1), "softplus", "temperature_positive")
    scale = graph.once(f"log_seen_{tokens}", lambda: graph.constant("values", log_seen[:, None].copy()))
    return graph.multiply(moved, graph.multiply(warmth, scale, "scale"), "query_scaled")


def _keys_values(graph: Builder, value: Value, heads: int) -> tuple[Value, Value]:
    both = linear(graph, value, 2 * value.shape[-1], "key_value")
    key, content = graph.split(both, 2, name="key_value_parts")
    return unit(graph, split_heads(graph, key, heads, "key"), "key"), split_heads(graph, content, heads, "value")


def _attend(graph: Builder, query: Value, key: Value, content: Value, bias: Value) -> Value:
    scores = graph.add(graph.matmul(query, graph.transpose(key, (0, 1, 3, 2)), "scores"), bias, "biased")
    return graph.matmul(graph.unary("Softmax", scores, axis=-1), content, "context")


def _near_and_pooled(
    graph: Builder, value: Value, query: Value, scaled: Value, bias: Value, extent: int, heads: int, reduction: int
) -> Value:
    """One softmax over nine neighbours and the pooled grid; the neighbours also by learned tokens of each place."""
    batch, tokens, channels = value.shape
    size, pooled = channels // heads, (extent // reduction) ** 2
    shared = graph.path("key_value")
    with graph.sharing(shared):
        near = linear(graph, value, 2 * channels, "key_value")
    around = neighbours(graph, near, extent, 2 * heads)
    near_key, near_value = graph.split(around, 2, 1, "near_parts")
    near_key = unit(graph, near_key, "near_key")
    row = graph.unsqueeze(scaled, [3], "query_row")
    near_scores = graph.matmul(row, graph.transpose(near_key, (0, 1, 2, 4, 3)), "near_scores")
    near_scores = graph.reshape(near_scores, (batch, heads, tokens, NEIGHBOURS), "near_scores_flat")
    near_scores = graph.add(near_scores, graph.weight("near_bias", heads, 1, NEIGHBOURS), "near_biased")
    near_scores = graph.add(near_scores, _outside(graph, extent), "near_masked")
    with graph.scope("pooled"):
        grid = convolution(graph, grid_of(graph, value, extent, extent), channels, 1, "reduce", bias=True)
        grid = average_pool(graph, activate(graph, grid, "gelu"), reduction, reduction)
        shrunk = layer_norm(graph, tokens_of(graph, grid), "norm", 1e-5)
    with graph.sharing(shared):
        key, content = _keys_values(graph, shrunk, heads)
    far_scores = graph.add(graph.matmul(scaled, graph.transpose(key, (0, 1, 3, 2)), "far_scores"), bias, "far_biased")
    weights = graph.unary("Softmax", graph.concat([near_scores, far_scores], 3, "joint"), axis=-1)
    near_weights, far_weights = graph.split_sizes(weights, [NEIGHBOURS, pooled], 3, "near_far")
    places = graph.matmul(query, graph.weight("place_tokens", 1, heads, size, NEIGHBOURS), "places")
    places = graph.add(places, graph.weight("place_bias", heads, 1, NEIGHBOURS), "places_biased")
    near_weights = graph.unsqueeze(graph.add(near_weights, places, "near_weights"), [3], "near_row")
    near_context = graph.reshape(graph.matmul(near_weights, near_value, "near_context"), scaled.shape, "near_flat")
    return graph.add(near_context, graph.matmul(far_weights, content, "far_context"), "context")


def neighbours(graph: Builder, value: Value, extent: int, heads: int) -> Value:
    """The 3 x 3 tokens around each (batch, heads, tokens, 9, head size), zeros outside the grid."""
    batch, tokens, channels = value.shape
    grid = graph.reshape(value, (batch, extent, extent, channels), "grid")
    padded = graph.pad(grid, {1: (1, 1), 2: (1, 1)}, "padded")
    shifted = [
        graph.slice(graph.slice(padded, row, row + extent, 1, "rows"), column, column + extent, 2, "columns")
        for row in range(3) for column in range(3)
    ]  # fmt: skip
    together = graph.concat([graph.unsqueeze(part, [3], "one") for part in shifted], 3, "neighbours")
    apart = graph.reshape(together, (batch, tokens, NEIGHBOURS, heads, channels // heads), "heads")
    return graph.transpose(apart, (0, 3, 1, 2, 4), "neighbour_heads")


def _inside(extent: int) -> np.ndarray[Any, Any]:
    """Which of the nine neighbours of each token lie on the grid (tokens, 9)."""
    places = np.stack(np.meshgrid(np.arange(extent), np.arange(extent), indexing="ij"), -1).reshape(-1, 1, 2)
    steps = np.stack(np.meshgrid(np.arange(-1, 2), np.arange(-1, 2), indexing="ij"), -1).reshape(1, -1, 2)
    inside: np.ndarray[Any, Any] = np.all((places + steps >= 0) & (places + steps < extent), axis=-1)
    return inside


def _neighbours_inside(extent: int) -> np.ndarray[Any, Any]:
    return _inside(extent).sum(-1)


def _outside(graph: Builder, extent: int) -> Value:
    hidden = np.where(_inside(extent), np.float32(0), np.float32(-1e9))
    return graph.once(f"outside_{extent}", lambda: graph.constant("mask", hidden))


def distance_bias(graph: Builder, heads: int, queries: int, keys: int) -> Value:
    """A bias for each head, query and key of square grids (heads, queries^2, keys^2), by a perceptron of logarithmic
    distances. It depends on weights alone."""
    table, index = distance_table(queries, keys)
    with graph.scope("distance_bias"):
        far = graph.once(f"distances_{queries}_{keys}", lambda: graph.constant("table", table))
        places = graph.once(f"distance_index_{queries}_{keys}", lambda: graph.constant("index", index))
        inner = activate(graph, linear(graph, far, 512, "up"), "relu")
        by_distance = graph.transpose(linear(graph, inner, heads, "down"), (1, 0), "by_distance")
        flat = graph.cast(places, TensorProto.INT64, "places")
        shape = (heads, queries**2, keys**2)
        [bias] = graph.node("Gather", [by_distance, flat], [shape], "bias", axis=1)
        return bias


def distance_table(queries: int, keys: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Distinct distances (distances, 2), and the row of each query and key (queries^2, keys^2)."""
    centres = np.arange(queries).reshape(keys, -1).mean(1)
    line = (np.arange(queries)[:, None] - centres) / max(queries - 1, 1) * 8
    line = np.sign(line) * np.log2(np.abs(line) + 1) / math.log2(8)
    rows = np.repeat(np.repeat(line, queries, 0), keys, 1)
    columns = np.tile(line, (queries, keys))
    pairs = np.stack([rows.ravel(), columns.ravel()], 1).round(6)
    table, index = np.unique(pairs, axis=0, return_inverse=True)
    return table.astype(np.float32), index.reshape(queries**2, keys**2).astype(np.int16)
