"""DLGSANet: super-resolution by depthwise convolutions whose kernels are made for each pixel, and sparse attention
between channels.

Li et al., ICCV 2023 (arXiv:2301.02031). At test time the authors attend inside overlapping tiles of the image; here
attention is over the whole of it, as in training.
"""

from __future__ import annotations

from functools import partial

from workloads.blocks.activation import activate
from workloads.blocks.convolution import channel_norm, convolution, depthwise
from workloads.blocks.embedding import unfold
from workloads.blocks.residual import residual
from workloads.blocks.super_resolution import pixel_shuffle, small_image
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

WINDOW = 7
"""Rows and columns of the kernels made for each pixel."""

SHARED = 6
"""Channels that share such a kernel."""

block_norm = partial(channel_norm, epsilon=1e-5)

LARGE = {"width": 90, "groups": 6, "pairs": 4}
LIGHT = {"width": 48, "groups": 4, "pairs": 3}
TINY = {"width": 48, "groups": 3, "pairs": 3}

VARIANTS: Table = {
    **{f"large_x{scale}": {**LARGE, "scale": scale} for scale in (2, 3, 4)},
    **{f"light_x{scale}": {**LIGHT, "scale": scale} for scale in (2, 3, 4)},
    **{f"tiny_x{scale}": {**TINY, "scale": scale} for scale in (2, 4)},
}

REDUCED: Table = {"light_x2": {"height": 9, "width_pixels": 8, "width": 12, "heads": 2, "groups": 1, "pairs": 1}}


@variants(VARIANTS, REDUCED)
def dlgsanet(
    graph: Builder,
    batch: int,
    height: int,
    width_pixels: int,
    *,
    width: int,
    groups: int,
    pairs: int,
    scale: int,
    heads: int = 6,
) -> None:
    """Pixels (batch, 3, height, width_pixels) to an image of `scale` times the extents."""
    shallow = convolution(graph, small_image(graph, batch, height, width_pixels), width, 3, "shallow", 1, 1)
    value = shallow
    for group in range(groups):
        with graph.scope(f"group{group}"):
            value = residual(graph, value, partial(residual_group, graph, pairs=pairs, heads=heads), "")
    value = convolution(graph, value, width, 3, "deep", 1, 1, bias=True)
    graph.output(pixel_shuffle(graph, graph.add(value, shallow, "skip"), 3, scale), "enlarged")


def residual_group(graph: Builder, value: Value, pairs: int, heads: int) -> Value:
    """Pairs of a local and a global block, then a convolution."""
    for pair in range(pairs):
        for name, mix in (("local", dynamic_convolution), ("global", partial(sparse_channel_attention, heads=heads))):
            with graph.scope(f"{name}{pair}"):
                value = residual(graph, value, partial(mix, graph), 1, block_norm)
                value = residual(graph, value, partial(gated_depthwise_feed_forward, graph), 2, block_norm)
    return convolution(graph, value, value.shape[1], 3, "convolution", 1, 1, bias=True)


def dynamic_convolution(graph: Builder, value: Value) -> Value:
    """Each pixel's window weighed by a kernel that small layers make from the image; neighbouring channels share it."""
    batch, channels, height, width = value.shape
    kernels, taps = channels // SHARED, WINDOW**2
    with graph.scope("dynamic"):
        value = convolution(graph, value, channels, 1, "in")
        inner = convolution(graph, value, channels // 4, 1, "squeeze", bias=True)
        inner = depthwise(graph, inner, WINDOW, "depthwise")
        made = convolution(graph, inner, taps * kernels, 1, "kernels", bias=True)
        made = graph.reshape(made, (batch, kernels, 1, taps, height * width), "taps")
        made = graph.transpose(made, (0, 4, 1, 2, 3), "taps_by_pixel")
        windows = unfold(graph, value, WINDOW, 1, WINDOW // 2)
        windows = graph.reshape(windows, (batch, height * width, kernels, SHARED, taps), "windows")
        windows = graph.transpose(windows, (0, 1, 2, 4, 3), "windows_by_tap")
        result = graph.reshape(graph.matmul(made, windows, "apply"), (batch, height * width, channels), "pixels")
        result = graph.reshape(graph.transpose(result, (0, 2, 1)), value.shape, "grid")
        return convolution(graph, result, channels, 1, "out")


def sparse_channel_attention(graph: Builder, value: Value, heads: int) -> Value:
    """Attention between the channels of each head: cosines over all pixels, scaled, negative ones dropped."""
    batch, channels, height, width = value.shape
    with graph.scope("attention"):
        projected = convolution(graph, value, 3 * channels, 1, "query_key_value")
        projected = depthwise(graph, projected, 3, "depthwise", bias=False)
        shape = (batch, heads, channels // heads, height * width)
        query, key, content = (graph.reshape(part, shape, "channels") for part in graph.split(projected, 3, axis=1))
        query, key = (graph.unary("LpNormalization", part, axis=-1, p=2) for part in (query, key))
        scores = graph.matmul(query, graph.transpose(key, (0, 1, 3, 2), "key_transposed"), "scores")
        scores = graph.multiply(scores, graph.weight("temperature", heads, 1, 1), "scaled")
        context = graph.matmul(graph.unary("Relu", scores, "sparse"), content, "context")
        return convolution(graph, graph.reshape(context, value.shape, "grid"), channels, 1, "output")


def gated_depthwise_feed_forward(graph: Builder, value: Value, expansion: int = 2) -> Value:
    """down(gelu(a) * b), a and b the halves of a depthwise 3x3 convolution of up(x) (Zamir et al. 2022,
    arXiv:2111.09881)."""
    channels = value.shape[1]
    with graph.scope("mlp"):
        inner = convolution(graph, value, 2 * expansion * channels, 1, "up")
        gate, other = graph.split(depthwise(graph, inner, 3, "depthwise", bias=False), 2, axis=1)
        gated = graph.multiply(activate(graph, gate, "gelu"), other, "gated")
        return convolution(graph, gated, channels, 1, "down")
