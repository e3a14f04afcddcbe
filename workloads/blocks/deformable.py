"""Deformable convolution in standard operators: bilinear samples at learned offsets, then a product."""

from __future__ import annotations

import numpy as np

from workloads.blocks.convolution import convolution
from workloads.builder import Builder, Value


def deformable_convolution(
    graph: Builder, value: Value, channels: int, kernel: int, name: str, stride: int = 1, padding: int = 0
) -> Value:
    """A convolution of (batch, channels, height, width) whose taps are moved by offsets and scaled by masks, which
    another convolution predicts (Zhu et al. 2019, arXiv:1811.11168); zeros lie outside the image.

    One GridSample reads all taps. The predictor's channels are column and row of each tap's offset, then the masks.
    """
    batch, inner, height, width = value.shape
    taps = kernel * kernel
    with graph.scope(name):
        predicted = convolution(graph, value, 3 * taps, kernel, "offset", stride, padding, bias=True)
        rows, columns = predicted.shape[2:]
        offsets, masks = graph.split_sizes(predicted, (2 * taps, taps), 1)
        split = graph.reshape(offsets, (batch, taps, 2, rows, columns), "offsets")
        ordered = graph.transpose(split, (0, 1, 3, 4, 2))
        places = graph.add(ordered, graph.constant("places", _places(kernel, stride, padding, rows, columns)))
        scaled = graph.multiply(
            places, graph.constant("scale", np.array([2 / (width - 1), 2 / (height - 1)], np.float32))
        )
        where = graph.binary("Sub", scaled, graph.scalar("one", 1.0), "normalised")
        where = graph.reshape(where, (batch, taps * rows, columns, 2), "grid")
        shape = (batch, inner, taps * rows, columns)
        [sampled] = graph.node("GridSample", [value, where], [shape], mode="linear", align_corners=1)
        sampled = graph.reshape(sampled, (batch, inner, taps, rows, columns), "by_tap")
        masks = graph.unsqueeze(graph.unary("Sigmoid", masks), [1], "masks")
        flat = graph.reshape(graph.multiply(sampled, masks), (batch, inner * taps, rows, columns), "taps")
        return convolution(graph, flat, channels, 1, "product", bias=True)


def _places(
    kernel: int, stride: int, padding: int, rows: int, columns: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Column and row of each tap before it is moved: (taps, rows, columns, 2)."""
    tap = np.stack(np.meshgrid(np.arange(kernel), np.arange(kernel), indexing="ij"), -1).reshape(-1, 1, 1, 2)
    output = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)
    return np.ascontiguousarray((output * stride + tap - padding)[..., ::-1].astype(np.float32))
