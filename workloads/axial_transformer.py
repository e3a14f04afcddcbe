"""Axial Transformer: an autoregressive image model whose layers attend along rows or along columns.

Ho et al., 2019 (arXiv:1912.12180). The three channels are generated one after another. An encoder reads the channels
that are there already, an outer decoder all rows above, an inner decoder the pixels to the left. Sampling runs the
encoder once for each channel, the outer decoder once for each row, the inner one, on a single row, once for each pixel.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
from onnx import TensorProto

from workloads.blocks.attention import causal_mask, encoder_attention
from workloads.blocks.axial import along
from workloads.blocks.dense import feed_forward, layer_norm, linear
from workloads.blocks.residual import residual
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

Part = Literal["whole", "encoder", "outer", "inner"]

CHANNELS = 3
LEVELS = 256
ROWS, COLUMNS = 1, 2

VARIANTS: Table = {"imagenet32": {"width": 1536}, "imagenet64": {"width": 2048}}

REDUCED: Table = {"imagenet32": {"image": 6, "width": 24, "heads": 2, "layers": 2, "levels": 16}}


@variants(VARIANTS, REDUCED)
def axial_transformer(
    graph: Builder,
    batch: int,
    image: int,
    *,
    width: int,
    heads: int = 16,
    layers: int = 8,
    expansion: int = 1,
    levels: int = LEVELS,
    part: Part = "whole",
) -> None:
    """Levels (batch, 3, image, image) of an image to logits of each, (batch, 3, image, image, levels), given the
    channels before it, the rows above and the pixels to its left.

    Sampling runs a `part`, for one channel: the encoder on the image, (batch, image, image, width) to context; the
    outer decoder on embedded levels and that context; the inner decoder on one row, (batch, 1, image, width) to logits.
    """
    decoder = _Decoder(graph, width, heads, layers, expansion, levels)
    grid = (batch, image, image, width)
    if part == "whole":
        pixels = graph.input("levels", (batch, CHANNELS, image, image), TensorProto.INT64)
        graph.output(decoder.whole(pixels), "logits")
    elif part == "encoder":
        graph.output(decoder.encoder(graph.input("embedded", grid)), "context")
    elif part == "outer":
        graph.output(decoder.outer(graph.input("embedded", grid), graph.input("context", grid)), "outer_context")
    else:
        row = (batch, 1, image, width)
        graph.output(decoder.inner(graph.input("embedded", row), graph.input("outer_context", row)), "logits")


class _Decoder:
    def __init__(self, graph: Builder, width: int, heads: int, layers: int, expansion: int, levels: int) -> None:
        self.graph, self.width, self.heads = graph, width, heads
        self.layers, self.hidden, self.levels = layers, expansion * width, levels

    def whole(self, pixels: Value) -> Value:
        """Logits of all pixels of all channels at once: the channels are a batch of images."""
        graph, (batch, channels, image, _) = self.graph, pixels.shape
        table = graph.weight("embedding/table", channels, self.levels, self.width)
        each = [
            graph.lookup(graph.take(table, channel, 0, "table"), graph.take(pixels, channel, 1, "channel"), "embedded")
            for channel in range(channels)
        ]
        embedded = graph.concat([graph.unsqueeze(one, [1]) for one in each], 1, "channels")
        earlier = self._earlier(embedded)
        shape = (batch * channels, image, image, self.width)
        context = self.encoder(graph.reshape(earlier, shape, "earlier_channels"))
        slices = graph.reshape(embedded, shape, "slices")
        logits = self.inner(slices, self.outer(slices, context))
        return graph.reshape(logits, (batch, channels, image, image, self.levels), "logits_by_channel")

    def _earlier(self, embedded: Value) -> Value:
        """For each channel the sum of those before it."""
        before = np.tril(np.ones((CHANNELS, CHANNELS), np.float32), -1)
        flat = self.graph.reshape(embedded, (embedded.shape[0], CHANNELS, embedded.shape[2] ** 2 * self.width))
        summed = self.graph.matmul(self.graph.constant("before", before), flat, "earlier")
        return self.graph.reshape(summed, embedded.shape, "earlier_grids")

    def encoder(self, grid: Value) -> Value:
        """Unmasked rows and columns in turn."""
        with self.graph.scope("encoder"):
            grid = self._placed(grid)
            for layer in range(self.layers):
                grid = self._layer(grid, COLUMNS if layer % 2 == 0 else ROWS, f"layer{layer}")
            return layer_norm(self.graph, grid, "norm")

    def outer(self, grid: Value, context: Value) -> Value:
        """Whole rows, and columns up to each row; moved a row down, so that a row knows those above it alone."""
        with self.graph.scope("outer"):
            grid = self.graph.add(self._placed(grid), context, "conditioned")
            for layer in range(self.layers):
                masked = layer % 2 == 1
                grid = self._layer(grid, ROWS if masked else COLUMNS, f"layer{layer}", masked)
            return self._shifted(layer_norm(self.graph, grid, "norm"), ROWS)

    def inner(self, grid: Value, outer_context: Value) -> Value:
        """Rows up to each pixel, moved a pixel to the right, and the logits."""
        with self.graph.scope("inner"):
            grid = self.graph.add(self._shifted(grid, COLUMNS), outer_context, "conditioned")
            grid = self.graph.add(grid, self._places(COLUMNS, grid.shape[COLUMNS]), "placed")
            for layer in range(self.layers):
                grid = self._layer(grid, COLUMNS, f"layer{layer}", masked=True)
            return linear(self.graph, layer_norm(self.graph, grid, "norm"), self.levels, "logits")

    def _layer(self, grid: Value, axis: int, name: str, masked: bool = False) -> Value:
        """x + attention(norm(x)) along an axis, then x + dense(norm(x))."""
        graph, length = self.graph, grid.shape[axis]
        mask = graph.once(f"causal{length}", lambda: causal_mask(graph, length, length)) if masked else None
        attend = partial(encoder_attention, graph, heads=self.heads, mask=mask)
        with graph.scope(name):
            grid = residual(graph, grid, lambda value: along(graph, value, axis, attend), 1, layer_norm)
            feed = partial(feed_forward, graph, hidden=self.hidden, activation="relu")
            return residual(graph, grid, feed, 2, layer_norm)

    def _placed(self, grid: Value) -> Value:
        """With a learned vector for each row and one for each column added."""
        for axis in (ROWS, COLUMNS):
            grid = self.graph.add(grid, self._places(axis, grid.shape[axis]), "placed")
        return grid

    def _places(self, axis: int, length: int) -> Value:
        shape = [1, 1, 1, self.width]
        shape[axis] = length
        return self.graph.weight("rows" if axis == ROWS else "columns", *shape)

    def _shifted(self, grid: Value, axis: int) -> Value:
        """Moved one place along `axis`, zeros first."""
        kept = self.graph.slice(grid, 0, grid.shape[axis] - 1, axis, "kept")
        return self.graph.pad(kept, {axis: (1, 0)}, "shifted")
