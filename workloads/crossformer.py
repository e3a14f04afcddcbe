"""CrossFormer: tokens of several patch sizes at once; attention among neighbours and among tokens far apart take turns.

Wang et al., ICLR 2022 (arXiv:2108.00154). CrossFormer++ (Wang et al. 2023, arXiv:2303.06908) has groups that grow with
depth and, after every third block but a stage's last, a cooling layer: a depthwise convolution and a norm, no residual.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from workloads.blocks.attention import merge_heads, project_heads
from workloads.blocks.convolution import convolution, depthwise
from workloads.blocks.dense import classifier, layer_norm, linear, mlp
from workloads.blocks.embedding import channels_first, channels_last, image_input
from workloads.blocks.residual import residual
from workloads.blocks.window import cut, fill_mask, filled, gather_offsets, partition, unpartition, window_attention
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

STEM_KERNELS, STEM_STRIDE = (4, 8, 16, 32), 4
MERGE_KERNELS = (2, 4)
BIAS_SHARE = 16
"""Width of a stage in that of the perceptron that makes its position biases."""
COOLING_PERIOD = 3

PLUS: dict[str, Any] = {"groups": (4, 4, 14, 7), "intervals": (4, 2, 1, 1), "cooling": True}
DEEP = (2, 2, 18, 2)

VARIANTS: Table = {
    "crossformer_t": {"width": 64, "depths": (1, 1, 8, 6)},
    "crossformer_s": {"width": 96, "depths": (2, 2, 6, 2)},
    "crossformer_b": {"width": 96, "depths": DEEP},
    "crossformer_l": {"width": 128, "depths": DEEP},
    "crossformer_pp_s": {"width": 64, "depths": DEEP, **PLUS},
    "crossformer_pp_b": {"width": 96, "depths": DEEP, **PLUS},
}

SMALL: dict[str, Any] = {"image": 96, "width": 32, "depths": (2, 4), "head_size": 8, "classes": 10}

REDUCED: Table = {
    "crossformer_s": {**SMALL, "groups": (4, 4), "intervals": (3, 3)},
    "crossformer_pp_s": {**SMALL, "groups": (4, 4), "intervals": (4, 1)},
}


@variants(VARIANTS, REDUCED)
def crossformer(
    graph: Builder,
    batch: int,
    image: int,
    *,
    width: int,
    depths: Sequence[int],
    groups: Sequence[int] = (7, 7, 7, 7),
    intervals: Sequence[int] = (8, 4, 2, 1),
    cooling: bool = False,
    head_size: int = 32,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    pixels = image_input(graph, batch, image, STEM_STRIDE << (len(depths) - 1))
    grid = layer_norm(graph, _cross_scale(graph, pixels, width, STEM_KERNELS, STEM_STRIDE, "stem"), "stem_norm")
    for stage, depth in enumerate(depths):
        with graph.scope(f"stage{stage}"):
            if stage:
                normed = channels_first(graph, layer_norm(graph, grid, "merge_norm"))
                grid = _cross_scale(graph, normed, width << stage, MERGE_KERNELS, 2, "merge")
            for block in range(depth):
                with graph.scope(f"block{block}"):
                    interval = intervals[stage] if block % 2 else 1
                    mix = partial(
                        grouped, graph, heads=(width << stage) // head_size, group=groups[stage], interval=interval
                    )
                    grid = residual(graph, grid, mix, 1, layer_norm)
                    grid = residual(graph, grid, partial(mlp, graph, hidden=4 * grid.shape[-1]), 2, layer_norm)
                    if cooling and not (block + 1) % COOLING_PERIOD and block + 1 < depth:
                        grid = _cooled(graph, grid)
    pooled = graph.mean(layer_norm(graph, grid, "norm"), (1, 2), "pool")
    graph.output(classifier(graph, pooled, classes), "logits")


def _cross_scale(graph: Builder, value: Value, width: int, kernels: Sequence[int], stride: int, name: str) -> Value:
    """Convolutions of several kernels and one stride side by side, half of what is left of the width for each but the
    last: (batch, height, width, channels)."""
    shares = [width >> (number + 1) for number in range(len(kernels) - 1)]
    with graph.scope(name):
        scales = [
            convolution(graph, value, channels, kernel, f"kernel{kernel}", stride, (kernel - stride) // 2, bias=True)
            for kernel, channels in zip(kernels, [*shares, width - sum(shares)], strict=True)
        ]
        return channels_last(graph, graph.concat(scales, 1, "scales"))


def grouped(graph: Builder, grid: Value, heads: int, group: int, interval: int) -> Value:
    """Attention inside groups of tokens that stand `interval` apart; in all of the grid where that is no larger than a
    group. Zeros fill the grid up to whole groups, and are hidden."""
    extents = (grid.shape[1], grid.shape[2])
    group, interval = (max(extents), 1) if min(extents) <= group else (group, interval)
    padded, size = filled(graph, grid, group * interval), (group, group)
    mask = fill_mask(graph, extents, size, interval) if padded is not grid else None
    windows = partition(graph, padded, size, interval)
    with graph.scope("attention"):
        query, key, content = project_heads(graph, windows, grid.shape[-1], heads, "query", "key", "value")
        bias = _dynamic_bias(graph, heads, grid.shape[-1] // BIAS_SHARE, group)
        context = window_attention(graph, query, key, content, bias, mask)
        windows = linear(graph, merge_heads(graph, context), grid.shape[-1], "output")
    mixed = unpartition(graph, windows, (padded.shape[1], padded.shape[2]), size, interval)
    return cut(graph, mixed, extents)


def _dynamic_bias(graph: Builder, heads: int, width: int, group: int) -> Value:
    """A perceptron's answer to the offset of each pair of a group's tokens: (heads, tokens, tokens)."""
    span = np.arange(1 - group, group, dtype=np.float32)
    offsets = np.stack(np.meshgrid(span, span, indexing="ij"), axis=-1).reshape(-1, 2)
    with graph.scope("positions"):
        value = graph.once(f"offsets_{group}", lambda: graph.constant("table", offsets))
        value = linear(graph, value, width, "projection")
        for layer, features in enumerate((width, width, heads)):
            with graph.scope(f"layer{layer}"):
                value = linear(graph, graph.unary("Relu", layer_norm(graph, value, "norm")), features, "linear")
        return gather_offsets(graph, value, (group, group))


def _cooled(graph: Builder, grid: Value) -> Value:
    """Norm of a depthwise convolution, without a residual: it stops amplitudes from growing with depth."""
    filtered = depthwise(graph, channels_first(graph, grid), 3, "cooling")
    return layer_norm(graph, channels_last(graph, filtered), "cooling_norm")
