"""The dual-tree complex wavelet transform of one level, and its inverse: separable filters of odd length.

Kingsbury, Applied and Computational Harmonic Analysis 2001. One level keeps the low band at the extents of the image,
and gives six oriented bands of complex numbers at half of them. Images are (batch, channels, height, width) of even
extents, and continue beyond their borders as their mirror images, border pixels repeated.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from workloads.builder import Builder, Value

Taps = np.ndarray[tuple[int], np.dtype[np.float32]]


def _symmetric(*half: float) -> Taps:
    """A filter from its first half and its middle."""
    return np.array([*half, *half[-2::-1]], np.float32)


# The filters "near_sym_b" of the package dtcwt 0.14.0, of 13 and 19 taps. An image is what the low and high band of
# analysis, each through its synthesis filter, add up to.
ANALYSIS_LOW = _symmetric(-0.0017578125, 0, 0.022265625, -0.046875, -0.0482421875, 0.296875, 0.55546875)
ANALYSIS_HIGH = _symmetric(
    -7.062639508928571e-05, 0, 0.0013419015066964285, -0.0018833705357142855, -0.007156808035714285,
    0.023856026785714284, 0.05564313616071428, -0.05168805803571428, -0.29975760323660716, 0.5594308035714286,
)  # fmt: skip
SYNTHESIS_LOW = ANALYSIS_HIGH * -((-1.0) ** np.arange(19, dtype=np.float32))
SYNTHESIS_HIGH = ANALYSIS_LOW * (-1.0) ** np.arange(13, dtype=np.float32)


class Bands(NamedTuple):
    """The low band (batch, channels, height, width), and real and imaginary parts of the six oriented bands (batch, 6,
    channels, height / 2, width / 2) each."""

    low: Value
    real: Value
    imaginary: Value


def wavelet_bands(graph: Builder, image: Value) -> Bands:
    """The bands of an image."""
    with graph.scope("analysis"):
        low, high = (filtered(graph, image, taps, 3) for taps in (ANALYSIS_LOW, ANALYSIS_HIGH))
        pairs = ((low, ANALYSIS_HIGH), (high, ANALYSIS_LOW), (high, ANALYSIS_HIGH))
        quads = [filtered(graph, band, taps, 2) for band, taps in pairs]
        parts = [_complex_pair(graph, quad) for quad in quads]
        real, imaginary = (
            graph.concat([graph.unsqueeze(part[at][kind], [1]) for part in parts for at in range(2)], 1, name)
            for kind, name in enumerate(("real", "imaginary"))
        )
        return Bands(filtered(graph, low, ANALYSIS_LOW, 2), real, imaginary)


def image_of_bands(graph: Builder, bands: Bands) -> Value:
    """The image that has these bands."""
    with graph.scope("synthesis"):
        bands_of = [
            (graph.take(bands.real, at, 1, "real"), graph.take(bands.imaginary, at, 1, "imaginary")) for at in range(6)
        ]
        quads = [_quad(graph, bands_of[at], bands_of[at + 1]) for at in (0, 2, 4)]
        low_parts = (filtered(graph, bands.low, SYNTHESIS_LOW, 2), filtered(graph, quads[0], SYNTHESIS_HIGH, 2))
        high_parts = (filtered(graph, quads[1], SYNTHESIS_LOW, 2), filtered(graph, quads[2], SYNTHESIS_HIGH, 2))
        low, high = (graph.add(parts[0], parts[1], "columns") for parts in (low_parts, high_parts))
        rows = filtered(graph, low, SYNTHESIS_LOW, 3), filtered(graph, high, SYNTHESIS_HIGH, 3)
        return graph.add(rows[0], rows[1], "image")


def filtered(graph: Builder, image: Value, taps: Taps, axis: int) -> Value:
    """An image, mirrored beyond its borders, convolved with one symmetric filter along an axis, 2 or 3."""
    batch, channels, height, width = image.shape
    margin, extent = len(taps) // 2, image.shape[axis]
    places = np.arange(-margin, extent + margin) % (2 * extent)
    mirrored = graph.pick(image, np.minimum(places, 2 * extent - 1 - places), axis, "mirrored")
    planes = graph.reshape(mirrored, (batch * channels, 1, *mirrored.shape[2:]), "planes")
    kernel = (len(taps), 1) if axis == 2 else (1, len(taps))
    weight = graph.constant("taps", taps.astype(np.float32).reshape(1, 1, *kernel))
    [result] = graph.node("Conv", [planes, weight], [(batch * channels, 1, height, width)], kernel_shape=kernel)
    return graph.reshape(result, image.shape, "filtered")


Complex = tuple[Value, Value]
"""Real and imaginary part."""


def _complex_pair(graph: Builder, band: Value) -> tuple[Complex, Complex]:
    """Two complex bands from the four pixels a b / c d of each 2x2: (a - d, b + c) and (a + d, b - c) over root 2."""
    a, b, c, d = _pixels(graph, graph.multiply(band, graph.scalar("root", 1 / math.sqrt(2)), "scaled"))
    first = graph.binary("Sub", a, d), graph.add(b, c)
    return first, (graph.add(a, d), graph.binary("Sub", b, c))


def _quad(graph: Builder, first: Complex, second: Complex) -> Value:
    """The reverse of `_complex_pair`."""
    pixels = (
        graph.add(first[0], second[0]), graph.add(first[1], second[1]),
        graph.binary("Sub", first[1], second[1]), graph.binary("Sub", second[0], first[0]),
    )  # fmt: skip
    batch, channels, height, width = first[0].shape
    stacked = graph.concat([graph.unsqueeze(pixel, [2]) for pixel in pixels], 2, "pixels")
    apart = graph.reshape(stacked, (batch, channels, 2, 2, height, width), "apart")
    ordered = graph.transpose(apart, (0, 1, 4, 2, 5, 3), "ordered")
    whole = graph.reshape(ordered, (batch, channels, 2 * height, 2 * width), "whole")
    return graph.multiply(whole, graph.scalar("root", 1 / math.sqrt(2)), "scaled")


def _pixels(graph: Builder, image: Value) -> list[Value]:
    """The four pixels of each 2x2, row by row: (batch, channels, height / 2, width / 2) each."""
    batch, channels, height, width = image.shape
    apart = graph.reshape(image, (batch, channels, height // 2, 2, width // 2, 2), "apart")
    return [
        graph.take(graph.take(apart, row, 3, "row"), column, 4, "pixel") for row in range(2) for column in range(2)
    ]
