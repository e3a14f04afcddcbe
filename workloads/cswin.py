"""CSWin Transformer: half of the heads attend inside horizontal stripes, half inside vertical ones. Dong et al., CVPR
2022 (arXiv:2107.00652). Depths are those of the paper; the released code has other ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from workloads.blocks.attention import merge_heads, scaled_dot_product, split_heads
from workloads.blocks.convolution import convolution, depthwise
from workloads.blocks.dense import classifier, layer_norm, linear, mlp
from workloads.blocks.embedding import channels_first, channels_last, grid_of, image_input, tokens_of
from workloads.blocks.residual import Branch, residual
from workloads.blocks.window import partition, unpartition
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

STRIPES = (1, 2, 7, 7)
"""Width of the stripes of each stage."""

VARIANTS: Table = {
    "cswin_tiny": {"width": 64, "depths": (1, 2, 21, 1), "heads": 2},
    "cswin_small": {"width": 64, "depths": (2, 4, 32, 2), "heads": 2},
    "cswin_base": {"width": 96, "depths": (2, 4, 32, 2), "heads": 4},
}

SMALL: dict[str, Any] = {"image": 64, "width": 16, "depths": (1, 1, 1, 1), "stripes": (1, 2, 2, 2), "classes": 10}

REDUCED = {"cswin_tiny": SMALL}


@variants(VARIANTS, REDUCED)
def cswin(
    graph: Builder,
    batch: int,
    image: int,
    *,
    width: int,
    depths: Sequence[int],
    heads: int,
    stripes: Sequence[int] = STRIPES,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes). `heads` are those of the first stage."""

    def mix(stage: int) -> Branch:
        return partial(striped_attention, graph, heads=heads << stage, stripe=stripes[stage])

    pyramid(graph, batch, image, width, depths, mix, classes)


def pyramid(
    graph: Builder,
    batch: int,
    image: int,
    width: int,
    depths: Sequence[int],
    mix: Callable[[int], Branch],
    classes: int,
) -> None:
    """The four stages, in each of which `mix(stage)` mixes the tokens of a grid (batch, height, width, channels)."""
    value = convolution(graph, image_input(graph, batch, image, 32), width, 7, "stem", 4, 2, bias=True)
    grid = layer_norm(graph, channels_last(graph, value), "stem_norm")
    for stage, depth in enumerate(depths):
        with graph.scope(f"stage{stage}"):
            if stage:
                merged = convolution(graph, channels_first(graph, grid), width << stage, 3, "merge", 2, 1, bias=True)
                grid = layer_norm(graph, channels_last(graph, merged), "merge_norm")
            for block in range(depth):
                with graph.scope(f"block{block}"):
                    grid = residual(graph, grid, mix(stage), 1, layer_norm)
                    grid = residual(graph, grid, partial(mlp, graph, hidden=4 * grid.shape[-1]), 2, layer_norm)
    pooled = graph.mean(layer_norm(graph, grid, "norm"), (1, 2), "pool")
    graph.output(classifier(graph, pooled, classes), "logits")


def striped_attention(graph: Builder, grid: Value, heads: int, stripe: int) -> Value:
    """Attention inside vertical stripes for the first half of the channels and horizontal ones for the second; inside
    the whole grid where a stripe would cover it."""
    height, columns, width = grid.shape[1:]
    whole = stripe >= min(height, columns)
    windows = [(height, columns)] if whole else [(height, stripe), (stripe, columns)]
    with graph.scope("attention"):
        projected = linear(graph, grid, 3 * width, "query_key_value")
        roles = [graph.split(role, len(windows)) if not whole else [role] for role in graph.split(projected, 3)]
        mixed = []
        for branch, (window, parts) in enumerate(zip(windows, zip(*roles, strict=True), strict=True)):
            with graph.scope(f"stripes{branch}"):
                mixed.append(_in_stripes(graph, parts, heads // len(windows), window))
        return linear(graph, graph.concat(mixed, 3, "branches") if len(mixed) > 1 else mixed[0], width, "output")


def _in_stripes(graph: Builder, parts: Sequence[Value], heads: int, window: tuple[int, int]) -> Value:
    """Attention inside windows, plus a depthwise convolution of the values inside each for positions."""
    extents = (parts[0].shape[1], parts[0].shape[2])
    query, key, content = (partition(graph, part, window) for part in parts)
    local = tokens_of(graph, depthwise(graph, grid_of(graph, content, *window), 3, "local"))
    query, key, value = (
        split_heads(graph, part, heads, name) for part, name in ((query, "query"), (key, "key"), (content, "value"))
    )
    context = merge_heads(graph, scaled_dot_product(graph, query, key, value))
    return unpartition(graph, graph.add(context, local, "with_local"), extents, window)
