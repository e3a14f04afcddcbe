"""CvT: overlapping convolutions make the tokens, and depthwise convolutions precede the projections of attention, those
of keys and values with a stride. Wu et al., ICCV 2021 (arXiv:2103.15808).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from workloads.blocks.attention import merge_heads, scaled_dot_product, split_heads
from workloads.blocks.convolution import batch_norm, convolution, depthwise
from workloads.blocks.dense import classifier, layer_norm, linear, mlp
from workloads.blocks.embedding import class_token_of, grid_of, image_input, learned_token, tokens_of
from workloads.blocks.residual import encoder_blocks
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

KERNELS, STRIDES, PADDINGS = (7, 3, 3), (4, 2, 2), (2, 1, 1)
KEY_STRIDE = 2

BASE = {"widths": (64, 192, 384), "heads": (1, 3, 6)}

VARIANTS: Table = {
    **{f"cvt_13_{image}": {**BASE, "depths": (1, 2, 10)} for image in (224, 384)},
    **{f"cvt_21_{image}": {**BASE, "depths": (1, 4, 16)} for image in (224, 384)},
    "cvt_w24_384": {"widths": (192, 768, 1024), "heads": (3, 12, 16), "depths": (2, 2, 20)},
}

REDUCED: Table = {
    "cvt_13_224": {"image": 64, "widths": (8, 24, 48), "depths": (1, 1, 2), "classes": 10},
}

norm = partial(layer_norm, epsilon=1e-5)


@variants(VARIANTS, REDUCED)
def cvt(
    graph: Builder,
    batch: int,
    image: int,
    *,
    widths: Sequence[int],
    heads: Sequence[int],
    depths: Sequence[int],
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    value = image_input(graph, batch, image)
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        with graph.scope(f"stage{stage}"):
            value = convolution(
                graph, value, width, KERNELS[stage], "embedding", STRIDES[stage], PADDINGS[stage], bias=True
            )
            extents = (value.shape[2], value.shape[3])
            tokens = norm(graph, tokens_of(graph, value), "embedding_norm")
            last = stage == len(depths) - 1
            if last:
                tokens = graph.concat([learned_token(graph, "class_token", batch, width), tokens], 1, "tokens")
            attend = partial(_attention, graph, heads=heads[stage], extents=extents)
            tokens = encoder_blocks(graph, tokens, depth, attend, partial(mlp, graph, hidden=4 * width), norm)
            value = tokens if last else grid_of(graph, tokens, *extents)
    tokens = norm(graph, value, "norm")
    graph.output(classifier(graph, class_token_of(graph, tokens), classes), "logits")


def _attention(graph: Builder, tokens: Value, heads: int, extents: tuple[int, int]) -> Value:
    """Attention whose scores are scaled by the whole width, as the authors' code has it, not by a head's."""
    width = tokens.shape[-1]
    with graph.scope("attention"):
        query, key, content = (
            split_heads(graph, linear(graph, _filtered(graph, tokens, extents, role, stride), width, role), heads, role)
            for role, stride in (("query", 1), ("key", KEY_STRIDE), ("value", KEY_STRIDE))
        )
        context = scaled_dot_product(graph, query, key, content, scale=width**-0.5)
        return linear(graph, merge_heads(graph, context), width, "output")


def _filtered(graph: Builder, tokens: Value, extents: tuple[int, int], role: str, stride: int) -> Value:
    """The tokens' grid through a depthwise convolution and a batch norm; a class token passes by."""
    extra = tokens.shape[1] - extents[0] * extents[1]
    with graph.scope(f"{role}/filter"):
        patches = graph.slice(tokens, extra, tokens.shape[1], 1, "patches") if extra else tokens
        grid = depthwise(graph, grid_of(graph, patches, *extents), 3, "depthwise", stride, bias=False)
        filtered = tokens_of(graph, batch_norm(graph, grid))
        if not extra:
            return filtered
        return graph.concat([graph.slice(tokens, 0, extra, 1, "class_token"), filtered], 1, "tokens")
