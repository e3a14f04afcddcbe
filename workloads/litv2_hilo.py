"""LITv2: convolutional perceptrons without attention in the first stages, then HiLo attention, whose heads look either
inside small windows or at a pooled image; deformable convolutions merge patches. Pan et al., NeurIPS 2022
(arXiv:2205.13213).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from workloads.blocks.activation import activate
from workloads.blocks.attention import merge_heads, project_heads, scaled_dot_product
from workloads.blocks.convolution import average_pool, batch_norm, convolution
from workloads.blocks.deformable import deformable_convolution
from workloads.blocks.dense import classifier, layer_norm, linear
from workloads.blocks.embedding import (
    channels_first,
    channels_last,
    depthwise_feed_forward,
    grid_of,
    image_input,
    tokens_of,
)
from workloads.blocks.residual import residual
from workloads.blocks.window import partition, unpartition
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

WINDOWS = (0, 0, 2, 1)
"""Window of each stage's local heads; 0: the stage has no attention, 1: it has no local heads."""

SMALL_DEPTHS, DEEP = (2, 2, 6, 2), (2, 2, 18, 2)

VARIANTS: Table = {
    "litv2_s": {"width": 96, "depths": SMALL_DEPTHS},
    "litv2_m": {"width": 96, "depths": DEEP},
    "litv2_b": {"width": 128, "depths": DEEP},
    "litv2_b_384": {"width": 128, "depths": DEEP},
    "litv2_s_alpha0": {"width": 96, "depths": SMALL_DEPTHS, "alpha": 0.0},
    **{
        f"litv2_s_alpha{alpha}": {"width": 96, "depths": SMALL_DEPTHS, "alpha": alpha}
        for alpha in (0.2, 0.4, 0.5, 0.7, 0.9, 1.0)
    },
}

SMALL: dict[str, Any] = {"image": 64, "width": 8, "depths": (1, 1, 1, 1), "head_size": 8, "classes": 10}

REDUCED: Table = {"litv2_s": {**SMALL, "alpha": 0.5}}


@variants(VARIANTS, REDUCED)
def litv2(
    graph: Builder,
    batch: int,
    image: int,
    *,
    width: int,
    depths: Sequence[int],
    alpha: float = 0.9,
    head_size: int = 32,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes). `alpha` is the part of heads that look at the pooled
    image."""
    value = convolution(graph, image_input(graph, batch, image, 32), width, 4, "patches", 4, bias=True)
    extents = (value.shape[2], value.shape[3])
    tokens = layer_norm(graph, tokens_of(graph, value), "patches_norm")
    for stage, depth in enumerate(depths):
        channels = width << stage
        with graph.scope(f"stage{stage}"):
            if stage:
                tokens = _merged(graph, grid_of(graph, tokens, *extents), channels)
                extents = (extents[0] // 2, extents[1] // 2)
            attend = partial(
                hilo_attention, graph, extents=extents, heads=channels // head_size, alpha=alpha, window=WINDOWS[stage]
            )
            feed = partial(depthwise_feed_forward, graph, hidden=4 * channels, extents=extents)
            for block in range(depth):
                with graph.scope(f"block{block}"):
                    if WINDOWS[stage]:
                        tokens = residual(graph, tokens, attend, 1, layer_norm)
                    tokens = residual(graph, tokens, feed, 2, layer_norm)
    pooled = graph.mean(layer_norm(graph, tokens, "norm"), (1,), "pool")
    graph.output(classifier(graph, pooled, classes), "logits")


@variants({"hilo_layer": {}}, {"hilo_layer": {"side": 4, "width": 32, "heads": 4}})
def hilo_layer(
    graph: Builder, batch: int, side: int, *, width: int = 384, heads: int = 12, window: int = 2, alpha: float = 0.5
) -> None:
    """One layer of HiLo attention on tokens (batch, side x side, width)."""
    tokens = graph.input("tokens", (batch, side * side, width))
    graph.output(hilo_attention(graph, tokens, (side, side), heads, alpha, window), "attended")


def hilo_attention(
    graph: Builder, tokens: Value, extents: tuple[int, int], heads: int, alpha: float, window: int
) -> Value:
    """High-frequency heads, inside windows, beside `alpha` low-frequency ones, whose keys and values come from each
    window's mean. With a window of one token all heads are ordinary ones."""
    size = tokens.shape[-1] // heads
    low = heads if window == 1 else int(heads * alpha)
    with graph.scope("attention"):
        parts = [_high(graph, tokens, extents, heads - low, size, window)] if low < heads else []
        parts += [_low(graph, tokens, extents, low, size, window)] if low else []
        return parts[0] if len(parts) == 1 else graph.concat(parts, 2, "high_and_low")


def _high(graph: Builder, tokens: Value, extents: tuple[int, int], heads: int, size: int, window: int) -> Value:
    grid = channels_last(graph, grid_of(graph, tokens, *extents))
    windows = partition(graph, grid, (window, window))
    with graph.scope("high"):
        query, key, content = project_heads(graph, windows, heads * size, heads, "query", "key", "value")
        context = merge_heads(graph, scaled_dot_product(graph, query, key, content))
        windows = linear(graph, context, heads * size, "output")
    return tokens_of(graph, channels_first(graph, unpartition(graph, windows, extents, (window, window))))


def _low(graph: Builder, tokens: Value, extents: tuple[int, int], heads: int, size: int, window: int) -> Value:
    with graph.scope("low"):
        [query] = project_heads(graph, tokens, heads * size, heads, "query")
        source = tokens
        if window > 1:
            source = tokens_of(graph, average_pool(graph, grid_of(graph, tokens, *extents), window, window))
        key, content = project_heads(graph, source, heads * size, heads, "key", "value")
        context = merge_heads(graph, scaled_dot_product(graph, query, key, content))
        return linear(graph, context, heads * size, "output")


def _merged(graph: Builder, value: Value, channels: int) -> Value:
    """Half the extents by a deformable 2x2 convolution with norm and GELU, as tokens."""
    with graph.scope("merge"):
        merged = deformable_convolution(graph, value, channels, 2, "convolution", stride=2)
        return tokens_of(graph, activate(graph, batch_norm(graph, merged), "gelu"))
