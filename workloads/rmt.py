"""RMT: vision backbones whose attention decays with the Manhattan distance between two tokens.

Fan et al., CVPR 2024 (arXiv:2309.11523). Early stages, whose grids are large, attend along rows and then columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from workloads.blocks.activation import activate
from workloads.blocks.attention import merge_heads, scaled_dot_product, split_heads
from workloads.blocks.convolution import batch_norm, conv_norm, depthwise, pooled_classifier
from workloads.blocks.dense import layer_norm, linear
from workloads.blocks.embedding import grid_of, image_input, tokens_of
from workloads.blocks.positions import Rotation, rotate, rotation_by
from workloads.blocks.residual import residual
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

block_norm = partial(layer_norm, epsilon=1e-6)

PROJECTED = 1024
"""Channels before pooling."""

FIRST_DECAY = 2
"""The first head of a stage keeps 1 - 2^-2 of a neighbour's score; the others up to 1 - 2^-(2 + range)."""

VARIANTS: Table = {
    "rmt_t": {
        "widths": (64, 128, 256, 512), "depths": (2, 2, 8, 2), "heads": (4, 4, 8, 16), "expansions": (3, 3, 3, 3),
        "ranges": (4, 4, 6, 6), "axial": (True, True, False, False),
    },
    "rmt_s": {
        "widths": (64, 128, 256, 512), "depths": (3, 4, 18, 4), "heads": (4, 4, 8, 16), "expansions": (4, 4, 3, 3),
        "ranges": (4, 4, 6, 6),
    },
    "rmt_b": {
        "widths": (80, 160, 320, 512), "depths": (4, 8, 25, 8), "heads": (5, 5, 10, 16), "expansions": (4, 4, 3, 3),
        "ranges": (5, 5, 6, 6), "layer_scale": (False, False, True, True),
    },
    "rmt_l": {
        "widths": (112, 224, 448, 640), "depths": (4, 8, 25, 8), "heads": (7, 7, 14, 20), "expansions": (4, 4, 3, 3),
        "ranges": (6, 6, 6, 6), "layer_scale": (False, False, True, True),
    },
}  # fmt: skip

REDUCED: Table = {
    "rmt_b": {
        "image": 64, "widths": (16, 24, 32, 48), "depths": (1, 1, 1, 1), "heads": (2, 3, 2, 4), "classes": 10,
    }
}  # fmt: skip


