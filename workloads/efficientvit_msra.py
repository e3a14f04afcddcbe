"""EfficientViT: few attentions, each of heads that see a part of the channels and what the head before them found,
between cheap perceptrons and depthwise convolutions. Liu et al., CVPR 2023 (arXiv:2305.07027).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from workloads.blocks.activation import Activation, activate
from workloads.blocks.attention import scaled_dot_product
from workloads.blocks.convolution import conv_feed_forward, conv_norm, pooled_classifier, squeeze_excite
from workloads.blocks.embedding import channels_first, channels_last, grid_of, image_input, tokens_of
from workloads.blocks.residual import residual
from workloads.blocks.window import cut, distance_bias, filled, partition, unpartition
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

KEY_SIZE = 16
STEM_SHARES = (8, 4, 2, 1)
"""First width, in that of each of the four convolutions of the stem."""
KERNELS = (7, 5, 3, 3)

VARIANTS: Table = {
    "efficientvit_m0": {"widths": (64, 128, 192), "depths": (1, 2, 3), "heads": (4, 4, 4), "kernels": (5, 5, 5, 5)},
    "efficientvit_m1": {"widths": (128, 144, 192), "depths": (1, 2, 3), "heads": (2, 3, 3)},
    "efficientvit_m2": {"widths": (128, 192, 224), "depths": (1, 2, 3), "heads": (4, 3, 2)},
    "efficientvit_m3": {"widths": (128, 240, 320), "depths": (1, 2, 3), "heads": (4, 3, 4), "kernels": (5, 5, 5, 5)},
    "efficientvit_m4": {"widths": (128, 256, 384), "depths": (1, 2, 3), "heads": (4, 4, 4)},
    "efficientvit_m5": {"widths": (192, 288, 384), "depths": (1, 3, 4), "heads": (3, 3, 4)},
}

SMALL: dict[str, Any] = {"image": 80, "widths": (16, 24, 24), "depths": (1, 1, 1), "window": 3, "classes": 10}

REDUCED: Table = {"efficientvit_m1": SMALL}


@variants(VARIANTS, REDUCED)
def efficientvit(
    graph: Builder,
    batch: int,
    image: int,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    heads: Sequence[int],
    kernels: Sequence[int] = KERNELS,
    window: int = 7,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes). `kernels` are those of each head's queries."""
    value = image_input(graph, batch, image, 16)
    for layer, share in enumerate(STEM_SHARES):
        activation: Activation = "relu" if share > 1 else "none"
        value = conv_norm(graph, value, widths[0] // share, 3, f"stem{layer}", 2, 1, activation=activation)
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        with graph.scope(f"stage{stage}"):
            if stage:
                value = _downsampled(graph, value, width)
            attend = partial(_attention, graph, heads=heads[stage], kernels=kernels, window=window)
            for block in range(depth):
                with graph.scope(f"block{block}"):
                    value = _light(graph, value, "before")
                    value = residual(graph, value, attend, "_attention")
                    value = _light(graph, value, "after")
    graph.output(pooled_classifier(graph, value, classes, norm=True), "logits")


def _light(graph: Builder, value: Value, name: str) -> Value:
    """x + depthwise(x), then x + mlp(x) with a hidden layer of two widths."""
    channels = value.shape[1]
    filtered = partial(
        conv_norm, graph, channels=channels, kernel=3, name="depthwise", padding=1, groups=channels, activation="none"
    )
    feed = partial(conv_feed_forward, graph, hidden=2 * channels, activation="relu", bias=False, norm=True)
    with graph.scope(name):
        return residual(graph, residual(graph, value, filtered, 1), feed, 2)


def _downsampled(graph: Builder, value: Value, width: int) -> Value:
    """Half the extents by an inverted residual without the residual, between depthwise layers and perceptrons."""
    value = _light(graph, value, "before")
    hidden = 4 * value.shape[1]
    with graph.scope("merge"):
        inner = conv_norm(graph, value, hidden, 1, "expand")
        inner = conv_norm(graph, inner, hidden, 3, "depthwise", stride=2, padding=1, groups=hidden)
        inner = squeeze_excite(graph, inner, hidden // 4)
        merged = conv_norm(graph, inner, width, 1, "project", activation="none")
    return _light(graph, merged, "after")


def _attention(graph: Builder, value: Value, heads: int, kernels: Sequence[int], window: int) -> Value:
    """Attention inside windows where the grid is larger than one."""
    extents = (value.shape[2], value.shape[3])
    if max(extents) <= window:
        return cascaded_attention(graph, value, heads, kernels)
    size = (window, window)
    padded = filled(graph, channels_last(graph, value), window)
    windows = grid_of(graph, partition(graph, padded, size), *size)
    attended = tokens_of(graph, cascaded_attention(graph, windows, heads, kernels))
    merged = unpartition(graph, attended, (padded.shape[1], padded.shape[2]), size)
    return channels_first(graph, cut(graph, merged, extents))


def cascaded_attention(graph: Builder, value: Value, heads: int, kernels: Sequence[int]) -> Value:
    """Heads one after another: each attends in its part of the channels, to which the head before adds its result."""
    channels = value.shape[1]
    size = channels // heads
    extents = (value.shape[2], value.shape[3])
    found: list[Value] = []
    with graph.scope("attention"):
        for head, part in enumerate(graph.split(value, heads, 1)):
            with graph.scope(f"head{head}"):
                part = graph.add(part, found[-1], "cascade") if found else part
                projected = conv_norm(graph, part, 2 * KEY_SIZE + size, 1, "query_key_value", activation="none")
                query, key, content = graph.split_sizes(projected, (KEY_SIZE, KEY_SIZE, size), 1)
                kernel = kernels[head]
                query = conv_norm(graph, query, KEY_SIZE, kernel, "query", 1, kernel // 2, KEY_SIZE, activation="none")
                query, key, content = (tokens_of(graph, role) for role in (query, key, content))
                bias = distance_bias(graph, 1, extents)
                found.append(grid_of(graph, scaled_dot_product(graph, query, key, content, bias), *extents))
        joined = activate(graph, graph.concat(found, 1, "heads") if heads > 1 else found[0], "relu")
        return conv_norm(graph, joined, channels, 1, "output", activation="none")
