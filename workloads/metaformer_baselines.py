"""MetaFormer baselines: four stages of plain token mixers (identity, a random matrix, pooling, separable convolution,
attention) with StarReLU. Yu et al., IEEE TPAMI 2024 (arXiv:2210.13452).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from workloads.blocks.activation import activate
from workloads.blocks.attention import encoder_attention
from workloads.blocks.convolution import channel_norm, conv_feed_forward, convolution, depthwise, group_norm
from workloads.blocks.dense import classifier, layer_norm
from workloads.blocks.embedding import grid_of, image_input, tokens_of
from workloads.blocks.residual import Branch, residual
from workloads.builder import Builder, Value
from workloads.poolformer import pool_mixer
from workloads.registry import variants

Mixer = Literal["identity", "random", "pool", "convolution", "attention"]

POOL_WIDTHS = {"s": (64, 128, 320, 512), "m": (96, 192, 384, 768)}
WIDTHS = {"s": (64, 128, 320, 512), "m": (96, 192, 384, 576), "b": (128, 256, 512, 768)}
DEPTHS = {"18": (3, 3, 9, 3), "36": (3, 12, 18, 3)}

MIXERS: dict[str, tuple[Mixer, ...]] = {
    "identityformer": ("identity",) * 4,
    "randformer": ("identity", "identity", "random", "random"),
    "poolformerv2": ("pool",) * 4,
    "convformer": ("convolution",) * 4,
    "caformer": ("convolution", "convolution", "attention", "attention"),
}
"""The mixer of each stage."""

VARIANTS = {
    f"{model}_{size}{blocks}": {
        "mixers": MIXERS[model],
        "widths": POOL_WIDTHS[size],
        "depths": tuple(blocks // 12 * depth for depth in (2, 2, 6, 2)),
        "group_norms": True,
    }
    for model in ("identityformer", "randformer", "poolformerv2")
    for size, blocks in (("s", 12), ("s", 24), ("s", 36), ("m", 36), ("m", 48))
} | {
    f"{model}_{size}{blocks}": {"mixers": MIXERS[model], "widths": WIDTHS[size], "depths": DEPTHS[blocks]}
    for model in ("convformer", "caformer")
    for size, blocks in (("s", "18"), ("s", "36"), ("m", "36"), ("b", "36"))
}

SMALL: dict[str, Any] = {"image": 64, "widths": (32, 32, 64, 64), "depths": (1, 1, 1, 1), "classes": 10}

REDUCED = dict.fromkeys(("randformer_s12", "poolformerv2_s12", "caformer_s18"), SMALL)

norm_of_channels = partial(channel_norm, bias=False)


@variants(VARIANTS, REDUCED)
def metaformer(
    graph: Builder,
    batch: int,
    image: int,
    *,
    mixers: Sequence[Mixer],
    widths: Sequence[int],
    depths: Sequence[int],
    group_norms: bool = False,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes). With `group_norms` blocks normalise over the whole
    image and the head is linear, else over each pixel's channels and the head is a perceptron."""
    value = image_input(graph, batch, image, 32)
    for stage, (mixer, width, depth) in enumerate(zip(mixers, widths, depths, strict=True)):
        with graph.scope(f"stage{stage}"):
            if not stage:
                value = convolution(graph, value, width, 7, "stem", stride=4, padding=2, bias=True)
                value = norm_of_channels(graph, value, "stem_norm")
            else:
                value = norm_of_channels(graph, value, "downsample_norm")
                value = convolution(graph, value, width, 3, "downsample", stride=2, padding=1, bias=True)
            for block in range(depth):
                with graph.scope(f"block{block}"):
                    value = _block(graph, value, mixer, group_norms, scaled=stage >= 2)
    pooled = layer_norm(graph, graph.mean(value, (2, 3), "pool"), "norm", 1e-6)
    graph.output(classifier(graph, pooled, classes) if group_norms else _head(graph, pooled, classes), "logits")


def _block(graph: Builder, value: Value, mixer: Mixer, group_norms: bool, scaled: bool) -> Value:
    """r x + mixer(norm(x)), then r x + mlp(norm(x)), r a learned number for each channel if `scaled`."""
    norm = partial(group_norm, bias=False, epsilon=1e-6) if group_norms else norm_of_channels
    value = residual(graph, value, _mixer(graph, mixer), 1, norm, residual_scale=scaled, channel_axis=1)
    feed = partial(conv_feed_forward, graph, hidden=4 * value.shape[1], activation="star_relu", bias=False)
    return residual(graph, value, feed, 2, norm, residual_scale=scaled, channel_axis=1)


def _mixer(graph: Builder, kind: Mixer) -> Branch:
    mixers: dict[Mixer, Branch] = {
        "identity": lambda value: value,
        "random": partial(random_mixer, graph),
        "pool": partial(pool_mixer, graph),
        "convolution": partial(separable_mixer, graph),
        "attention": partial(attention_mixer, graph),
    }
    return mixers[kind]


def random_mixer(graph: Builder, value: Value) -> Value:
    """Tokens mixed by a matrix that stays as it was drawn: the softmax of its rows."""
    tokens = tokens_of(graph, value)
    with graph.scope("random"):
        matrix = graph.weight("matrix", tokens.shape[1], tokens.shape[1])
        mixed = graph.matmul(graph.unary("Softmax", matrix, axis=-1), tokens, "mixed")
    return grid_of(graph, mixed, *value.shape[2:])


def separable_mixer(graph: Builder, value: Value) -> Value:
    """The inverted separable convolution of MobileNetV2 with a 7x7 depthwise part."""
    channels = value.shape[1]
    with graph.scope("separable"):
        inner = activate(graph, convolution(graph, value, 2 * channels, 1, "expand"), "star_relu")
        inner = depthwise(graph, inner, 7, "depthwise", bias=False)
        return convolution(graph, inner, channels, 1, "project")


def attention_mixer(graph: Builder, value: Value, head_size: int = 32) -> Value:
    """Attention of all pixels without biases."""
    tokens = tokens_of(graph, value)
    attended = encoder_attention(graph, tokens, tokens.shape[-1] // head_size, bias=False, output_bias=False)
    return grid_of(graph, attended, *value.shape[2:])


def _head(graph: Builder, value: Value, classes: int) -> Value:
    """Norm and classifier after a hidden layer of four widths with a squared ReLU."""
    with graph.scope("head"):
        hidden = activate(graph, classifier(graph, value, 4 * value.shape[-1], "hidden"), "squared_relu")
        return classifier(graph, layer_norm(graph, hidden, "norm", 1e-6), classes, "classes")
