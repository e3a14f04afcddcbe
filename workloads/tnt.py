"""TNT: each patch carries words with a transformer of their own, which feeds the patch in every layer. Han et al.,
NeurIPS 2021 (arXiv:2103.00112).
"""

from __future__ import annotations

import math
from functools import partial

from workloads.blocks.attention import merge_heads, project_heads, scaled_dot_product
from workloads.blocks.convolution import convolution
from workloads.blocks.dense import classifier, layer_norm, linear, mlp
from workloads.blocks.embedding import channels_last, class_token_of, image_input, learned_token, positioned
from workloads.blocks.residual import residual
from workloads.blocks.window import partition
from workloads.builder import Builder, Value
from workloads.registry import variants

PATCH, STRIDE = 16, 4
SIDE = PATCH // STRIDE
"""Words of a patch along each side."""

VARIANTS = {
    "tnt_ti": {"width": 192, "heads": 3, "word_width": 12, "word_heads": 2},
    "tnt_s": {"width": 384, "heads": 6, "word_width": 24, "word_heads": 4},
    "tnt_b": {"width": 640, "heads": 10, "word_width": 40, "word_heads": 4},
}

REDUCED = {"tnt_s": {"image": 64, "width": 48, "word_width": 8, "layers": 2, "classes": 10}}


@variants(VARIANTS, REDUCED)
def tnt(
    graph: Builder,
    batch: int,
    image: int,
    *,
    width: int,
    heads: int,
    word_width: int,
    word_heads: int,
    layers: int = 12,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    pixels = image_input(graph, batch, image, PATCH)
    with graph.scope("words"):
        grid = convolution(graph, pixels, word_width, 7, "projection", stride=STRIDE, padding=3, bias=True)
        words = positioned(graph, partition(graph, channels_last(graph, grid), (SIDE, SIDE)))
    with graph.scope("patches"):
        flat = layer_norm(graph, _joined(graph, words, batch), "norm1")
        patches = layer_norm(graph, linear(graph, flat, width, "projection"), "norm2")
        patches = graph.concat([learned_token(graph, "class_token", batch, width), patches], 1, "tokens")
        patches = positioned(graph, patches)
    for layer in range(layers):
        with graph.scope(f"layer{layer}"):
            with graph.scope("inner"):
                words = _block(graph, words, word_heads)
            told = linear(graph, _joined(graph, layer_norm(graph, words, "word_norm"), batch), width, "words_to_patch")
            patches = graph.add(patches, graph.pad(told, {1: (1, 0)}, "beside_class_token"), "told")
            with graph.scope("outer"):
                patches = _block(graph, patches, heads)
    tokens = layer_norm(graph, patches, "norm")
    graph.output(classifier(graph, class_token_of(graph, tokens), classes), "logits")


def _block(graph: Builder, value: Value, heads: int) -> Value:
    """x + attention(norm(x)), then x + mlp(norm(x))."""
    value = residual(graph, value, partial(_attention, graph, heads=heads), 1, layer_norm)
    return residual(graph, value, partial(mlp, graph, hidden=4 * value.shape[-1]), 2, layer_norm)


def _attention(graph: Builder, value: Value, heads: int) -> Value:
    """Queries and keys from one projection, values from another, neither with a bias."""
    width = value.shape[-1]
    with graph.scope("attention"):
        query, key = project_heads(graph, value, width, heads, "query", "key", bias=False)
        [content] = project_heads(graph, value, width, heads, "value", bias=False)
        context = scaled_dot_product(graph, query, key, content)
        return linear(graph, merge_heads(graph, context), width, "output")


def _joined(graph: Builder, words: Value, batch: int) -> Value:
    """The words of each patch side by side: (batch, patches, words x width)."""
    return graph.reshape(words, (batch, words.shape[0] // batch, math.prod(words.shape[1:])), "joined")
