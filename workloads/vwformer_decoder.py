"""VWFormer: a segmentation decoder whose windows attend to contexts of several scales at the cost of their own size.

Yan et al., Multi-Scale Representations by Varying Window Attention, ICLR 2024 (arXiv:2404.16573). A context R times as
wide as its window is packed into as many tokens as the window has. Beside it stands UPerNet's decoder (Xiao et al.
2018, arXiv:1807.10221), against which the paper compares.
"""

from __future__ import annotations

from collections.abc import Sequence

from codesign.errors import BadParameter
from workloads.blocks.attention import merge_heads, scaled_dot_product, split_heads
from workloads.blocks.convolution import adaptive_average_pool, batch_norm, conv_norm, convolution
from workloads.blocks.dense import linear
from workloads.blocks.embedding import channels_first, channels_last
from workloads.blocks.segmentation import feature_maps, resized
from workloads.blocks.window import partition, unpartition
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

MIT_B5 = (64, 128, 320, 512)
"""Channels of the stages of SegFormer's largest backbone."""

WINDOWS = 8
"""Windows along each extent of the map, however large it is."""

VARIANTS: Table = {"vw_head": {}}

REDUCED: Table = {"vw_head": {"image": 128, "widths": (4, 6, 8, 10), "width": 64, "heads": 2, "low": 4, "classes": 5}}

UPERNET: Table = {"upernet_head": {}}

UPERNET_REDUCED: Table = {"upernet_head": {"image": 128, "widths": (4, 6, 8, 10), "width": 8, "classes": 5}}


