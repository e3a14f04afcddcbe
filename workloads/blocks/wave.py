"""The four-stage body that Wave-ViT gave to the networks that mix tokens in a transformed domain.

A convolutional stem, overlapping reductions between the stages, feed-forward layers with a depthwise convolution, and
a class token that attends to all tokens once, at the end (Yao et al. 2022, arXiv:2207.04978).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from workloads.blocks.attention import encoder_attention, merge_heads, project_heads, scaled_dot_product
from workloads.blocks.convolution import conv_norm, convolution
from workloads.blocks.dense import classifier, layer_norm, linear, mlp
from workloads.blocks.embedding import depthwise_feed_forward, tokens_of
from workloads.blocks.embedding import grid_of as to_grid
from workloads.blocks.residual import encoder_blocks, residual
from workloads.builder import Builder, Value

Mixer = Callable[[Value, tuple[int, int]], Value]
"""From tokens (batch, height x width, channels), already normalised, and (height, width) to what is added to them."""

block_norm = partial(layer_norm, epsilon=1e-6)


@dataclass(frozen=True, slots=True)
class Stage:
    """Widths and depth of a stage, how far its feed-forward layers expand, and what mixes its tokens."""

    width: int
    depth: int
    expansion: int
    mix: Mixer


def wave_body(graph: Builder, pixels: Value, stem: int, stages: Sequence[Stage]) -> Value:
    """Pixels to the tokens of the last stage, not yet normalised; each stage halves the extents, the first quarters
    them."""
    value = pixels
    for number, stage in enumerate(stages):
        with graph.scope(f"stage{number}"):
            with graph.scope("embedding"):
                if number == 0:
                    for layer, (kernel, stride) in enumerate(((7, 2), (3, 1), (3, 1))):
                        value = conv_norm(graph, value, stem, kernel, f"layer{layer}", stride, kernel // 2)
                value = convolution(graph, value, stage.width, 3, "reduction", 2, 1, bias=True)
                extents = (value.shape[2], value.shape[3])
                tokens = layer_norm(graph, tokens_of(graph, value), "norm")
            feed = partial(depthwise_feed_forward, graph, hidden=stage.expansion * stage.width, extents=extents)
            tokens = encoder_blocks(graph, tokens, stage.depth, partial(_mixed, stage.mix, extents), feed, block_norm)
            if number < len(stages) - 1:
                value = to_grid(graph, block_norm(graph, tokens, "norm"), *extents)
    return tokens


def wave_network(
    graph: Builder,
    pixels: Value,
    stem: int,
    widths: Sequence[int],
    heads: Sequence[int],
    depths: Sequence[int],
    expansions: Sequence[int],
    mix: Mixer,
    mixed_stages: int,
    classes: int,
) -> None:
    """The network whose first `mixed_stages` stages mix by `mix` and whose later ones attend; its outputs are logits
    (batch, classes) and those of each token (batch, tokens, classes)."""

    def attended(tokens: Value, extents: tuple[int, int], heads: int) -> Value:
        return encoder_attention(graph, tokens, heads)

    stages = [
        Stage(width, depth, expansion, mix if number < mixed_stages else partial(attended, heads=heads[number]))
        for number, (width, depth, expansion) in enumerate(zip(widths, depths, expansions, strict=True))
    ]
    tokens = wave_body(graph, pixels, stem, stages)
    logits, token_logits = wave_heads(graph, tokens, heads[-1], expansions[-1], classes)
    graph.output(logits, "logits")
    graph.output(token_logits, "token_logits")


def _mixed(mix: Mixer, extents: tuple[int, int], tokens: Value) -> Value:
    return mix(tokens, extents)


def wave_heads(graph: Builder, tokens: Value, heads: int, expansion: int, classes: int) -> tuple[Value, Value]:
    """Logits (batch, classes) of a class token that starts as the tokens' mean and attends to them all, and logits of
    each token (batch, tokens, classes), which training labels."""
    mean = graph.reduce("ReduceMean", tokens, [1], "mean", keepdims=True)
    with graph.scope("class_block"):
        together = graph.concat([mean, tokens], 1, "tokens")
        attended = class_attention(graph, block_norm(graph, together, "norm1"), heads)
        token = graph.add(mean, attended, "residual1")
        feed = partial(mlp, graph, hidden=expansion * token.shape[-1])
        token = residual(graph, token, feed, 2, block_norm)
        normed = block_norm(graph, graph.concat([token, tokens], 1, "all"), "norm")
    logits = classifier(graph, graph.take(normed, 0, 1, "class_token"), classes)
    labelled = graph.slice(normed, 1, normed.shape[1], 1, "labelled")
    return logits, linear(graph, labelled, classes, "token_head")


def class_attention(graph: Builder, tokens: Value, heads: int) -> Value:
    """Attention whose only query is the first token: (batch, 1, width) (Touvron et al. 2021, arXiv:2103.17239)."""
    width = tokens.shape[-1]
    with graph.scope("attention"):
        [query] = project_heads(graph, graph.slice(tokens, 0, 1, 1, "first"), width, heads, "query")
        key, content = project_heads(graph, tokens, width, heads, "key", "value")
        context = merge_heads(graph, scaled_dot_product(graph, query, key, content))
        return linear(graph, context, width, "output")
