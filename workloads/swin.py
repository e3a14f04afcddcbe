"""Swin Transformer: four stages of attention inside windows, which every other block shifts by half a window.

Liu et al., ICCV 2021 (arXiv:2103.14030). Version 2 (Liu et al., CVPR 2022, arXiv:2111.09883) normalises after each
branch, compares queries and keys by cosine, and makes position biases by a perceptron. SwinMLP, of the authors'
repository, mixes the tokens of a window by a matrix for each head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from codesign.errors import BadParameter
from workloads.blocks.attention import merge_heads, project_heads, split_heads
from workloads.blocks.convolution import convolution
from workloads.blocks.dense import classifier, layer_norm, linear, mlp
from workloads.blocks.embedding import channels_last, image_input, merge_patches
from workloads.blocks.residual import residual
from workloads.blocks.temporal import temporal_convolution
from workloads.blocks.window import (
    Extents,
    gather_offsets,
    in_windows,
    partition,
    relative_bias,
    unpartition,
    window_attention,
)
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

Mixing = Literal["attention", "cosine", "matrix"]

PATCH = 4
BIAS_HIDDEN = 512
"""Hidden layer of the perceptron that makes version 2's position biases."""
MOST_SCALE = math.log(100)
"""Logarithm of the largest factor on cosines."""

SHALLOW, DEEP = (2, 2, 6, 2), (2, 2, 18, 2)

VARIANTS: Table = {
    "swin_t": {"width": 96, "depths": SHALLOW},
    "swin_s": {"width": 96, "depths": DEEP},
    "swin_b": {"width": 128, "depths": DEEP},
    "swin_b_384": {"width": 128, "depths": DEEP, "window": 12},
    "swin_l": {"width": 192, "depths": DEEP},
    "swin_l_384": {"width": 192, "depths": DEEP, "window": 12},
    "swinv2_t_w8_256": {"width": 96, "depths": SHALLOW, "window": 8, "mixing": "cosine"},
    "swinv2_s_w8_256": {"width": 96, "depths": DEEP, "window": 8, "mixing": "cosine"},
    "swinv2_b_w8_256": {"width": 128, "depths": DEEP, "window": 8, "mixing": "cosine"},
    "swinv2_t_w16_256": {"width": 96, "depths": SHALLOW, "window": 16, "mixing": "cosine"},
    "swinv2_b_w16_256": {"width": 128, "depths": DEEP, "window": 16, "mixing": "cosine"},
    "swin_mlp_t_c24": {"width": 96, "depths": SHALLOW, "window": 8, "head_size": 24, "mixing": "matrix"},
    "swin_mlp_b": {"width": 128, "depths": DEEP, "mixing": "matrix"},
}

SMALL: dict[str, Any] = {"image": 64, "width": 16, "head_size": 8, "depths": (2, 2), "window": 4, "classes": 10}

REDUCED = dict.fromkeys(("swin_t", "swinv2_t_w8_256", "swin_mlp_b"), SMALL)