@variants(VARIANTS, REDUCED)
def vw_head(
    graph: Builder,
    batch: int,
    image: int,
    *,
    widths: Sequence[int] = MIT_B5,
    width: int = 512,
    heads: int = 8,
    ratios: Sequence[int] = (2, 4, 8),
    low: int = 48,
    classes: int = 150,
    packed: bool = True,
) -> None:
    """Maps at strides 4, 8, 16 and 32 to logits at stride 4. Without `packed` contexts keep their tokens."""
    if image % (8 * WINDOWS):
        raise BadParameter(f"workload '{graph.name}': image = {image}; expected a multiple of {8 * WINDOWS}")
    maps = feature_maps(graph, batch, image, widths)
    extents = (image // 8, image // 8)
    with graph.scope("fuse"):
        projected = [
            channels_first(graph, linear(graph, channels_last(graph, one), width, f"linear{stage}"))
            for stage, one in enumerate(maps[1:], 1)
        ]
        together = graph.concat([resized(graph, one, extents) for one in projected], 1, "together")
        value = conv_norm(graph, together, width, 1, "fused")
    branches = [conv_norm(graph, value, width, 1, "local"), _global(graph, value)]
    branches += [varying_window_attention(graph, value, heads, ratio, packed) for ratio in ratios]
    value = conv_norm(graph, graph.concat(branches, 1, "branches"), width, 1, "scales")
    value = resized(graph, value, (image // 4, image // 4), "enlarged")
    fine = conv_norm(graph, maps[0], low, 1, "low")
    value = conv_norm(graph, graph.concat([value, fine], 1, "with_low"), width, 1, "mixed")
    graph.output(convolution(graph, value, classes, 1, "classifier", bias=True), "logits")


def _global(graph: Builder, value: Value) -> Value:
    """The mean of the map, projected and spread over it again."""
    mean = graph.reduce("ReduceMean", value, [2, 3], "mean", keepdims=True)
    return graph.expand(conv_norm(graph, mean, value.shape[1], 1, "global"), value.shape, "spread")


def varying_window_attention(graph: Builder, value: Value, heads: int, ratio: int, packed: bool = True) -> Value:
    """Queries of each of 8x8 windows attend to a context `ratio` times as wide around it.

    `packed`, a convolution leaves 1 / ratio^2 of the channels, and ratio x ratio neighbours become one token.
    """
    channels, extent = value.shape[1], value.shape[2]
    window = (extent // WINDOWS, extent // WINDOWS)
    with graph.scope(f"window_attention{ratio}"):
        context = value
        if packed:
            before, after = (ratio - 1) // 2, ratio // 2
            padded = graph.pad(value, {2: (before, after), 3: (before, after)}, "around")
            context = batch_norm(graph, convolution(graph, padded, channels // ratio**2, ratio, "pack"))
        contexts = _contexts(graph, copy_padded(graph, context, (ratio - 1) * window[0]), window[0], ratio, packed)
        windows = partition(graph, channels_last(graph, value), window)
        query = split_heads(graph, linear(graph, windows, channels, "query"), heads, "query")
        key, content = (
            split_heads(graph, linear(graph, contexts, channels, role), heads, role) for role in ("key", "value")
        )
        mixed = linear(graph, merge_heads(graph, scaled_dot_product(graph, query, key, content)), channels, "output")
        return channels_first(graph, unpartition(graph, mixed, (extent, extent), window))


def copy_padded(graph: Builder, value: Value, total: int) -> Value:
    """`total` more rows and columns, half on each side, that repeat those next to the border: zeros would take part in
    the scores."""
    before, after = total // 2, total - total // 2
    for axis in (2, 3):
        extent = value.shape[axis]
        parts = [graph.slice(value, 0, before, axis, "first"), value]
        parts += [graph.slice(value, extent - after, extent, axis, "last")]
        value = graph.concat(parts, axis, "copied")
    return value


def _contexts(graph: Builder, padded: Value, window: int, ratio: int, packed: bool) -> Value:
    """Overlapping squares of ratio x window pixels, one for each window, as tokens: (windows, tokens, channels)."""
    batch, channels = padded.shape[:2]
    side = ratio * window
    rows = [window * at + place for at in range(WINDOWS) for place in range(side)]
    for axis in (2, 3):
        index = graph.once(f"context_rows_{side}_{window}", lambda: graph.integers("rows", rows))
        shape = [*padded.shape]
        shape[axis] = len(rows)
        [padded] = graph.node("Gather", [padded, index], [shape], "contexts", axis=axis)
    group = ratio if packed else 1
    tokens = side // group
    split = (batch, channels, WINDOWS, tokens, group, WINDOWS, tokens, group)
    apart = graph.reshape(padded, split, "apart")
    ordered = graph.transpose(apart, (0, 2, 5, 3, 6, 4, 7, 1), "by_window")
    return graph.reshape(ordered, (batch * WINDOWS**2, tokens**2, channels * group**2), "tokens")


@variants(UPERNET, UPERNET_REDUCED)
def upernet_head(
    graph: Builder,
    batch: int,
    image: int,
    *,
    widths: Sequence[int] = MIT_B5,
    width: int = 512,
    pools: Sequence[int] = (1, 2, 3, 6),
    classes: int = 150,
) -> None:
    """Maps at strides 4, 8, 16 and 32 to logits at stride 4: pooled contexts of the last map, and a feature pyramid."""
    maps = feature_maps(graph, batch, image, widths)
    last = maps[-1]
    extents = (last.shape[2], last.shape[3])
    with graph.scope("pyramid_pooling"):
        pooled = [
            resized(graph, conv_norm(graph, _pooled(graph, last, pool), width, 1, f"pool{pool}"), extents)
            for pool in pools
        ]
        top = conv_norm(graph, graph.concat([last, *pooled], 1, "scales"), width, 3, "bottleneck", 1, 1)
    laterals = [conv_norm(graph, one, width, 1, f"lateral{stage}") for stage, one in enumerate(maps[:-1])] + [top]
    for stage in (2, 1, 0):
        larger = resized(graph, laterals[stage + 1], (laterals[stage].shape[2],) * 2)
        laterals[stage] = graph.add(laterals[stage], larger, f"top_down{stage}")
    out = [conv_norm(graph, one, width, 3, f"smooth{stage}", 1, 1) for stage, one in enumerate(laterals[:-1])] + [top]
    out = [resized(graph, one, (image // 4, image // 4)) for one in out]
    value = conv_norm(graph, graph.concat(out, 1, "levels"), width, 3, "fused", 1, 1)
    graph.output(convolution(graph, value, classes, 1, "classifier", bias=True), "logits")


def _pooled(graph: Builder, value: Value, extent: int) -> Value:
    return adaptive_average_pool(graph, value, (extent, extent), f"pool{extent}")
