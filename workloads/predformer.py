"""PredFormer: video prediction by gated transformer blocks that attend over time, over space, or over both.

Tang et al., 2024 (arXiv:2410.04733). Frames go in and as many come out; there is no recurrence.
"""

from __future__ import annotations

from functools import partial

from codesign.errors import BadParameter
from workloads.blocks.attention import encoder_attention
from workloads.blocks.axial import along
from workloads.blocks.dense import feed_forward, layer_norm, linear
from workloads.blocks.positions import sinusoids
from workloads.blocks.residual import residual
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

AXES = {"T": 1, "S": 2}
"""The axis of tokens (batch, frames, patches, features) along which blocks attend over time, and over space."""

MOVING_MNIST = {"frames": 10, "channels": 1, "height": 64, "width": 64}
HUMAN = {"frames": 4, "channels": 3, "height": 256, "width": 256}
TAXI = {"frames": 4, "channels": 2, "height": 32, "width": 32, "patch": 4}
WEATHER = {"frames": 12, "channels": 1, "height": 32, "width": 64, "patch": 4, "hidden": 512}

VARIANTS: Table = {
    "mmnist_full": {**MOVING_MNIST, "blocks": "F" * 24},
    "mmnist_fac_st": {**MOVING_MNIST, "blocks": "S" * 12 + "T" * 12},
    "mmnist_binary_ts": {**MOVING_MNIST, "blocks": "TS" * 12},
    "mmnist_triplet_tst": {**MOVING_MNIST, "blocks": "TST" * 8},
    "mmnist_tsst": {**MOVING_MNIST, "blocks": "TSST" * 6},
    **{f"mmnist_tsst_{layers}": {**MOVING_MNIST, "blocks": "TSST" * layers} for layers in (2, 3, 4, 5, 7, 8)},
    "human36m_full": {**HUMAN, "blocks": "F" * 12},
    "human36m_tsst": {**HUMAN, "blocks": "TSST" * 3},
    "human36m_triplet_tst": {**HUMAN, "blocks": "TST" * 4},
    "human36m_triplet_sts": {**HUMAN, "blocks": "STS" * 4},
    "taxibj_full": {**TAXI, "blocks": "F" * 8},
    "taxibj_binary_st": {**TAXI, "blocks": "ST" * 4},
    "taxibj_triplet_sts": {**TAXI, "blocks": "STS" * 2},
    "weather_full": {**WEATHER, "blocks": "F" * 8},
    "weather_fac_ts": {**WEATHER, "blocks": "TTTTSSSS"},
    "weather_triplet_tst": {**WEATHER, "blocks": "TST" * 2},
}

REDUCED: Table = {
    "mmnist_tsst": {"frames": 3, "height": 16, "width": 24, "features": 32, "heads": 2, "hidden": 48, "blocks": "TSFS"}
}


@variants(VARIANTS, REDUCED)
def predformer(
    graph: Builder,
    batch: int,
    *,
    frames: int,
    channels: int,
    height: int,
    width: int,
    blocks: str,
    patch: int = 8,
    features: int = 256,
    heads: int = 8,
    hidden: int = 1024,
) -> None:
    """Frames (batch, frames, channels, height, width) to as many that follow.

    `blocks` has a letter for the attention of each block: over time for each patch (T), over the space of each frame
    (S), or fully over all tokens (F).
    """
    if height % patch or width % patch:
        raise BadParameter(f"workload '{graph.name}': {height} x {width} is no multiple of the patch, {patch}")
    rows, columns = height // patch, width // patch
    video = graph.input("frames", (batch, frames, channels, height, width))
    cut = graph.reshape(video, (batch, frames, channels, rows, patch, columns, patch), "cut")
    pixels = graph.transpose(cut, (0, 1, 3, 5, 4, 6, 2), "patches")
    pixels = graph.reshape(pixels, (batch, frames * rows * columns, patch * patch * channels), "flat")
    value = linear(graph, pixels, features, "embedding")
    value = graph.add(value, sinusoids(graph, frames * rows * columns, features), "positioned")
    value = graph.reshape(value, (batch, frames, rows * columns, features), "tokens")
    for number, kind in enumerate(blocks):
        with graph.scope(f"block{number}"):
            value = gated_block(graph, value, kind, heads, hidden)
    value = linear(graph, layer_norm(graph, value, "norm"), patch * patch * channels, "head")
    grid = graph.reshape(value, (batch, frames, rows, columns, patch, patch, channels), "grid")
    put_back = graph.transpose(grid, (0, 1, 6, 2, 4, 3, 5), "pixels")
    graph.output(graph.reshape(put_back, (batch, frames, channels, height, width), "video"), "predicted")


def gated_block(graph: Builder, value: Value, kind: str, heads: int, hidden: int) -> Value:
    """Tokens (batch, frames, patches, features) through attention of a `kind` and SwiGLU, and a norm after both."""
    attend = partial(encoder_attention, graph, heads=heads, bias=False)
    feed = partial(feed_forward, graph, hidden=hidden, activation="silu", gated=True)

    def mix(sequences: Value) -> Value:
        sequences = residual(graph, sequences, attend, 1, layer_norm)
        return layer_norm(graph, residual(graph, sequences, feed, 2, layer_norm), "norm3")

    if kind in AXES:
        return along(graph, value, AXES[kind], mix)
    batch, frames, patches, features = value.shape
    return graph.reshape(mix(graph.reshape(value, (batch, frames * patches, features), "all")), value.shape, "apart")
