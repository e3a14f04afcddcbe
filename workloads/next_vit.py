"""Next-ViT: blocks of grouped convolutions, and after every few of them one of pooled attention; batch norms and ReLU
only. Li et al., 2022 (arXiv:2207.05501).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from workloads.blocks.attention import merge_heads, scaled_dot_product, split_heads
from workloads.blocks.convolution import (
    average_pool,
    batch_norm,
    conv_feed_forward,
    conv_norm,
    convolution,
    pooled_classifier,
)
from workloads.blocks.dense import linear
from workloads.blocks.embedding import grid_of, image_input, tokens_of
from workloads.blocks.residual import residual
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

STEM = ((64, 2), (32, 1), (64, 1), (64, 2))
"""Channels and stride of each convolution."""
REDUCTIONS = (8, 4, 2, 1)
WIDTHS = ((96, 96), (192, 256), (384, 512), (768, 1024))
"""Channels of a stage's convolution blocks and of its attention blocks."""
GROUP = 5
"""Blocks of the third stage up to each that attends; in the others only the last does, in the first none."""
ATTENDING = 0.75
"""Part of an attention block's channels that attend."""

VARIANTS: Table = {
    f"nextvit_{size}{image}": {"depths": (3, 4, depth, 3)}
    for image in ("", "_384")
    for size, depth in (("small", 10), ("base", 20), ("large", 30))
}

SMALL: dict[str, Any] = {
    "image": 64, "stem": ((16, 2), (8, 1), (16, 1), (16, 2)), "widths": ((16, 16), (16, 32), (32, 32), (32, 64)),
    "depths": (1, 2, 5, 2), "head_size": 8, "classes": 10,
}  # fmt: skip

REDUCED = {"nextvit_small": SMALL}


@variants(VARIANTS, REDUCED)
def nextvit(
    graph: Builder,
    batch: int,
    image: int,
    *,
    depths: Sequence[int],
    stem: Sequence[tuple[int, int]] = STEM,
    widths: Sequence[tuple[int, int]] = WIDTHS,
    head_size: int = 32,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    value = image_input(graph, batch, image, 32)
    for layer, (channels, stride) in enumerate(stem):
        value = conv_norm(graph, value, channels, 3, f"stem{layer}", stride, padding=1)
    for stage, (depth, (plain, attending)) in enumerate(zip(depths, widths, strict=True)):
        period = GROUP if stage == 2 else depth
        for block in range(depth):
            stride = 2 if stage and not block else 1
            with graph.scope(f"stage{stage}/block{block}"):
                if stage and not (block + 1) % period:
                    value = _attention_block(graph, value, attending, stride, REDUCTIONS[stage], head_size)
                else:
                    value = _convolution_block(graph, value, plain, stride, head_size)
    graph.output(pooled_classifier(graph, batch_norm(graph, value), classes), "logits")


def _embedded(graph: Builder, value: Value, channels: int, stride: int, name: str) -> Value:
    """Means of 2x2 pixels where the stride is two, then other channels where they change."""
    if stride == 2:
        value = average_pool(graph, value, 2, 2, name=f"{name}/pool", ceil=True)
    elif value.shape[1] == channels:
        return value
    return conv_norm(graph, value, channels, 1, name, activation="none")


def _convolution_block(graph: Builder, value: Value, channels: int, stride: int, head_size: int) -> Value:
    """x + convolution(x), then x + mlp(norm(x)) with a hidden layer of three widths."""
    value = _embedded(graph, value, channels, stride, "embedding")
    value = residual(graph, value, partial(_grouped, graph, head_size=head_size), 1)
    return residual(graph, value, partial(_feed, graph, expansion=3), 2, batch_norm)


def _attention_block(graph: Builder, value: Value, channels: int, stride: int, reduction: int, head_size: int) -> Value:
    """Attention in most of the channels, convolution of a projection of its result in the others, then both through a
    perceptron with a hidden layer of two widths."""
    attending = _multiple(channels * ATTENDING, head_size)
    value = _embedded(graph, value, attending, stride, "embedding")
    attend = partial(pooled_attention, graph, reduction=reduction, head_size=head_size)
    value = residual(graph, value, attend, 1, batch_norm)
    rest = _embedded(graph, value, channels - attending, 1, "projection")
    rest = residual(graph, rest, partial(_grouped, graph, head_size=head_size), "_projection")
    value = graph.concat([value, rest], 1, "both")
    return residual(graph, value, partial(_feed, graph, expansion=2), 2, batch_norm)


def _grouped(graph: Builder, value: Value, head_size: int) -> Value:
    """A 3x3 convolution in groups of a head's size, norm, ReLU, and a projection across groups."""
    channels = value.shape[1]
    with graph.scope("convolution"):
        inner = conv_norm(graph, value, channels, 3, "grouped", padding=1, groups=channels // head_size)
        return convolution(graph, inner, channels, 1, "projection")


def pooled_attention(graph: Builder, value: Value, reduction: int, head_size: int) -> Value:
    """Attention whose keys and values come from the means of `reduction`^2 tokens in a row, normalised."""
    tokens, extents = tokens_of(graph, value), value.shape[2:]
    width, heads = value.shape[1], value.shape[1] // head_size
    with graph.scope("attention"):
        source = tokens
        if reduction > 1:
            source = _pooled_tokens(graph, tokens, reduction**2)
        query, key, content = (
            split_heads(graph, linear(graph, origin, width, role), heads, role)
            for role, origin in (("query", tokens), ("key", source), ("value", source))
        )
        context = merge_heads(graph, scaled_dot_product(graph, query, key, content))
        return grid_of(graph, linear(graph, context, width, "output"), *extents)


def _pooled_tokens(graph: Builder, tokens: Value, count: int) -> Value:
    """The mean of every `count` tokens, normalised by the statistics of each channel; a rest is left out."""
    batch, length, width = tokens.shape
    with graph.scope("pool"):
        rows = graph.transpose(tokens, (0, 2, 1))
        shape = (batch, width, length // count)
        [pooled] = graph.node("AveragePool", [rows], [shape], "means", kernel_shape=[count], strides=[count])
        return graph.transpose(batch_norm(graph, pooled), (0, 2, 1))


def _feed(graph: Builder, value: Value, expansion: int) -> Value:
    return conv_feed_forward(graph, value, expansion * value.shape[1], activation="relu")


def _multiple(value: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `value`, at least one."""
    return max(divisor, int(value + divisor / 2) // divisor * divisor)
