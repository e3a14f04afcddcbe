"""SpectFormer: first blocks that filter the spectrum of the tokens' grid, later ones that attend.

Patro et al., WACV 2025 (arXiv:2304.06446). The plain form is a vision transformer without class token, the
hierarchical one has four stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from workloads.blocks.attention import encoder_attention
from workloads.blocks.dense import classifier, layer_norm, mlp
from workloads.blocks.embedding import image_input, patch_embedding, positioned
from workloads.blocks.frequency import spectral_gate
from workloads.blocks.residual import encoder_blocks, residual
from workloads.blocks.wave import wave_network
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

block_norm = partial(layer_norm, epsilon=1e-6)

VARIANTS: Table = {
    "spectformer_t": {"width": 256, "heads": 4, "layers": 12},
    "spectformer_xs": {"width": 384, "heads": 6, "layers": 12},
    "spectformer_s": {"width": 384, "heads": 6, "layers": 19},
    "spectformer_b": {"width": 512, "heads": 8, "layers": 19},
}

REDUCED: Table = {"spectformer_t": {"image": 64, "width": 48, "layers": 3, "spectral": 2, "classes": 10}}

HIERARCHICAL: Table = {
    "spectformer_h_s": {"stem": 32, "widths": (64, 128, 320, 448), "heads": (2, 4, 10, 14), "depths": (3, 4, 6, 3)},
    "spectformer_h_b": {"stem": 64, "widths": (64, 128, 320, 512), "heads": (2, 4, 10, 16), "depths": (3, 4, 12, 3)},
    "spectformer_h_l": {"stem": 64, "widths": (96, 192, 384, 512), "heads": (3, 6, 12, 16), "depths": (3, 6, 18, 3)},
}

HIERARCHICAL_REDUCED: Table = {
    "spectformer_h_s": {
        "image": 64, "stem": 8, "widths": (16, 24, 32, 48), "heads": (2, 2, 2, 2), "depths": (1, 1, 1, 1),
        "classes": 10,
    }
}  # fmt: skip


@variants(VARIANTS, REDUCED)
def spectformer(
    graph: Builder,
    batch: int,
    image: int,
    *,
    width: int,
    heads: int,
    layers: int,
    spectral: int = 4,
    patch: int = 16,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes). The first `spectral` blocks filter."""
    pixels = image_input(graph, batch, image, patch)
    extents = (image // patch, image // patch)
    tokens = positioned(graph, patch_embedding(graph, pixels, width, patch, "patches"))
    feed = partial(mlp, graph, hidden=4 * width)
    for layer in range(spectral):
        with graph.scope(f"spectral{layer}"):
            filtered = partial(filter_then_feed, graph, extents=extents, hidden=4 * width)
            tokens = residual(graph, tokens, filtered, 1, block_norm)
    attend = partial(encoder_attention, graph, heads=heads)
    tokens = encoder_blocks(graph, tokens, layers - spectral, attend, feed, block_norm)
    tokens = block_norm(graph, tokens, "norm")
    graph.output(classifier(graph, graph.mean(tokens, (1,), "pool"), classes), "logits")


@variants(HIERARCHICAL, HIERARCHICAL_REDUCED)
def hierarchical_spectformer(
    graph: Builder,
    batch: int,
    image: int,
    *,
    stem: int,
    widths: Sequence[int],
    heads: Sequence[int],
    depths: Sequence[int],
    expansions: Sequence[int] = (8, 8, 4, 4),
    spectral_stages: int = 2,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes), and of each token, as in training."""
    pixels, mix = image_input(graph, batch, image, 32), partial(filter_tokens, graph)
    wave_network(graph, pixels, stem, widths, heads, depths, expansions, mix, spectral_stages, classes)


def filter_tokens(graph: Builder, tokens: Value, extents: tuple[int, int]) -> Value:
    """Tokens (batch, height x width, channels) through a learned filter of their grid's spectrum."""
    batch, count, channels = tokens.shape
    grid = graph.reshape(tokens, (batch, *extents, channels), "grid")
    return graph.reshape(spectral_gate(graph, grid), (batch, count, channels), "tokens")


def filter_then_feed(graph: Builder, tokens: Value, extents: tuple[int, int], hidden: int) -> Value:
    """The plain form's branch: the filter and the feed-forward layers, a norm between them."""
    normed = block_norm(graph, filter_tokens(graph, tokens, extents), "norm2")
    return mlp(graph, normed, hidden)
