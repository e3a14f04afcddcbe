"""FcaFormer: later blocks of a stage also attend to a few tokens that every earlier block of it left behind.

Zhang, Hu and Wang, ICCV 2023 (arXiv:2211.07198). Two stages of ConvNeXt blocks come before two that attend.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from workloads.blocks.attention import merge_heads, scaled_dot_product, split_heads
from workloads.blocks.convnext import convnext_block
from workloads.blocks.convolution import conv_norm, convolution
from workloads.blocks.dense import classifier, layer_norm, linear, mlp
from workloads.blocks.embedding import grid_of, image_input, patch_embedding, positioned, tokens_of
from workloads.blocks.residual import residual
from workloads.blocks.window import distance_bias
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

EXPANSION = 4
KEPT_STRIDE = 4
"""Pixels between two tokens that a block leaves behind."""

block_norm = partial(layer_norm, epsilon=1e-6)

VARIANTS: Table = {
    "fcaformer_l1": {"widths": (64, 128, 192, 320), "depths": (2, 2, 6, 2), "heads": (0, 0, 6, 10)},
    "fcaformer_l2": {"widths": (96, 192, 320, 480), "depths": (2, 2, 7, 2), "heads": (0, 0, 10, 15)},
    "fcaformer_l3": {"widths": (96, 192, 320, 512), "depths": (3, 6, 12, 3), "heads": (0, 0, 10, 16)},
    "fcaformer_l4": {"widths": (128, 256, 512, 768), "depths": (3, 6, 12, 3), "heads": (0, 0, 16, 24)},
}

REDUCED: Table = {
    "fcaformer_l1": {
        "image": 96, "widths": (16, 24, 32, 48), "depths": (1, 1, 3, 2), "heads": (0, 0, 2, 3), "classes": 10,
    }
}  # fmt: skip

PLAIN: Table = {"fcaformer_l0_plain": {"width": 192, "heads": 3, "layers": 12}}

PLAIN_REDUCED: Table = {"fcaformer_l0_plain": {"image": 96, "width": 48, "layers": 3, "classes": 10}}


@variants(VARIANTS, REDUCED)
def fcaformer(
    graph: Builder,
    batch: int,
    image: int,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    heads: Sequence[int],
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes). A stage without heads convolves."""
    value = image_input(graph, batch, image, 32)
    with graph.scope("stem"):
        value = conv_norm(graph, value, widths[0] // 2, 3, "layer0", 2, 1, activation="gelu")
        value = conv_norm(graph, value, widths[0], 3, "layer1", 2, 1, activation="none")
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        with graph.scope(f"stage{stage}"):
            value = downsample(graph, value, width) if stage else value
            if heads[stage]:
                value = attending_blocks(graph, value, heads[stage], depth)
            else:
                for block in range(depth):
                    with graph.scope(f"block{block}"):
                        value = convnext_block(graph, value)
    graph.output(head(graph, value, classes), "logits")


@variants(PLAIN, PLAIN_REDUCED)
def plain_fcaformer(
    graph: Builder, batch: int, image: int, *, width: int, heads: int, layers: int, patch: int = 16, classes: int = 1000
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes): DeiT's tokens, one stage of attending blocks."""
    pixels = image_input(graph, batch, image, patch)
    tokens = positioned(graph, patch_embedding(graph, pixels, width, patch, "patches"))
    grid = grid_of(graph, tokens, image // patch, image // patch)
    graph.output(head(graph, attending_blocks(graph, grid, heads, layers), classes), "logits")


def head(graph: Builder, grid: Value, classes: int) -> Value:
    """The mean of all tokens, normalised and classified."""
    pooled = graph.mean(tokens_of(graph, grid), (1,), "pool")
    return classifier(graph, block_norm(graph, pooled, "norm"), classes)


def attending_blocks(graph: Builder, grid: Value, heads: int, depth: int) -> Value:
    """A stage of blocks, each of which attends to tokens that all before it left behind."""
    kept: list[Value] = []
    for block in range(depth):
        with graph.scope(f"block{block}"):
            grid = attending_block(graph, grid, kept, heads, last=block == depth - 1)
    return grid


def downsample(graph: Builder, value: Value, width: int) -> Value:
    """Half the extent, `width` channels: pointwise, strided depthwise and pointwise convolution."""
    with graph.scope("downsample"):
        value = conv_norm(graph, value, width, 1, "expand", activation="gelu")
        value = conv_norm(graph, value, width, 3, "depthwise", 2, 1, width, activation="gelu")
        return conv_norm(graph, value, width, 1, "project", activation="none")


def attending_block(graph: Builder, grid: Value, kept: list[Value], heads: int, last: bool) -> Value:
    """Attention to the grid and to `kept` tokens of earlier blocks, to which this one adds its own unless it is the
    last; then a convolution and feed-forward layers."""
    extents, channels = (grid.shape[2], grid.shape[3]), grid.shape[1]
    attend = partial(forward_cross_attention, graph, kept=tuple(kept), heads=heads, extents=extents)
    tokens = residual(graph, tokens_of(graph, grid), attend, 1, block_norm, layer_scale=True)
    grid = grid_of(graph, tokens, *extents)
    if not last:
        left = convolution(graph, grid, channels, 7, "kept", KEPT_STRIDE, 3, channels)
        kept.append(tokens_of(graph, left))
    grid = conv_norm(graph, grid, channels, 3, "local", 1, 1, channels, activation="none")

    def feed(value: Value) -> Value:
        return mlp(graph, block_norm(graph, value, "norm3"), EXPANSION * channels)

    tokens = residual(graph, tokens_of(graph, grid), feed, 2, block_norm, layer_scale=True)
    return grid_of(graph, tokens, *extents)


def forward_cross_attention(
    graph: Builder, value: Value, kept: Sequence[Value], heads: int, extents: tuple[int, int]
) -> Value:
    """Attention of tokens to themselves, with a learned bias for their distance, and to `kept` ones, each scaled by a
    learned number, with a bias for each head. One projection makes queries, keys and values of both."""
    _, count, width = value.shape
    with graph.scope("attention"):
        bias = graph.unsqueeze(distance_bias(graph, heads, extents), [0])
        tokens = value
        if kept:
            crossing = graph.concat(kept, 1, "kept") if len(kept) > 1 else kept[0]
            scale = graph.weight("kept_scale", 1, crossing.shape[1], 1)
            crossing = block_norm(graph, graph.multiply(crossing, scale, "kept_scaled"), "kept_norm")
            tokens = graph.concat([value, crossing], 1, "tokens")
            other = graph.expand(graph.weight("kept_bias", 1, heads, 1, 1), (1, heads, count, crossing.shape[1]))
            bias = graph.concat([bias, other], 3, "bias")
        parts = graph.split(linear(graph, tokens, 3 * width, "query_key_value"), 3)
        query, key, content = (
            split_heads(graph, part, heads, role) for part, role in zip(parts, ("query", "key", "value"), strict=True)
        )
        query = graph.slice(query, 0, count, 2, "own_queries") if kept else query
        context = merge_heads(graph, scaled_dot_product(graph, query, key, content, bias))
        return linear(graph, context, width, "output")
