"""DeFTAN-II: speech enhancement of several microphones, transformers along frequency and along time in turn.

Lee & Choi, 2024 (arXiv:2308.15777). Split dense blocks mix groups of channels one after another; attention is linear in
the length, with softmaxes over features and over positions.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from workloads.blocks.activation import activate
from workloads.blocks.convolution import convolution
from workloads.blocks.dense import layer_norm, linear
from workloads.blocks.residual import residual
from workloads.blocks.spectral import inverse_short_time_fourier, short_time_fourier
from workloads.blocks.temporal import temporal_convolution
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

VARIANTS: Table = {"deftan2_base": {"layers": 6}, "deftan2_large": {"layers": 12}}
REDUCED: Table = {
    "deftan2_base": {"samples": 256, "layers": 2, "window": 32, "hop": 16, "width": 8, "hidden": 16, "heads": 2},
}


@variants(VARIANTS, REDUCED)
def deftan2(
    graph: Builder,
    batch: int,
    samples: int,
    *,
    layers: int,
    microphones: int = 4,
    window: int = 512,
    hop: int = 256,
    width: int = 64,
    hidden: int = 256,
    heads: int = 4,
    unfolded: int = 4,
) -> None:
    """Waveforms (batch, microphones, samples) to the enhanced one (batch, samples)."""
    waves = graph.input("waveforms", (batch, microphones, samples))
    square = graph.reduce("ReduceMean", graph.multiply(waves, waves, "square"), [1, 2], "power", keepdims=True)
    level = graph.unary("Sqrt", graph.add(square, graph.scalar("least", 1e-12)), "level")
    rows = graph.reshape(graph.binary("Div", waves, level), (batch * microphones, samples), "rows")
    spectra = short_time_fourier(graph, rows, window, hop)
    _, frames, bins, _ = spectra.shape
    parts = graph.reshape(spectra, (batch, microphones, frames, bins, 2), "microphones")
    value = graph.reshape(graph.transpose(parts, (0, 1, 4, 2, 3)), (batch, 2 * microphones, frames, bins), "channels")
    with graph.scope("up"):
        value = convolution(graph, value, hidden, 3, "convolution", padding=1, bias=True)
        value = split_dense(graph, group_norm(graph, value, "norm"), width, "dense")
    for index in range(layers):
        with graph.scope(f"layer{index}"):
            value = _along(graph, value, (0, 2, 1, 3), "frequency", hidden, heads, unfolded, index)
            value = _along(graph, value, (0, 3, 1, 2), "time", hidden, heads, unfolded, index)
    with graph.scope("down"):
        value = convolution(graph, value, 2 * microphones, 3, "convolution", padding=1, bias=True)
        value = split_dense(graph, value, 2, "dense")
    real, imaginary = (
        graph.transpose(graph.take(value, part, 1, name), (0, 2, 1), f"{name}_bins")
        for part, name in enumerate(("real", "imaginary"))
    )
    enhanced = inverse_short_time_fourier(graph, real, imaginary, window, hop, samples)
    graph.output(graph.multiply(enhanced, graph.reshape(level, (batch, 1)), "levelled"), "enhanced")


def _along(
    graph: Builder, value: Value, axes: tuple[int, ...], name: str, hidden: int, heads: int, unfolded: int, index: int
) -> Value:
    """A transformer along one axis of (batch, channels, frames, bins), `axes` what brings the other before channels."""
    with graph.scope(name):
        turned = graph.transpose(value, axes, "sequences")
        lines = graph.reshape(turned, (turned.shape[0] * turned.shape[1], *turned.shape[2:]), "lines")
        mixed = graph.reshape(line_transformer(graph, lines, hidden, heads, unfolded, index), turned.shape, "grid")
        return graph.add(value, graph.transpose(mixed, np.argsort(axes).tolist(), "back"), "residual")


def line_transformer(graph: Builder, lines: Value, hidden: int, heads: int, unfolded: int, index: int) -> Value:
    """(lines, channels, length) to the same: `unfolded` neighbours as channels, a split dense block, attention and the
    two-path feed-forward part, and a transposed convolution back to the length."""
    width = lines.shape[1]
    norm = partial(layer_norm, graph, epsilon=1e-5)
    tokens = norm(graph.transpose(lines, (0, 2, 1), "tokens"), name="norm")
    length = tokens.shape[1] - unfolded + 1
    shifted = [graph.slice(tokens, start, start + length, 1, "neighbour") for start in range(unfolded)]
    together = graph.transpose(graph.concat(shifted, 2, "unfolded"), (0, 2, 1), "unfolded_channels")
    tokens = graph.transpose(split_dense(graph, together, width, "dense"), (0, 2, 1), "dense_tokens")
    tokens = residual(graph, tokens, partial(efficient_attention, graph, heads=heads), 1, layer_norm)
    tokens = residual(graph, tokens, partial(dual_path, graph, hidden=hidden, dilation=2**index), 2, layer_norm)
    channels = graph.transpose(tokens, (0, 2, 1), "channels")
    with graph.scope("fold"):
        weights = [graph.weight("weight", width, width, unfolded), graph.weight("bias", width)]
        return graph.node("ConvTranspose", [channels, *weights], [lines.shape], kernel_shape=[unfolded])[0]


def split_dense(graph: Builder, value: Value, channels: int, name: str) -> Value:
    """Groups of `channels` channels, interleaved, mixed one after another: each step convolves the result so far beside
    the next group. For (batch, channels, length) or (batch, channels, height, width)."""
    groups = value.shape[1] // channels
    with graph.scope(name):
        apart = graph.reshape(value, (value.shape[0], channels, groups, *value.shape[2:]), "groups")
        mixed: Value | None = None
        for group in range(groups):
            part = graph.take(apart, group, 2, f"group{group}")
            inner = graph.concat([mixed, part], 1, f"beside{group}") if mixed else part
            with graph.scope(f"step{group}"):
                if value.rank == 3:
                    inner = temporal_convolution(graph, inner, channels, 3, "convolution", padding=1)
                else:
                    inner = convolution(graph, inner, channels, 3, "convolution", padding=1, bias=True)
                mixed = channel_prelu(graph, group_norm(graph, inner, "norm"))
        assert mixed is not None
        return mixed


def group_norm(graph: Builder, value: Value, name: str, epsilon: float = 1e-5) -> Value:
    """All channels and positions normalised together, scaled channel by channel."""
    with graph.scope(name):
        parameters = [graph.weight("weight", value.shape[1]), graph.weight("bias", value.shape[1])]
        [result] = graph.node("GroupNormalization", [value, *parameters], [value.shape], num_groups=1, epsilon=epsilon)
        return result


def channel_prelu(graph: Builder, value: Value) -> Value:
    """A learned slope for the negative values of each channel."""
    return graph.binary("PRelu", value, graph.weight("slope", value.shape[1], *(1,) * (value.rank - 2)), "PRelu")


def efficient_attention(graph: Builder, value: Value, heads: int) -> Value:
    """softmax over features (q) times the sum over positions of softmax over positions (k)^T v; q and k from a gated
    convolution of the tokens (Shen et al. 2021, arXiv:1812.01243)."""
    batch, length, width = value.shape
    with graph.scope("attention"):
        source = temporal_convolution(graph, graph.transpose(value, (0, 2, 1)), 2 * width, 3, "local", padding=1)
        inner, gate = graph.split(source, 2, 1, "inner_gate")
        gated = graph.multiply(inner, graph.unary("Sigmoid", gate), "gated")
        source = graph.transpose(gated, (0, 2, 1), "source")

        def project(tokens: Value, role: str) -> Value:
            flat = linear(graph, tokens, heads * width, role, bias=False)
            apart = graph.reshape(flat, (batch, length, heads, width), f"{role}_apart")
            return graph.transpose(apart, (0, 2, 1, 3), f"{role}_heads")

        query, key, content = project(source, "query"), project(source, "key"), project(value, "value")
        query = graph.multiply(graph.unary("Softmax", query, axis=-1), graph.scalar("scale", width**-0.5))
        summary = graph.matmul(graph.transpose(graph.unary("Softmax", key, axis=2), (0, 1, 3, 2)), content, "summary")
        context = graph.transpose(graph.matmul(query, summary, "context"), (0, 2, 1, 3))
        return linear(graph, graph.reshape(context, (batch, length, heads * width)), width, "output")


def dual_path(graph: Builder, value: Value, hidden: int, dilation: int) -> Value:
    """Two linear paths of half the hidden width, one of them through a dilated convolution, and a linear layer."""
    half = hidden // 2
    with graph.scope("mlp"):
        plain, local = (activate(graph, linear(graph, value, half, name), "gelu") for name in ("plain", "local"))
        channels = graph.transpose(local, (0, 2, 1), "channels")
        mixed = temporal_convolution(
            graph, channels, half, 5, "dilated", padding=2 * dilation, dilation=dilation, bias=False
        )
        mixed = channel_prelu(graph, group_norm(graph, mixed, "norm"))
        joined = graph.concat([plain, graph.transpose(mixed, (0, 2, 1), "tokens")], 2, "joined")
        return linear(graph, joined, value.shape[-1], "output")
