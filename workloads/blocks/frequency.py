"""Mixing in the frequency domain: two-dimensional Fourier transforms and learned filters between them.

Grids are (batch, height, width, channels). Complex numbers are a last axis of two, real and imaginary part.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workloads.builder import Builder, Value


def spectral_gate(graph: Builder, grid: Value, name: str = "spectral_gate") -> Value:
    """Each frequency of each channel multiplied by a learned complex number: a circular convolution with a kernel as
    large as the grid (Rao et al. 2021, arXiv:2107.00645). Half of the spectrum is kept, as the grid is real."""
    with graph.scope(name):
        spectrum = real_transform(graph, grid)
        weight = graph.weight("filter", *spectrum.shape[1:])
        return inverse_real_transform(graph, complex_multiply(graph, spectrum, weight), grid.shape[2])


def real_transform(graph: Builder, grid: Value) -> Value:
    """The spectrum (batch, height, width // 2 + 1, channels, 2) of a real grid."""
    value = graph.unsqueeze(grid, [grid.rank], "real")
    batch, height, width, channels, _ = value.shape
    half = _transform(graph, value, 2, (batch, height, width // 2 + 1, channels, 2), onesided=1)
    return _transform(graph, half, 1, half.shape)


def inverse_real_transform(graph: Builder, spectrum: Value, width: int) -> Value:
    """The real grid of an even `width` whose spectrum this is: the frequencies left out are conjugates of those kept.

    As in numpy's irfft2, imaginary parts of the frequencies that are their own conjugates say nothing.
    """
    batch, height, kept, channels, _ = spectrum.shape
    rows = _transform(graph, spectrum, 1, spectrum.shape, inverse=1)
    signs = graph.once("conjugation", lambda: graph.constant("signs", np.array([1, -1], np.float32)))
    mirrored = graph.multiply(graph.reversed(rows, 1, kept - 1, 2, "mirrored"), signs, "conjugates")
    whole = graph.concat([rows, mirrored], 2, "whole")
    columns = _transform(graph, whole, 2, (batch, height, width, channels, 2), inverse=1)
    return graph.take(columns, 0, 4, "real_part")


def complex_multiply(graph: Builder, left: Value, right: Value) -> Value:
    """The product of two tensors of complex numbers, broadcast."""
    a, b = (graph.slice(left, part, part + 1, -1, name) for part, name in ((0, "a"), (1, "b")))
    c, d = (graph.slice(right, part, part + 1, -1, name) for part, name in ((0, "c"), (1, "d")))
    real = graph.binary("Sub", graph.multiply(a, c, "ac"), graph.multiply(b, d, "bd"), "real")
    imaginary = graph.add(graph.multiply(a, d, "ad"), graph.multiply(b, c, "bc"), "imaginary")
    return graph.concat([real, imaginary], real.rank - 1, "product")


def _transform(graph: Builder, value: Value, axis: int, shape: tuple[int, ...], **attributes: Any) -> Value:
    """One DFT along `axis`; the inverse divides by its length."""
    axis_value = graph.once(f"axis{axis}", lambda: graph.integers("axis", axis))
    [result] = graph.node("DFT", [value, None, axis_value], [shape], **attributes)
    return result
