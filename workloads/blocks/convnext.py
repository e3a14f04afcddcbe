"""ConvNeXt: convolutions in the order of a transformer's layers (Liu et al. 2022, arXiv:2201.03545)."""

from __future__ import annotations

from collections.abc import Sequence

from workloads.blocks.convolution import channel_norm, convolution, depthwise
from workloads.blocks.dense import layer_norm, mlp
from workloads.blocks.embedding import grid_of, tokens_of
from workloads.blocks.residual import residual
from workloads.builder import Builder, Value

EXPANSION = 4


def convnext_block(graph: Builder, grid: Value) -> Value:
    """A 7x7 depthwise convolution, then a perceptron for each pixel, scaled and added."""
    extents = (grid.shape[2], grid.shape[3])

    def branch(value: Value) -> Value:
        tokens = layer_norm(graph, tokens_of(graph, depthwise(graph, value, 7, "depthwise")), "norm", 1e-6)
        return mlp(graph, tokens, EXPANSION * grid.shape[1])

    tokens = residual(graph, tokens_of(graph, grid), lambda _: branch(grid), 1, layer_scale=True)
    return grid_of(graph, tokens, *extents)


def convnext_stages(graph: Builder, value: Value, widths: Sequence[int], depths: Sequence[int]) -> list[Value]:
    """The maps after each stage, the first at a quarter of the image and each further one at half of that, extents that
    do not divide rounded up."""
    maps = []
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        with graph.scope(f"stage{stage}"):
            if stage == 0:
                value = convolution(graph, value, width, 4, "patches", 4, "same", bias=True)
                value = channel_norm(graph, value, "norm")
            else:
                value = channel_norm(graph, value, "norm")
                value = convolution(graph, value, width, 2, "downsample", 2, "same", bias=True)
            for block in range(depth):
                with graph.scope(f"block{block}"):
                    value = convnext_block(graph, value)
            maps.append(value)
    return maps
