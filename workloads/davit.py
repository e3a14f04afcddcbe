"""DaViT: attention inside windows and attention between channels take turns.

Ding et al., ECCV 2022 (arXiv:2204.03645).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from workloads.blocks.attention import encoder_attention, merge_heads, project_heads
from workloads.blocks.convolution import channel_norm, convolution, depthwise
from workloads.blocks.dense import classifier, layer_norm, linear, mlp
from workloads.blocks.embedding import channels_first, channels_last, image_input
from workloads.blocks.residual import residual
from workloads.blocks.window import cut, filled, partition, unpartition
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

VARIANTS: Table = {
    "davit_tiny": {"width": 96, "depths": (1, 1, 3, 1)},
    "davit_small": {"width": 96, "depths": (1, 1, 9, 1)},
    "davit_base": {"width": 128, "depths": (1, 1, 9, 1)},
    "davit_large": {"width": 192, "depths": (1, 1, 9, 1)},
    "davit_huge": {"width": 256, "depths": (1, 1, 9, 1)},
    "davit_giant": {"width": 384, "depths": (1, 1, 12, 3)},
}

SMALL: dict[str, Any] = {"image": 64, "width": 8, "depths": (1, 1, 1, 1), "head_size": 4, "window": 3, "classes": 10}

REDUCED = {"davit_tiny": SMALL}


@variants(VARIANTS, REDUCED)
def davit(
    graph: Builder,
    batch: int,
    image: int,
    *,
    width: int,
    depths: Sequence[int],
    head_size: int = 32,
    window: int = 7,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes). A unit of depth is a block of windows and one of
    channels."""
    value = convolution(graph, image_input(graph, batch, image, 32), width, 7, "stem", 4, 3, bias=True)
    value = channel_norm(graph, value, "stem_norm", 1e-5)
    for stage, depth in enumerate(depths):
        channels = width << stage
        with graph.scope(f"stage{stage}"):
            if stage:
                value = channel_norm(graph, value, "downsample_norm", 1e-5)
                value = convolution(graph, value, channels, 2, "downsample", stride=2, bias=True)
            spatial = partial(_windows, graph, heads=channels // head_size, window=window)
            between = partial(channel_attention, graph, heads=channels // head_size)
            for block in range(depth):
                for name, mix in (("spatial", spatial), ("channel", between)):
                    with graph.scope(f"block{block}/{name}"):
                        value = _block(graph, value, mix)
    pooled = layer_norm(graph, graph.mean(value, (2, 3), "pool"), "norm")
    graph.output(classifier(graph, pooled, classes), "logits")


def _block(graph: Builder, value: Value, mix: Any) -> Value:
    """x + depthwise(x), x + mix(norm(x)), x + depthwise(x), x + mlp(norm(x))."""
    value = graph.add(value, depthwise(graph, value, 3, "position1"), "positioned1")
    grid = residual(graph, channels_last(graph, value), mix, 1, layer_norm)
    value = channels_first(graph, grid)
    value = graph.add(value, depthwise(graph, value, 3, "position2"), "positioned2")
    feed = partial(mlp, graph, hidden=4 * grid.shape[-1])
    return channels_first(graph, residual(graph, channels_last(graph, value), feed, 2, layer_norm))


def _windows(graph: Builder, grid: Value, heads: int, window: int) -> Value:
    """Attention inside windows; zeros fill the last ones where the grid is no multiple of them."""
    padded, size = filled(graph, grid, window), (window, window)
    attended = encoder_attention(graph, partition(graph, padded, size), heads)
    result = unpartition(graph, attended, (padded.shape[1], padded.shape[2]), size)
    return cut(graph, result, (grid.shape[1], grid.shape[2]))


def channel_attention(graph: Builder, grid: Value, heads: int) -> Value:
    """Attention between the channels of a head, softmax(k^T v / sqrt(head size)) q^T: linear in the pixels."""
    batch, height, columns, width = grid.shape
    with graph.scope("attention"):
        tokens = graph.reshape(grid, (batch, height * columns, width), "tokens")
        query, key, content = project_heads(graph, tokens, width, heads, "query", "key", "value")
        key = graph.multiply(key, graph.scalar("scale", (width // heads) ** -0.5), "key/scaled")
        scores = graph.matmul(graph.transpose(key, (0, 1, 3, 2)), content, "scores")
        mixed = graph.matmul(graph.unary("Softmax", scores, axis=-1), graph.transpose(query, (0, 1, 3, 2)), "context")
        merged = merge_heads(graph, graph.transpose(mixed, (0, 1, 3, 2)))
        return graph.reshape(linear(graph, merged, width, "output"), grid.shape, "grid")
