"""BiFormer: each region of the image picks the regions that matter to it, and its tokens attend to theirs alone. Zhu et
al., CVPR 2023 (arXiv:2303.08810).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from codesign.errors import BadParameter
from workloads.blocks.attention import merge_heads, project_heads, scaled_dot_product, split_heads
from workloads.blocks.convolution import batch_norm, conv_norm, convolution, depthwise, pooled_classifier
from workloads.blocks.dense import layer_norm, linear, mlp
from workloads.blocks.embedding import channels_first, channels_last, grid_of, image_input, tokens_of
from workloads.blocks.residual import Branch, residual
from workloads.blocks.window import partition, unpartition
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

REGIONS = 7
"""Rows and columns of regions."""
PICKED = (1, 4, 16, None)
"""Regions that each region attends to in each stage; None: attention to every token."""
FULL_HEADS = 8
"""Heads of the attention to every token."""
LOCAL_KERNEL = 5

VARIANTS: Table = {
    "biformer_tiny": {"widths": (64, 128, 256, 512), "depths": (2, 2, 8, 2)},
    "biformer_small": {"widths": (64, 128, 256, 512), "depths": (4, 4, 18, 4)},
    "biformer_base": {"widths": (96, 192, 384, 768), "depths": (4, 4, 18, 4)},
    "biformer_stl": {"widths": (96, 192, 384, 768), "depths": (2, 2, 6, 2), "swin_layout": True},
}

SMALL: dict[str, Any] = {
    "image": 64, "widths": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "regions": 2, "picked": (1, 2, 4, None),
    "head_size": 8, "classes": 10,
}  # fmt: skip

REDUCED = {"biformer_tiny": SMALL, "biformer_stl": SMALL}

norm = partial(layer_norm, epsilon=1e-6)


@variants(VARIANTS, REDUCED)
def biformer(
    graph: Builder,
    batch: int,
    image: int,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    swin_layout: bool = False,
    regions: int = REGIONS,
    picked: Sequence[int | None] = PICKED,
    head_size: int = 32,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes). `swin_layout` has Swin's patches and perceptrons."""
    value = image_input(graph, batch, image, 32)
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        with graph.scope(f"stage{stage}"):
            value = (_merged if swin_layout else _convolved)(graph, value, width, first=not stage)
            mix = partial(_mixed, graph, regions=regions, picked=picked[stage], heads=width // head_size)
            for block in range(depth):
                with graph.scope(f"block{block}"):
                    value = _block(graph, value, mix, swin_layout)
    graph.output(pooled_classifier(graph, batch_norm(graph, value), classes), "logits")


def _convolved(graph: Builder, value: Value, width: int, first: bool) -> Value:
    """Half the extents by a convolution with norm; a quarter by two of them at first."""
    if first:
        value = conv_norm(graph, value, width // 2, 3, "stem", 2, 1, bias=True, activation="gelu")
    return conv_norm(graph, value, width, 3, "downsample", 2, 1, bias=True, activation="none")


def _merged(graph: Builder, value: Value, width: int, first: bool) -> Value:
    """Patches of 4x4 pixels and a norm at first, then a norm and patches of 2x2."""
    if first:
        return conv_norm(graph, value, width, 4, "stem", 4, bias=True, activation="none")
    return convolution(graph, batch_norm(graph, value, "downsample_norm"), width, 2, "downsample", 2, bias=True)


def _block(graph: Builder, value: Value, mix: Branch, swin_layout: bool) -> Value:
    """x + depthwise(x) (not in Swin's layout), x + mix(norm(x)), x + mlp(norm(x))."""
    if not swin_layout:
        value = graph.add(value, depthwise(graph, value, 3, "position"), "positioned")
    grid = residual(graph, channels_last(graph, value), mix, 1, norm)
    feed = partial(mlp, graph, hidden=(4 if swin_layout else 3) * grid.shape[-1])
    return channels_first(graph, residual(graph, grid, feed, 2, norm))


def _mixed(graph: Builder, grid: Value, regions: int, picked: int | None, heads: int) -> Value:
    if picked is None:
        return _full_attention(graph, grid)
    return routed_attention(graph, grid, regions, picked, heads)


def routed_attention(graph: Builder, grid: Value, regions: int, picked: int, heads: int) -> Value:
    """Attention of each of `regions`^2 regions to the tokens of the `picked` regions whose mean keys answer its mean
    query best, plus a depthwise convolution of the values. Scores are scaled by the whole width.

    Raises BadParameter when regions do not fill the grid.
    """
    batch, height, columns, width = grid.shape
    if height % regions or columns % regions:
        raise BadParameter(
            f"workload '{graph.name}': {regions}x{regions} regions do not fill a grid of {height}x{columns}"
        )
    window, count = (height // regions, columns // regions), regions**2
    tokens = window[0] * window[1]
    with graph.scope("attention"):
        projected = linear(graph, partition(graph, grid, window), 3 * width, "query_key_value")
        query, key_value = graph.split_sizes(projected, (width, 2 * width))
        with graph.scope("routing"):
            index = _picked(graph, query, graph.slice(key_value, 0, width, 2, "keys"), batch, picked, width**-0.5)
            by_region = graph.reshape(key_value, (batch, count, tokens * 2 * width), "by_region")
            [gathered] = graph.node(
                "GatherND", [by_region, index], [(batch, count, picked, tokens * 2 * width)], batch_dims=1
            )
        seen = graph.reshape(gathered, (batch * count, picked * tokens, 2 * width), "seen")
        key, content = (split_heads(graph, part, heads, "seen") for part in graph.split(seen, 2))
        context = scaled_dot_product(graph, split_heads(graph, query, heads, "query"), key, content, scale=width**-0.5)
        mixed = unpartition(graph, merge_heads(graph, context), (height, columns), window)
        values = unpartition(graph, graph.slice(key_value, width, 2 * width, 2, "values"), (height, columns), window)
        local = channels_last(graph, depthwise(graph, channels_first(graph, values), LOCAL_KERNEL, "local"))
        return linear(graph, graph.add(mixed, local, "with_local"), width, "output")


def _picked(graph: Builder, query: Value, key: Value, batch: int, picked: int, scale: float) -> Value:
    """Numbers of the `picked` regions whose mean key has the largest product with each region's mean query:
    (batch, regions, picked, 1)."""
    count, width = query.shape[0] // batch, query.shape[2]
    means = [graph.reshape(graph.mean(part, (1,)), (batch, count, width), "mean") for part in (query, key)]
    scaled = graph.multiply(means[0], graph.scalar("scale", scale))
    affinity = graph.matmul(scaled, graph.transpose(means[1], (0, 2, 1)), "affinity")
    _, positions = graph.top_k(affinity, picked)
    return graph.unsqueeze(positions, [3], "index")


def _full_attention(graph: Builder, grid: Value) -> Value:
    """Attention to every token, plus a depthwise convolution of the input."""
    batch, height, columns, width = grid.shape
    local = tokens_of(graph, depthwise(graph, channels_first(graph, grid), LOCAL_KERNEL, "local"))
    with graph.scope("attention"):
        tokens = graph.reshape(grid, (batch, height * columns, width), "tokens")
        query, key, content = project_heads(graph, tokens, width, FULL_HEADS, "query", "key", "value", bias=False)
        context = merge_heads(graph, scaled_dot_product(graph, query, key, content))
        mixed = linear(graph, graph.add(context, local, "with_local"), width, "output")
    return channels_last(graph, grid_of(graph, mixed, height, columns))
