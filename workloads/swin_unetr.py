"""Swin UNETR: segmentation of volumes by a shifted-window transformer in three dimensions and a convolutional decoder.

Hatamizadeh et al., 2022 (arXiv:2201.01266). Five resolutions of the encoder, and the volume itself, each pass a
residual block on their way to the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from codesign.errors import BadParameter
from workloads.blocks.activation import activate
from workloads.blocks.convolution import convolution, instance_norm, transposed_convolution
from workloads.blocks.dense import layer_norm, mlp, unit_layer_norm
from workloads.blocks.embedding import channels_first, channels_last
from workloads.blocks.residual import residual
from workloads.blocks.window import cut, filled, in_windows
from workloads.builder import Builder, Value
from workloads.registry import Table, variants
from workloads.swin import attention_with_bias, downsample

PATCH = 2

VARIANTS: Table = {"swin_unetr_48": {"width": 48}}

REDUCED: Table = {"swin_unetr_48": {"volume": 32, "width": 6, "heads": (1, 1, 2, 2), "window": 3, "channels": 2}}


@variants(VARIANTS, REDUCED)
def swin_unetr(
    graph: Builder,
    batch: int,
    volume: int,
    *,
    width: int,
    depths: Sequence[int] = (2, 2, 2, 2),
    heads: Sequence[int] = (3, 6, 12, 24),
    window: int = 7,
    channels: int = 4,
    classes: int = 3,
) -> None:
    """Volumes (batch, channels, volume, volume, volume) to logits of each voxel (batch, classes, ...)."""
    if volume % 32:
        raise BadParameter(f"workload '{graph.name}': volume = {volume}; expected a multiple of 32, the deepest step")
    scan = graph.input("volume", (batch, channels, volume, volume, volume))
    hidden = encoder(graph, scan, width, depths, heads, window)
    with graph.scope("decoder"):
        skips = [residual_block(graph, scan, width, "skip0")]
        skips += [residual_block(graph, one, one.shape[1], f"skip{at}") for at, one in enumerate(hidden[:3], 1)]
        value = residual_block(graph, hidden[4], hidden[4].shape[1], "bottom")
        for level, skip in zip(range(4, -1, -1), [hidden[3], *reversed(skips)], strict=True):
            with graph.scope(f"up{level}"):
                value = transposed_convolution(graph, value, skip.shape[1], 2, "upsample")
                value = residual_block(graph, graph.concat([value, skip], 1, "joined"), skip.shape[1], "block")
    graph.output(convolution(graph, value, classes, 1, "head", bias=True), "logits")


def encoder(
    graph: Builder, scan: Value, width: int, depths: Sequence[int], heads: Sequence[int], window: int
) -> list[Value]:
    """The volume at half its extents, and after each stage at half of those, twice the channels: channels first, every
    voxel normalised."""
    grid = channels_last(graph, convolution(graph, scan, width, PATCH, "patches", PATCH, bias=True))
    found = [grid]
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        with graph.scope(f"stage{stage}"):
            for block in range(depth):
                with graph.scope(f"block{block}"):
                    grid = window_block(graph, grid, count, window, window // 2 if block % 2 else 0)
            grid = downsample(graph, grid)
            found.append(grid)
    return [channels_first(graph, unit_layer_norm(graph, one, f"out_norm{at}")) for at, one in enumerate(found)]


def window_block(graph: Builder, grid: Value, heads: int, window: int, shift: int) -> Value:
    """x + attention(norm(x)) inside windows, the grid filled up with zeros to whole ones, then x + mlp(norm(x))."""
    extents = grid.shape[1:-1]
    fitted, shift = (window, shift) if min(extents) > window else (min(extents), 0)
    attend = partial(attention_with_bias, graph, heads=heads, window=(fitted,) * len(extents))

    def mix(value: Value) -> Value:
        return cut(graph, in_windows(graph, filled(graph, value, fitted), fitted, shift, attend), extents)

    grid = residual(graph, grid, mix, 1, layer_norm)
    return residual(graph, grid, partial(mlp, graph, hidden=4 * grid.shape[-1]), 2, layer_norm)


def residual_block(graph: Builder, value: Value, channels: int, name: str) -> Value:
    """Two 3x3x3 convolutions with instance norms, added to the input (projected where its channels differ)."""
    with graph.scope(name):
        inner = value
        for number in range(2):
            inner = convolution(graph, inner, channels, 3, f"convolution{number}", 1, 1)
            inner = instance_norm(graph, inner, f"norm{number}")
            inner = activate(graph, inner, "leaky_relu") if number == 0 else inner
        if value.shape[1] != channels:
            value = instance_norm(graph, convolution(graph, value, channels, 1, "projection"), "projection_norm")
        return activate(graph, graph.add(inner, value, "residual"), "leaky_relu")

