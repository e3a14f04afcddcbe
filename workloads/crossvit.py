"""CrossViT: two branches of patches of different sizes, which exchange what they know through their class tokens.

Chen et al., ICCV 2021 (arXiv:2103.14899).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from workloads.blocks.attention import encoder_attention, merge_heads, project_heads, scaled_dot_product
from workloads.blocks.convolution import convolution
from workloads.blocks.dense import classifier, layer_norm, linear, mean_of, mlp
from workloads.blocks.embedding import (
    class_token_of,
    image_input,
    learned_token,
    patch_embedding,
    positioned,
    tokens_of,
)
from workloads.blocks.residual import encoder_blocks
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

PATCHES = (12, 16)
STAGES = 3

norm = partial(layer_norm, epsilon=1e-6)

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (96, 192), "heads": 3, "depths": (1, 4), "expansion": 4},
    "small": {"widths": (192, 384), "heads": 6, "depths": (1, 4), "expansion": 4},
    "base": {"widths": (384, 768), "heads": 12, "depths": (1, 4), "expansion": 4},
    "9": {"widths": (128, 256), "heads": 4, "depths": (1, 3), "expansion": 3},
    "15": {"widths": (192, 384), "heads": 6, "depths": (1, 5), "expansion": 3},
    "18": {"widths": (224, 448), "heads": 7, "depths": (1, 6), "expansion": 3},
}

VARIANTS: Table = {
    **{f"crossvit_{size}_240": shape for size, shape in SHAPES.items()},
    **{f"crossvit_{size}_dagger_240": {**SHAPES[size], "convolutions": True} for size in ("9", "15", "18")},
    **{
        f"crossvit_{size}_dagger_408": {**SHAPES[size], "convolutions": True, "coarse_image": 384}
        for size in ("15", "18")
    },
}

SMALL: dict[str, Any] = {"image": 48, "coarse_image": 32, "widths": (24, 48), "depths": (1, 2), "classes": 10}

REDUCED = {"crossvit_tiny_240": {**SMALL, "heads": 3}, "crossvit_9_dagger_240": {**SMALL, "heads": 4}}


@variants(VARIANTS, REDUCED)
def crossvit(
    graph: Builder,
    batch: int,
    image: int,
    *,
    widths: Sequence[int],
    heads: int,
    depths: Sequence[int],
    expansion: int,
    coarse_image: int = 224,
    convolutions: bool = False,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes). The second branch sees the image resized to
    `coarse_image`; with `convolutions` three of them make the patches."""
    pixels = image_input(graph, batch, image, PATCHES[0])
    coarse = _resized(graph, pixels, coarse_image)
    embed = _convolved if convolutions else partial(patch_embedding, name="patches")
    branches = []
    for branch, (view, width, patch) in enumerate(zip((pixels, coarse), widths, PATCHES, strict=True)):
        with graph.scope(f"branch{branch}"):
            tokens = embed(graph, view, width, patch)
            token = learned_token(graph, "class_token", batch, width)
            branches.append(positioned(graph, graph.concat([token, tokens], 1, "tokens")))
    for stage in range(STAGES):
        for branch, depth in enumerate(depths):
            with graph.scope(f"stage{stage}/branch{branch}"):
                attend = partial(encoder_attention, graph, heads=heads)
                feed = partial(mlp, graph, hidden=expansion * widths[branch])
                branches[branch] = encoder_blocks(graph, branches[branch], depth, attend, feed, norm)
        with graph.scope(f"stage{stage}/fusion"):
            branches = _fused(graph, branches, heads)
    logits = []
    for branch, tokens in enumerate(branches):
        with graph.scope(f"branch{branch}"):
            logits.append(classifier(graph, class_token_of(graph, norm(graph, tokens, "norm")), classes))
    graph.output(mean_of(graph, logits), "logits")


def _resized(graph: Builder, pixels: Value, image: int) -> Value:
    """The image at another size by bicubic interpolation."""
    shape = (*pixels.shape[:2], image, image)
    scale = np.array([1, 1, image / pixels.shape[2], image / pixels.shape[3]], dtype=np.float32)
    inputs = [pixels, None, graph.constant("resize/scales", scale)]
    attributes: dict[str, Any] = {"mode": "cubic", "cubic_coeff_a": -0.75}
    [resized] = graph.node("Resize", inputs, [shape], "resize", **attributes)
    return resized


def _convolved(graph: Builder, pixels: Value, width: int, patch: int) -> Value:
    """Tokens of three convolutions that together have the stride of a patch."""
    last = {12: ((3, 0), (1, 1)), 16: ((2, 1), (2, 1))}[patch]
    with graph.scope("patches"):
        value = graph.unary("Relu", convolution(graph, pixels, width // 4, 7, "convolution0", 4, 3, bias=True))
        (stride, padding), (last_stride, last_padding) = last
        value = graph.unary(
            "Relu", convolution(graph, value, width // 2, 3, "convolution1", stride, padding, bias=True)
        )
        return tokens_of(
            graph, convolution(graph, value, width, 3, "convolution2", last_stride, last_padding, bias=True)
        )


def _fused(graph: Builder, branches: Sequence[Value], heads: int) -> list[Value]:
    """Each branch with a class token that has looked at the other branch's patches."""
    fused = []
    for branch, (own, other) in enumerate(zip(branches, reversed(branches), strict=True)):
        with graph.scope(f"branch{branch}"):
            token = _projected(graph, graph.slice(own, 0, 1, 1, "class_token"), other.shape[-1], "to_other")
            seen = graph.concat([token, graph.slice(other, 1, other.shape[1], 1, "patches")], 1, "seen")
            token = graph.add(token, _class_attention(graph, norm(graph, seen, "norm"), heads), "residual")
            token = _projected(graph, token, own.shape[-1], "from_other")
            fused.append(graph.concat([token, graph.slice(own, 1, own.shape[1], 1, "own_patches")], 1, "tokens"))
    return fused


def _projected(graph: Builder, token: Value, width: int, name: str) -> Value:
    """Norm, GELU, linear layer."""
    with graph.scope(name):
        return linear(graph, graph.unary("Gelu", norm(graph, token, "norm")), width, "projection")


def _class_attention(graph: Builder, tokens: Value, heads: int) -> Value:
    """Attention with the first token as the only query: its cost is linear in the tokens."""
    width = tokens.shape[-1]
    with graph.scope("attention"):
        [query] = project_heads(graph, graph.slice(tokens, 0, 1, 1, "class_token"), width, heads, "query")
        [key], [content] = (project_heads(graph, tokens, width, heads, role) for role in ("key", "value"))
        return linear(graph, merge_heads(graph, scaled_dot_product(graph, query, key, content)), width, "output")
