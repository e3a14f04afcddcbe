"""SparseFormer: a few latent tokens look at regions of an image that they move themselves, then a vision transformer.

Gao et al., SparseFormer, ICLR 2024 (arXiv:2304.03768), and the form bootstrapped from trained vision transformers,
CVPR 2024 (arXiv:2312.01987). A small unit with one set of weights focuses the tokens' boxes four times.
"""

from __future__ import annotations

from functools import partial

from workloads.blocks.activation import Activation
from workloads.blocks.attention import encoder_attention
from workloads.blocks.convolution import convolution, max_pool
from workloads.blocks.dense import classifier, feed_forward, layer_norm, linear
from workloads.blocks.embedding import class_token_of, image_input, learned_token
from workloads.blocks.regions import adaptively_mixed, adjusted_boxes, initial_boxes, sampled_points
from workloads.blocks.residual import encoder_blocks, residual
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

FOCUSED = 4
"""Times that the focusing unit runs."""

LEAST_POINTS = 32
"""Points after mixing, at least."""

FIRST: Table = {
    "sparseformer_v1_tiny": {"side": 7, "focus": 256, "width": 512, "layers": 8},
    "sparseformer_v1_small": {"side": 8, "focus": 320, "width": 640, "layers": 8},
    "sparseformer_v1_base": {"side": 9, "focus": 384, "width": 768, "layers": 10},
}

FIRST_REDUCED: Table = {
    "sparseformer_v1_tiny": {
        "image": 64, "side": 3, "focus": 32, "width": 128, "layers": 1, "channels": 8, "points": 4, "classes": 10,
    }
}  # fmt: skip

BOOTSTRAPPED: Table = {
    "sparseformer_btsp_augreg_base": {"grid": (6, 8), "focus": 384, "width": 768, "layers": 8},
    "sparseformer_btsp_augreg_large": {"grid": (6, 8), "focus": 512, "width": 1024, "layers": 16},
    "sparseformer_btsp_clip_base": {
        "grid": (6, 8), "focus": 384, "width": 768, "layers": 8, "classes": 512, "activation": "quick_gelu",
    },
    "sparseformer_btsp_clip_large": {
        "grid": (7, 9), "focus": 512, "width": 1024, "layers": 16, "classes": 768, "activation": "quick_gelu",
    },
}  # fmt: skip

BOOTSTRAPPED_REDUCED: Table = {
    "sparseformer_btsp_clip_base": {
        "image": 64, "grid": (2, 3), "focus": 32, "width": 64, "layers": 1, "channels": 8, "points": 4, "inner": 8,
        "classes": 10,
    }
}  # fmt: skip


@variants(FIRST, FIRST_REDUCED)
def sparseformer(
    graph: Builder,
    batch: int,
    image: int,
    *,
    side: int,
    focus: int,
    width: int,
    layers: int,
    channels: int = 96,
    points: int = 36,
    heads: int = 64,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes), by side x side tokens."""
    feature_map = early_convolution(graph, batch, image, channels)
    boxes = initial_boxes(graph, batch, side, side)
    tokens = graph.expand(graph.weight("latent", 1, side * side, focus), (batch, side * side, focus), "tokens")
    for turn in range(FOCUSED):
        with graph.scope(f"focus{turn}"), graph.sharing("focus"):
            tokens, boxes = _look(graph, feature_map, tokens, boxes, heads // 8, points)
    tokens = linear(graph, layer_norm(graph, tokens, "focus_norm"), width, "lift")
    with graph.scope("layer0"):
        tokens, boxes = _look(graph, feature_map, tokens, boxes, heads, points)
    attend, feed = partial(encoder_attention, graph, heads=heads), partial(feed_forward, graph, hidden=4 * width)
    tokens = encoder_blocks(graph, tokens, layers - 1, attend, feed, layer_norm, "cortex")
    pooled = graph.mean(layer_norm(graph, tokens, "norm"), (1,), "pool")
    graph.output(classifier(graph, pooled, classes), "logits")


def early_convolution(graph: Builder, batch: int, image: int, channels: int) -> Value:
    """The map that tokens look at, a quarter of the image along each side."""
    value = convolution(graph, image_input(graph, batch, image, 4), channels, 7, "early", 2, 3, bias=True)
    return max_pool(graph, value, 3, 2, 1)


def _look(
    graph: Builder, feature_map: Value, tokens: Value, boxes: Value, heads: int, points: int
) -> tuple[Value, Value]:
    """Attention between tokens, boxes adjusted, what is in them mixed in, and feed-forward layers."""
    width = tokens.shape[-1]
    tokens = residual(graph, tokens, partial(encoder_attention, graph, heads=heads), 1, layer_norm)
    boxes = adjusted_boxes(graph, boxes, tokens)
    sampled = sampled_points(graph, feature_map, tokens, boxes, points)
    mixed = adaptively_mixed(graph, sampled, tokens, width // 4, max(points, LEAST_POINTS))
    tokens = graph.add(tokens, mixed, "looked")
    return residual(graph, tokens, partial(feed_forward, graph, hidden=4 * width), 2, layer_norm), boxes


@variants(BOOTSTRAPPED, BOOTSTRAPPED_REDUCED)
def bootstrapped_sparseformer(
    graph: Builder,
    batch: int,
    image: int,
    *,
    grid: tuple[int, int],
    focus: int,
    width: int,
    layers: int,
    channels: int = 64,
    points: int = 16,
    inner: int = 128,
    classes: int = 1000,
    activation: Activation = "gelu",
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes), or to an embedding that wide, by a class token and a
    grid of tokens. The layers are those of a vision transformer, heads of 64."""
    feature_map = early_convolution(graph, batch, image, channels)
    boxes = initial_boxes(graph, batch, *grid)
    count = grid[0] * grid[1]
    tokens = graph.expand(graph.weight("latent", 1, count, focus), (batch, count, focus), "tokens")
    for turn in range(FOCUSED):
        with graph.scope(f"focus{turn}"), graph.sharing("focus"):
            tokens = _seen(graph, feature_map, tokens, boxes, points, inner)
            attend = partial(encoder_attention, graph, heads=max(1, focus // 64))
            feed = partial(feed_forward, graph, hidden=4 * focus, activation=activation)
            tokens = residual(graph, residual(graph, tokens, attend, 1, layer_norm), feed, 2, layer_norm)
            boxes = adjusted_boxes(graph, boxes, tokens)
    tokens = linear(graph, layer_norm(graph, tokens, "focus_norm"), width, "lift")
    with graph.scope("look"):
        tokens = _seen(graph, feature_map, tokens, boxes, points, inner)
    tokens = graph.concat([learned_token(graph, "class_token", batch, width), tokens], 1, "with_class")
    attend = partial(encoder_attention, graph, heads=width // 64)
    feed = partial(feed_forward, graph, hidden=4 * width, activation=activation)
    tokens = encoder_blocks(graph, tokens, layers, attend, feed, layer_norm, "layer")
    graph.output(classifier(graph, class_token_of(graph, layer_norm(graph, tokens, "norm")), classes), "logits")


def _seen(graph: Builder, feature_map: Value, tokens: Value, boxes: Value, points: int, inner: int) -> Value:
    """Tokens with what is in their boxes, and where these are, added."""
    sampled = sampled_points(graph, feature_map, tokens, boxes, points)
    mixed = adaptively_mixed(graph, sampled, tokens, inner, max(points, LEAST_POINTS))
    tokens = graph.add(tokens, mixed, "looked")
    return graph.add(tokens, linear(graph, boxes, tokens.shape[-1], "box_position"), "placed")
