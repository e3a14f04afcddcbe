"""Pyramid Vision Transformer: four stages whose keys and values are taken at a reduced resolution.

Wang et al., ICCV 2021 (arXiv:2102.12122).
"""

from __future__ import annotations

from collections.abc import Sequence

from codesign.errors import BadParameter
from workloads.blocks.attention import merge_heads, project_heads, scaled_dot_product
from workloads.blocks.convolution import convolution
from workloads.blocks.dense import classifier, layer_norm, linear, mlp
from workloads.blocks.embedding import grid_of, learned_token, patch_embedding, tokens_of
from workloads.builder import Builder, Value
from workloads.registry import variants

BLOCK_EPSILON = 1e-6
EMBEDDING_EPSILON = 1e-5
WIDTHS = (64, 128, 320, 512)
HEADS = (1, 2, 5, 8)
EXPANSIONS = (8, 8, 4, 4)
REDUCTIONS = (8, 4, 2, 1)
PATCHES = (4, 2, 2, 2)

VARIANTS = {
    "pvt_tiny": {"depths": (2, 2, 2, 2)},
    "pvt_small": {"depths": (3, 4, 6, 3)},
}

REDUCED = {"pvt_tiny": {"image": 64, "depths": (1, 1, 1, 1), "classes": 10}}


@variants(VARIANTS, REDUCED)
def pvt(graph: Builder, batch: int, image: int, *, depths: Sequence[int], classes: int = 1000) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    if image % 32:
        raise BadParameter(
            f"workload '{graph.name}': image = {image}; expected a multiple of 32, the last stage's step"
        )
    value = graph.input("pixels", (batch, 3, image, image))
    extent = image
    for stage, depth in enumerate(depths):
        extent //= PATCHES[stage]
        last = stage == len(depths) - 1
        with graph.scope(f"stage{stage}"):
            tokens = _embed(graph, value, stage, class_token=last)
            for block in range(depth):
                with graph.scope(f"block{block}"):
                    tokens = encoder_block(graph, tokens, stage, extent)
            if not last:
                value = grid_of(graph, tokens, extent, extent)
    tokens = layer_norm(graph, tokens, "norm", BLOCK_EPSILON)
    graph.output(classifier(graph, graph.take(tokens, 0, 1, "class_token"), classes), "logits")


def encoder_block(graph: Builder, value: Value, stage: int, extent: int) -> Value:
    """x + attention(norm(x)), then x + mlp(norm(x))."""
    normed = layer_norm(graph, value, "norm1", BLOCK_EPSILON)
    attended = reduced_attention(graph, normed, HEADS[stage], REDUCTIONS[stage], extent)
    value = graph.add(value, attended, "residual1")
    hidden = mlp(graph, layer_norm(graph, value, "norm2", BLOCK_EPSILON), EXPANSIONS[stage] * value.shape[-1])
    return graph.add(value, hidden, "residual2")


def reduced_attention(graph: Builder, value: Value, heads: int, reduction: int, extent: int) -> Value:
    """Attention whose keys and values come from the `extent` x `extent` grid shrunk by a strided convolution."""
    width = value.shape[-1]
    with graph.scope("attention"):
        [query] = project_heads(graph, value, width, heads, "query")
        source = value
        if reduction > 1:
            with graph.scope("reduction"):
                grid = grid_of(graph, value, extent, extent)
                shrunk = convolution(graph, grid, width, reduction, "convolution", stride=reduction, bias=True)
                source = layer_norm(graph, tokens_of(graph, shrunk), "norm", EMBEDDING_EPSILON)
        key, content = project_heads(graph, source, width, heads, "key", "value")
        context = merge_heads(graph, scaled_dot_product(graph, query, key, content))
        return linear(graph, context, width, "output")


def _embed(graph: Builder, value: Value, stage: int, class_token: bool) -> Value:
    """Patches as normalised tokens with learned positions, in the last stage after a class token."""
    with graph.scope("embedding"):
        tokens = patch_embedding(graph, value, WIDTHS[stage], PATCHES[stage], "patches")
        tokens = layer_norm(graph, tokens, "norm", EMBEDDING_EPSILON)
        if class_token:
            token = learned_token(graph, "class_token", tokens.shape[0], WIDTHS[stage])
            tokens = graph.concat([token, tokens], 1, "tokens")
        return graph.add(tokens, graph.weight("positions", 1, *tokens.shape[1:]), "positioned")