@variants(VARIANTS, REDUCED)
def rmt(
    graph: Builder,
    batch: int,
    image: int,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    heads: Sequence[int],
    expansions: Sequence[int],
    ranges: Sequence[int],
    axial: Sequence[bool] = (True, True, True, False),
    layer_scale: Sequence[bool] = (False, False, False, False),
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    value = stem(graph, image_input(graph, batch, image, 32), widths[0])
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        with graph.scope(f"stage{stage}"):
            if stage:
                value = conv_norm(graph, value, width, 3, "reduction", 2, 1, bias=True, activation="none")
            retention = Retention(graph, value, heads[stage], ranges[stage], axial[stage])
            for block in range(depth):
                with graph.scope(f"block{block}"):
                    value = retention_block(graph, value, retention, expansions[stage] * width, layer_scale[stage])
    tokens = linear(graph, tokens_of(graph, value), PROJECTED, "projection")
    value = batch_norm(graph, grid_of(graph, tokens, *value.shape[2:]), "norm")
    graph.output(pooled_classifier(graph, activate(graph, value, "silu"), classes), "logits")


def stem(graph: Builder, value: Value, width: int) -> Value:
    """Four 3x3 convolutions to a quarter of the extent."""
    with graph.scope("stem"):
        for number, (channels, stride) in enumerate(((width // 2, 2), (width // 2, 1), (width, 2), (width, 1))):
            last = number == 3
            value = conv_norm(
                graph, value, channels, 3, f"layer{number}", stride, 1, bias=True, activation="none" if last else "gelu"
            )
        return value


def retention_block(graph: Builder, grid: Value, retention: Retention, hidden: int, layer_scale: bool) -> Value:
    """A depthwise convolution for positions, retention, and feed-forward layers, each added to the grid."""
    extents = (grid.shape[2], grid.shape[3])
    grid = residual(graph, grid, partial(depthwise, graph, kernel=3, name="position"), 0)
    tokens = tokens_of(graph, grid)
    tokens = residual(graph, tokens, retention, 1, block_norm, layer_scale)
    feed = partial(convolved_feed_forward, graph, hidden=hidden, extents=extents)
    return grid_of(graph, residual(graph, tokens, feed, 2, block_norm, layer_scale), *extents)


def convolved_feed_forward(graph: Builder, value: Value, hidden: int, extents: tuple[int, int]) -> Value:
    """Feed-forward layers whose hidden features have a depthwise convolution over the grid added."""
    with graph.scope("mlp"):
        inner = activate(graph, linear(graph, value, hidden, "up"), "gelu")
        local = depthwise(graph, grid_of(graph, inner, *extents), 3, "depthwise")
        inner = graph.add(inner, tokens_of(graph, local), "convolved")
        return linear(graph, inner, value.shape[-1], "down")


class Retention:
    """Attention of a stage: heads that decay with distance, over the whole grid or `axial`, rows first."""

    def __init__(self, graph: Builder, grid: Value, heads: int, decay_range: int, axial: bool) -> None:
        batch, width, height, columns = grid.shape
        self.graph, self.heads, self.axial = graph, heads, axial
        self.extents = (height, columns)
        decays = np.log(1 - 2.0 ** -(FIRST_DECAY + decay_range * np.arange(heads) / heads))
        with graph.scope("decay"):
            self.decays = graph.constant("rates", decays.astype(np.float32).reshape(heads, 1, 1))
            axes = (np.arange(height), np.arange(columns))
            places = axes if axial else [place.ravel() for place in np.meshgrid(*axes, indexing="ij")]
            apart = [self._distances(place, name) for place, name in zip(places, ("down", "along"), strict=True)]
            distances = apart if axial else [graph.add(apart[0], apart[1], "manhattan")]
            self.masks = [graph.multiply(one, self.decays, "mask") for one in distances]
        self.rotation = _rotation(graph, batch, height * columns, width // heads)

    def _distances(self, places: np.ndarray[Any, Any], name: str) -> Value:
        """|i - j| for each pair of places: made in the graph, a table would be their square."""
        column = self.graph.constant(f"{name}.to", places.astype(np.float32)[:, None])
        row = self.graph.constant(f"{name}.from", places.astype(np.float32)[None])
        return self.graph.unary("Abs", self.graph.binary("Sub", column, row, name))

    def __call__(self, value: Value) -> Value:
        graph, width = self.graph, value.shape[-1]
        with graph.scope("retention"):
            query, key, content = (linear(graph, value, width, role) for role in ("query", "key", "value"))
            local = tokens_of(graph, depthwise(graph, grid_of(graph, content, *self.extents), 5, "local"))
            query, key, content = (
                split_heads(graph, one, self.heads, role)
                for one, role in ((query, "query"), (key, "key"), (content, "value"))
            )
            key = graph.multiply(key, graph.scalar("scale", 1 / math.sqrt(width // self.heads)), "key_scaled")
            query, key = rotate(graph, query, self.rotation, "query"), rotate(graph, key, self.rotation, "key")
            if self.axial:
                context = self._along_axes(query, key, content)
            else:
                context = scaled_dot_product(graph, query, key, content, self.masks[0], scale=1.0)
            return linear(graph, graph.add(merge_heads(graph, context), local, "context"), width, "output")

    def _along_axes(self, query: Value, key: Value, content: Value) -> Value:
        """(batch, heads, tokens, size) operands, mixed within each row and the result within each column."""
        graph, shape = self.graph, query.shape
        grids = [graph.reshape(one, (*shape[:2], *self.extents, shape[-1]), "grid") for one in (query, key, content)]
        query, key, content = (graph.transpose(grid, (0, 2, 1, 3, 4), "by_row") for grid in grids)
        mixed = scaled_dot_product(graph, query, key, content, self.masks[1], "row_scores", scale=1.0)
        mixed = graph.transpose(mixed, (0, 3, 2, 1, 4), "columns_of_rows")
        query, key = (graph.transpose(grid, (0, 3, 1, 2, 4), "by_column") for grid in grids[:2])
        mixed = scaled_dot_product(graph, query, key, mixed, self.masks[0], "column_scores", scale=1.0)
        return graph.reshape(graph.transpose(mixed, (0, 2, 3, 1, 4), "by_head"), shape, "tokens")


def _rotation(graph: Builder, batch: int, tokens: int, size: int) -> Rotation:
    """Angles token x 10000^(-i / (n - 1)) for the i-th of n pairs that stand side by side, as RetNet turns them."""
    frequencies = 10_000.0 ** -np.linspace(0, 1, size // 2)
    return rotation_by(graph, batch, np.outer(np.arange(tokens), frequencies), interleaved=True)
