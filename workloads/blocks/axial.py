"""Sequences along one axis of a grid."""

from __future__ import annotations

from workloads.blocks.residual import Branch
from workloads.builder import Builder, Value


def along(graph: Builder, grid: Value, axis: int, mix: Branch) -> Value:
    """A grid (batch, height, width, channels) through `mix`, which is given the sequences along `axis`, 1 or 2:
    (batch x the other extent, length, channels)."""
    batch, *extents, channels = grid.shape
    if axis == 1:
        grid = graph.transpose(grid, (0, 2, 1, 3), "axis_inside")
    apart, length = grid.shape, extents[axis - 1]
    sequences = graph.reshape(grid, (batch * extents[2 - axis], length, channels), "sequences")
    grid = graph.reshape(mix(sequences), apart, "apart")
    return graph.transpose(grid, (0, 2, 1, 3), "axis_back") if axis == 1 else grid
