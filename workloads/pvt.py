"""Pyramid Vision Transformer: four stages whose keys and values are taken at a reduced resolution.

Wang et al., ICCV 2021 (arXiv:2102.12122). Version 2 (Wang et al. 2022, arXiv:2106.13797) overlaps its patches, has a
depthwise convolution in its perceptrons instead of learned positions, and may pool keys and values to 7x7 ("linear").
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from workloads.blocks.attention import merge_heads, project_heads, scaled_dot_product
from workloads.blocks.convolution import adaptive_average_pool, convolution
from workloads.blocks.dense import classifier, layer_norm, linear, mlp
from workloads.blocks.embedding import (
    depthwise_feed_forward,
    grid_of,
    image_input,
    learned_token,
    patch_embedding,
    positioned,
    tokens_of,
)
from workloads.blocks.residual import encoder_blocks
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

Reduction = Literal["convolution", "pool"]

WIDTHS = (64, 128, 320, 512)
SLIM = (32, 64, 160, 256)
HEADS = (1, 2, 5, 8)
EXPANSIONS = (8, 8, 4, 4)
REDUCTIONS = (8, 4, 2, 1)
PATCHES = (4, 2, 2, 2)
POOLED = 7
"""Rows and columns of keys and values after pooling."""

block_norm = partial(layer_norm, epsilon=1e-6)

VARIANTS = {
    "pvt_tiny": {"depths": (2, 2, 2, 2)},
    "pvt_small": {"depths": (3, 4, 6, 3)},
    "pvt_medium": {"depths": (3, 4, 18, 3)},
    "pvt_large": {"depths": (3, 8, 27, 3)},
}

REDUCED = {"pvt_tiny": {"image": 64, "widths": (8, 16, 40, 64), "depths": (1, 1, 1, 1), "classes": 10}}

VARIANTS_2: Table = {
    "pvt_v2_b0": {"depths": (2, 2, 2, 2), "widths": SLIM},
    "pvt_v2_b1": {"depths": (2, 2, 2, 2)},
    "pvt_v2_b2": {"depths": (3, 4, 6, 3)},
    "pvt_v2_b2_li": {"depths": (3, 4, 6, 3), "reduction": "pool"},
    "pvt_v2_b3": {"depths": (3, 4, 18, 3)},
    "pvt_v2_b4": {"depths": (3, 8, 27, 3)},
    "pvt_v2_b5": {"depths": (3, 6, 40, 3), "expansions": (4, 4, 4, 4)},
}

SMALL: dict[str, Any] = {"widths": (8, 16, 40, 64), "depths": (1, 1, 1, 1), "classes": 10}

REDUCED_2: Table = {"pvt_v2_b2": {"image": 64, **SMALL}, "pvt_v2_b2_li": {"image": 224, **SMALL}}


@variants(VARIANTS, REDUCED)
def pvt(
    graph: Builder,
    batch: int,
    image: int,
    *,
    depths: Sequence[int],
    widths: Sequence[int] = WIDTHS,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    value = image_input(graph, batch, image, 32)
    for stage, depth in enumerate(depths):
        last = stage == len(depths) - 1
        with graph.scope(f"stage{stage}"):
            with graph.scope("embedding"):
                tokens = patch_embedding(graph, value, widths[stage], PATCHES[stage], "patches")
                extent = value.shape[2] // PATCHES[stage]
                tokens = layer_norm(graph, tokens, "norm")
                if last:
                    token = learned_token(graph, "class_token", batch, widths[stage])
                    tokens = graph.concat([token, tokens], 1, "tokens")
                tokens = positioned(graph, tokens)
            attend = partial(reduced_attention, graph, heads=HEADS[stage], reduction=REDUCTIONS[stage], extent=extent)
            feed = partial(mlp, graph, hidden=EXPANSIONS[stage] * widths[stage])
            tokens = encoder_blocks(graph, tokens, depth, attend, feed, block_norm)
            value = tokens if last else grid_of(graph, tokens, extent, extent)
    tokens = block_norm(graph, value, "norm")
    graph.output(classifier(graph, graph.take(tokens, 0, 1, "class_token"), classes), "logits")


@variants(VARIANTS_2, REDUCED_2)
def pvt_v2(
    graph: Builder,
    batch: int,
    image: int,
    *,
    depths: Sequence[int],
    widths: Sequence[int] = WIDTHS,
    expansions: Sequence[int] = EXPANSIONS,
    reduction: Reduction = "convolution",
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    value = image_input(graph, batch, image, 32)
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        with graph.scope(f"stage{stage}"):
            patch = PATCHES[stage]
            kernel = 2 * patch - 1
            grid = convolution(graph, value, width, kernel, "patches", patch, kernel // 2, bias=True)
            extent = grid.shape[2]
            tokens = layer_norm(graph, tokens_of(graph, grid), "embedding_norm")
            attend = partial(
                reduced_attention, graph, heads=HEADS[stage], reduction=REDUCTIONS[stage], extent=extent, kind=reduction
            )
            feed = partial(
                depthwise_feed_forward, graph, hidden=expansions[stage] * width, extents=(extent, extent),
                first="relu" if reduction == "pool" else "none",
            )  # fmt: skip
            tokens = block_norm(graph, encoder_blocks(graph, tokens, depth, attend, feed, block_norm), "norm")
            value = grid_of(graph, tokens, extent, extent)
    graph.output(classifier(graph, graph.mean(tokens, (1,), "pool"), classes), "logits")


def reduced_attention(
    graph: Builder, value: Value, heads: int, reduction: int, extent: int, kind: Reduction = "convolution"
) -> Value:
    """Attention whose keys and values come from the `extent` x `extent` grid shrunk by a convolution of stride
    `reduction`, or pooled to 7x7 and projected."""
    width = value.shape[-1]
    with graph.scope("attention"):
        [query] = project_heads(graph, value, width, heads, "query")
        source = value
        if kind == "pool" or reduction > 1:
            with graph.scope("reduction"):
                source = _reduced(graph, grid_of(graph, value, extent, extent), reduction, kind)
        key, content = project_heads(graph, source, width, heads, "key", "value")
        context = merge_heads(graph, scaled_dot_product(graph, query, key, content))
        return linear(graph, context, width, "output")


def _reduced(graph: Builder, grid: Value, reduction: int, kind: Reduction) -> Value:
    """Normalised tokens of a grid, fewer than its pixels."""
    width = grid.shape[1]
    if kind == "convolution":
        shrunk = convolution(graph, grid, width, reduction, "convolution", stride=reduction, bias=True)
        return layer_norm(graph, tokens_of(graph, shrunk), "norm")
    pooled = adaptive_average_pool(graph, grid, (POOLED, POOLED))
    shrunk = convolution(graph, pooled, width, 1, "convolution", bias=True)
    return graph.unary("Gelu", layer_norm(graph, tokens_of(graph, shrunk), "norm"))
