"""ViT-ResNAS: three stages with residual spatial reduction, the widths of every block found by a search.

Liao et al., BMVC 2021 (arXiv:2109.00642). Heads times their size need not be the width of the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from workloads.blocks.activation import activate
from workloads.blocks.attention import merge_heads, project_heads, scaled_dot_product
from workloads.blocks.convolution import average_pool, conv_norm, convolution
from workloads.blocks.dense import classifier, layer_norm, linear, mlp
from workloads.blocks.embedding import grid_of, image_input, learned_token, positioned, tokens_of
from workloads.blocks.residual import residual
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

STEM = 24
PATCH = 7

block_norm = partial(layer_norm, epsilon=1e-6)

VARIANTS: Table = {
    "vit_res_tiny": {
        "widths": (192, 384, 768), "head_sizes": (64, 64, 64), "heads": ((3,) * 4, (6,) * 4, (12,) * 4),
        "hidden": ((768,) * 4, (1536,) * 4, (3072,) * 4),
    },
    "vit_resnas_tiny": {
        "widths": (176, 352, 704), "head_sizes": (32, 48, 64),
        "heads": ((3, 3, 3, 4, 4), (10, 8, 8, 8, 10, 10), (10, 10, 10, 8, 8)),
        "hidden": ((704, 576, 640, 576, 704), (1408, 1408, 1280, 1408, 1280, 1024), (2560, 1792, 2816, 2816, 2560)),
    },
    "vit_resnas_small": {
        "widths": (220, 440, 880), "head_sizes": (32, 48, 64),
        "heads": ((5, 5, 7, 5, 5, 5), (10, 10, 10, 10, 12, 12), (16, 12, 16, 12, 14)),
        "hidden": (
            (880, 880, 800, 720, 720, 720), (1760, 1440, 1920, 1600, 1600, 1440), (3200, 3200, 2880, 2240, 2560),
        ),
    },
    "vit_resnas_medium": {
        "widths": (240, 640, 880), "head_sizes": (32, 48, 64),
        "heads": ((7, 6, 7, 8, 7, 8, 6), (10, 14, 14, 16, 14, 16, 16), (16, 10, 16, 12, 16, 14)),
        "hidden": (
            (960, 960, 800, 960, 880, 880, 800), (1120, 1760, 1920, 1760, 1440, 1760, 1920),
            (3200, 3840, 3840, 3200, 3520, 3520),
        ),
    },
}  # fmt: skip

REDUCED: Table = {
    "vit_resnas_tiny": {
        "image": 56, "widths": (16, 24, 40), "head_sizes": (8, 8, 16), "heads": ((3, 1), (2,), (3,)),
        "hidden": ((24, 32), (48,), (80,)), "classes": 10,
    }
}  # fmt: skip


@variants(VARIANTS, REDUCED)
def vit_resnas(
    graph: Builder,
    batch: int,
    image: int,
    *,
    widths: Sequence[int],
    head_sizes: Sequence[int],
    heads: Sequence[Sequence[int]],
    hidden: Sequence[Sequence[int]],
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes). `heads` and `hidden` have a number for each block."""
    value = embed(graph, image_input(graph, batch, image, 8 * PATCH), widths[0])
    extent = image // (2 * PATCH)
    for stage, width in enumerate(widths):
        with graph.scope(f"stage{stage}"):
            if stage:
                value, extent = reduce_residually(graph, value, extent, width), extent // 2
            for block, (count, features) in enumerate(zip(heads[stage], hidden[stage], strict=True)):
                with graph.scope(f"block{block}"):
                    attend = partial(free_width_attention, graph, heads=count, size=head_sizes[stage])
                    value = residual(graph, value, attend, 1, block_norm)
                    value = residual(graph, value, partial(mlp, graph, hidden=features), 2, block_norm)
    token = graph.take(block_norm(graph, value, "norm"), 0, 1, "class_token")
    graph.output(classifier(graph, token, classes), "logits")


def embed(graph: Builder, pixels: Value, width: int) -> Value:
    """A class token and the patches of a small residual stem: (batch, 1 + patches, width)."""
    with graph.scope("embedding"):
        value = conv_norm(graph, pixels, STEM, 3, "layer0", 2, 1)
        inner = conv_norm(graph, value, STEM, 3, "layer1", 1, 1)
        inner = conv_norm(graph, inner, STEM, 3, "layer2", 1, 1, activation="none")
        value = activate(graph, graph.add(value, inner, "residual"), "relu")
        patches = tokens_of(graph, convolution(graph, value, width, PATCH, "patches", PATCH, bias=True))
        token = learned_token(graph, "class_token", patches.shape[0], width)
        return positioned(graph, graph.concat([token, patches], 1, "tokens"))


def reduce_residually(graph: Builder, value: Value, extent: int, width: int) -> Value:
    """Half the extent and `width` channels: a strided convolution of the normalised grid, with new positions, plus the
    mean of each 2x2 with zeros for the channels it lacks; the class token likewise by a linear layer."""
    with graph.scope("reduction"):
        normed = block_norm(graph, value, "norm")
        token, patches = (_parts(graph, one) for one in (value, normed))
        grids = [grid_of(graph, one[1], extent, extent) for one in (token, patches)]
        reduced = tokens_of(graph, convolution(graph, grids[1], width, 3, "convolution", 2, 1, bias=True))
        reduced = positioned(graph, reduced)
        pooled = _widened(graph, tokens_of(graph, average_pool(graph, grids[0], 2, 2)), width)
        projected = linear(graph, patches[0], width, "class_projection")
        kept = _widened(graph, token[0], width)
        both = (graph.add(kept, projected, "class_residual"), graph.add(pooled, reduced, "grid_residual"))
        return graph.concat(both, 1, "tokens")


def _parts(graph: Builder, value: Value) -> tuple[Value, Value]:
    """The class token, and the others."""
    return graph.slice(value, 0, 1, 1, "class"), graph.slice(value, 1, value.shape[1], 1, "patches")


def _widened(graph: Builder, value: Value, width: int) -> Value:
    """Zeros after the channels, up to `width`."""
    shape = (*value.shape[:-1], width)
    pads = graph.integers("pads", [0] * (2 * value.rank - 1) + [width - value.shape[-1]])
    [result] = graph.node("Pad", [value, pads], [shape], "widened")
    return result


def free_width_attention(graph: Builder, value: Value, heads: int, size: int) -> Value:
    """Attention whose heads are together narrower or wider than the tokens."""
    with graph.scope("attention"):
        query, key, content = project_heads(graph, value, heads * size, heads, "query", "key", "value")
        context = merge_heads(graph, scaled_dot_product(graph, query, key, content))
        return linear(graph, context, value.shape[-1], "output")