@variants(VARIANTS, REDUCED)
def swin(
    graph: Builder,
    batch: int,
    image: int,
    *,
    width: int,
    depths: Sequence[int],
    window: int = 7,
    head_size: int = 32,
    mixing: Mixing = "attention",
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    grid = patches(graph, batch, image, width, len(depths))
    for stage, depth in enumerate(depths):
        with graph.scope(f"stage{stage}"):
            if stage:
                grid = downsample(graph, grid, norm_first=mixing != "cosine")
            fitted = window_of(graph, grid, window)
            for block in range(depth):
                shift = fitted // 2 if block % 2 and fitted < grid.shape[1] else 0
                with graph.scope(f"block{block}"):
                    grid = _block(graph, grid, fitted, shift, grid.shape[-1] // head_size, mixing)
    pooled = graph.mean(layer_norm(graph, grid, "norm"), (1, 2), "pool")
    graph.output(classifier(graph, pooled, classes), "logits")


def patches(graph: Builder, batch: int, image: int, width: int, stages: int) -> Value:
    """The image as a grid of normalised patches of 4x4 pixels: (batch, image / 4, image / 4, width)."""
    pixels = image_input(graph, batch, image, PATCH << (stages - 1))
    with graph.scope("patches"):
        return layer_norm(
            graph,
            channels_last(graph, convolution(graph, pixels, width, PATCH, "projection", PATCH, bias=True)),
            "norm",
        )


def downsample(graph: Builder, grid: Value, norm_first: bool = True) -> Value:
    """Half the extents, twice the channels: 2x2 neighbours, normalised and projected, or projected and normalised."""
    width = 2 * grid.shape[-1]
    with graph.scope("downsample"):
        merged = merge_patches(graph, grid)
        if norm_first:
            return linear(graph, layer_norm(graph, merged, "norm"), width, "reduction", bias=False)
        return layer_norm(graph, linear(graph, merged, width, "reduction", bias=False), "norm")


def window_of(graph: Builder, grid: Value, window: int) -> int:
    """The window, or the grid's extent where that is smaller. Raises BadParameter when windows do not fill the grid."""
    extent = grid.shape[1]
    fitted = min(window, extent)
    if extent % fitted:
        raise BadParameter(
            f"workload '{graph.name}': windows of {fitted} do not fill a stage's grid of {extent}x{extent}"
        )
    return fitted


def _block(graph: Builder, grid: Value, window: int, shift: int, heads: int, mixing: Mixing) -> Value:
    """x + mix(norm(x)), then x + mlp(norm(x)); version 2 normalises after mix and mlp."""
    if mixing == "matrix":
        mix = partial(_matrix_in_windows, graph, window=window, shift=shift, heads=heads)
    else:
        attend = attention_with_bias if mixing == "attention" else cosine_attention
        mixer = partial(attend, graph, heads=heads, window=(window, window))
        mix = partial(in_windows, graph, window=window, shift=shift, mixer=mixer)
    after = mixing == "cosine"
    grid = residual(graph, grid, mix, 1, layer_norm, after=after)
    return residual(graph, grid, partial(mlp, graph, hidden=4 * grid.shape[-1]), 2, layer_norm, after=after)


def attention_with_bias(graph: Builder, windows: Value, mask: Value | None, heads: int, window: Extents) -> Value:
    """Attention inside windows with a learned bias for each relative position."""
    width = windows.shape[-1]
    with graph.scope("attention"):
        query, key, content = project_heads(graph, windows, width, heads, "query", "key", "value")
        bias = relative_bias(graph, heads, window)
        context = window_attention(graph, query, key, content, bias, mask)
        return linear(graph, merge_heads(graph, context), width, "output")


def cosine_attention(graph: Builder, windows: Value, mask: Value | None, heads: int, window: Extents) -> Value:
    """Attention by the cosine of queries and keys times a learned factor for each head, keys without a bias."""
    width = windows.shape[-1]
    with graph.scope("attention"):
        parts = graph.split(linear(graph, windows, 3 * width, "query_key_value", bias=False), 3)
        query = graph.add(parts[0], graph.weight("query/bias", width))
        content = graph.add(parts[2], graph.weight("value/bias", width))
        query, key, content = (
            split_heads(graph, part, heads, role)
            for part, role in ((query, "query"), (parts[1], "key"), (content, "value"))
        )
        key = graph.unary("LpNormalization", key, axis=-1, p=2)
        most = graph.scalar("most_scale", MOST_SCALE)
        scale = graph.unary("Exp", graph.binary("Min", graph.weight("log_scale", heads, 1, 1), most), "scale")
        query = graph.multiply(graph.unary("LpNormalization", query, axis=-1, p=2), scale, "query/scaled")
        bias = _continuous_bias(graph, heads, window[0])
        context = window_attention(graph, query, key, content, bias, mask, scale=1.0)
        return linear(graph, merge_heads(graph, context), width, "output")


def _continuous_bias(graph: Builder, heads: int, window: int) -> Value:
    """16 sigmoid(mlp(offset)) of each pair of a window's tokens, offsets on a logarithmic scale: (heads, tokens,
    tokens)."""
    span = np.arange(1 - window, window) * 8 / max(window - 1, 1)
    scaled = (np.sign(span) * np.log2(np.abs(span) + 1) / 3).astype(np.float32)
    offsets = np.stack(np.meshgrid(scaled, scaled, indexing="ij"), axis=-1).reshape(-1, 2)
    with graph.scope("positions"):
        coordinates = graph.once(f"log_offsets_{window}", lambda: graph.constant("table", offsets))
        hidden = graph.unary("Relu", linear(graph, coordinates, BIAS_HIDDEN, "up"))
        table = linear(graph, hidden, heads, "down", bias=False)
        gathered = graph.unary("Sigmoid", gather_offsets(graph, table, (window, window)))
        return graph.multiply(gathered, graph.scalar("largest", 16.0))


def _matrix_in_windows(graph: Builder, grid: Value, window: int, shift: int, heads: int) -> Value:
    """Tokens of each window mixed by a matrix and a bias for each head. Shifted windows start outside the grid, which
    is padded with zeros instead of rolled."""
    extent = grid.shape[1]
    before = window - shift if shift else 0
    padded = graph.pad(grid, {1: (before, shift), 2: (before, shift)}, "shift")
    windows = partition(graph, padded, (window, window))
    count, tokens, width = windows.shape
    with graph.scope("matrix"):
        apart = graph.reshape(split_heads(graph, windows, heads, "heads"), (count, heads * tokens, width // heads))
        mixed = temporal_convolution(graph, apart, heads * tokens, 1, "mix", groups=heads)
        windows = merge_heads(graph, graph.reshape(mixed, (count, heads, tokens, width // heads)))
    mixed_grid = unpartition(graph, windows, (padded.shape[1], padded.shape[2]), (window, window))
    for axis in (1, 2) if shift else ():
        mixed_grid = graph.slice(mixed_grid, before, before + extent, axis, "unshift")
    return mixed_grid
