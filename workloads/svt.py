"""SVT: a first stage that mixes the bands of a complex wavelet transform, and later ones that attend.

Patro and Agneeswaran, Scattering Vision Transformer, NeurIPS 2023 (arXiv:2311.01310). The low band is weighed place by
place, the oriented bands are mixed between channels; mixing them between places, an option of the authors', is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from workloads.blocks.embedding import grid_of, image_input, tokens_of
from workloads.blocks.wave import wave_network
from workloads.blocks.wavelet import Bands, image_of_bands, wavelet_bands
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

GROUPS = 4
"""Groups of channels that are mixed among themselves."""

VARIANTS: Table = {
    "svt_h_s": {"stem": 32, "widths": (64, 128, 320, 448), "heads": (2, 4, 10, 14), "depths": (3, 4, 6, 3)},
    "svt_h_b": {"stem": 64, "widths": (64, 128, 320, 512), "heads": (2, 4, 10, 16), "depths": (3, 4, 12, 3)},
    "svt_h_l": {"stem": 64, "widths": (96, 192, 384, 512), "heads": (3, 6, 12, 16), "depths": (3, 6, 18, 3)},
}

REDUCED: Table = {
    "svt_h_s": {
        "image": 64, "stem": 8, "widths": (16, 24, 32, 48), "heads": (2, 2, 2, 2), "depths": (1, 1, 1, 1),
        "classes": 10,
    }
}  # fmt: skip


@variants(VARIANTS, REDUCED)
def svt(
    graph: Builder,
    batch: int,
    image: int,
    *,
    stem: int,
    widths: Sequence[int],
    heads: Sequence[int],
    depths: Sequence[int],
    expansions: Sequence[int] = (8, 8, 4, 4),
    scattering_stages: int = 1,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes), and of each token, as in training."""
    pixels, mix = image_input(graph, batch, image, 32), partial(scattered, graph)
    wave_network(graph, pixels, stem, widths, heads, depths, expansions, mix, scattering_stages, classes)


def scattered(graph: Builder, tokens: Value, extents: tuple[int, int]) -> Value:
    """Tokens mixed in the bands of their grid: the low band times a learned number for each place and channel, the
    oriented ones through two complex linear layers between channels of a group."""
    with graph.scope("scatter"):
        bands = wavelet_bands(graph, grid_of(graph, tokens, *extents))
        low = graph.multiply(bands.low, graph.weight("low", *bands.low.shape[1:]), "low_weighed")
        parts = _grouped(graph, bands.real), _grouped(graph, bands.imaginary)
        parts = _complex_linear(graph, parts, "layer0")
        parts = _complex_linear(graph, (graph.unary("Relu", parts[0]), graph.unary("Relu", parts[1])), "layer1")
        real, imaginary = (_together(graph, part, bands.real.shape) for part in parts)
        return tokens_of(graph, image_of_bands(graph, Bands(low, real, imaginary)))


def _grouped(graph: Builder, band: Value) -> Value:
    """(batch, 6, channels, height, width) to (batch, 6, groups, places, channels of a group)."""
    batch, orientations, channels, height, width = band.shape
    shape = (batch, orientations, GROUPS, channels // GROUPS, height * width)
    return graph.transpose(graph.reshape(band, shape, "groups"), (0, 1, 2, 4, 3), "channels_last")


def _together(graph: Builder, parts: Value, shape: tuple[int, ...]) -> Value:
    """The reverse of `_grouped`."""
    return graph.reshape(graph.transpose(parts, (0, 1, 2, 4, 3), "channels_first"), shape, "together")


def _complex_linear(graph: Builder, parts: tuple[Value, Value], name: str) -> tuple[Value, Value]:
    """Real and imaginary part of x W + b, complex, W a matrix for each group."""
    size = parts[0].shape[-1]
    with graph.scope(name):
        weights = [graph.weight(f"weight/{part}", GROUPS, size, size) for part in ("real", "imaginary")]
        biases = [graph.weight(f"bias/{part}", GROUPS, 1, size) for part in ("real", "imaginary")]
        products = [[graph.matmul(part, weight) for weight in weights] for part in parts]
        real = graph.binary("Sub", products[0][0], products[1][1], "real")
        imaginary = graph.add(products[0][1], products[1][0], "imaginary")
        return graph.add(real, biases[0], "real_biased"), graph.add(imaginary, biases[1], "imaginary_biased")
