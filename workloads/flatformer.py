"""FlatFormer: a detector in point clouds whose pillars are sorted by window and cut into groups of equal size.

Liu et al., CVPR 2023 (arXiv:2301.08739). Windows hold few pillars or many; groups of the sorted pillars all hold as
many, so that attention has no padding but that of the last group. Axis of the sort and shift of the windows alternate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from workloads.blocks.activation import activate
from workloads.blocks.attention import merge_heads, scaled_dot_product, split_heads
from workloads.blocks.convolution import conv_norm, convolution, transposed_convolution
from workloads.blocks.dense import feed_forward, layer_norm, linear
from workloads.blocks.residual import residual
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

POINT_FEATURES = 10
"""Place, intensity and elongation of a point, and its offsets from its pillar's mean and its pillar's centre."""

REGRESSED = {"offset": 2, "height": 1, "size": 3, "rotation": 2}

VARIANTS: Table = {"flatformer_waymo_1f": {}}

REDUCED: Table = {
    "flatformer_waymo_1f": {
        "points": 60, "pillars": 30, "grid": 16, "width": 16, "heads": 2, "window": 5, "group": 8, "blocks": 1,
        "widths": (8, 16), "neck": 8, "shared": 8,
    }
}  # fmt: skip


@variants(VARIANTS, REDUCED)
def flatformer(
    graph: Builder,
    batch: int,
    points: int,
    pillars: int,
    *,
    grid: int = 468,
    width: int = 128,
    heads: int = 8,
    window: int = 13,
    group: int = 144,
    blocks: int = 2,
    expansion: int = 2,
    widths: Sequence[int] = (64, 128),
    depth: int = 3,
    neck: int = 128,
    shared: int = 64,
    classes: int = 3,
) -> None:
    """Points (batch, points, 10), the pillar of each, and the place (row, column) of each pillar, to maps of what is
    where: a heat map for each class, and numbers that describe the box at each place."""
    cloud = graph.input("points", (batch, points, POINT_FEATURES))
    owner = graph.input("pillar_of_point", (batch, points), TensorProto.INT64)
    places = graph.input("places", (batch, pillars, 2), TensorProto.INT64)
    value = pillar_features(graph, cloud, owner, pillars, width)
    for block in range(blocks):
        for layer, (axis, shift) in enumerate(((0, 0), (0, window // 2), (1, 0), (1, window // 2))):
            with graph.scope(f"block{block}/layer{layer}"):
                order = window_order(graph, places, window, shift, axis, grid)
                value = grouped_layer(graph, value, places, order, heads, group, expansion * width)
    canvas = scattered(graph, value, places, grid)
    detection_head(graph, bird_view(graph, canvas, widths, depth, neck), shared, classes)


def pillar_features(graph: Builder, cloud: Value, owner: Value, pillars: int, width: int) -> Value:
    """Two layers for each point, and the largest of each feature over a pillar's points after either: (batch, pillars,
    width)."""
    with graph.scope("pillars"):
        inner = _point_layer(graph, cloud, width // 2, "layer0")
        most = gathered(graph, largest(graph, inner, owner, pillars), owner)
        inner = _point_layer(graph, graph.concat([inner, most], 2, "with_most"), width, "layer1")
        return largest(graph, inner, owner, pillars)


def _point_layer(graph: Builder, value: Value, width: int, name: str) -> Value:
    with graph.scope(name):
        return activate(graph, layer_norm(graph, linear(graph, value, width, "linear", bias=False), "norm"), "relu")


def largest(graph: Builder, value: Value, owner: Value, rows: int) -> Value:
    """The largest of each feature among the entries (batch, entries, n) of each owner: (batch, rows, n). Not below
    zero, as what is compared is not either."""
    batch, count, features = value.shape
    with graph.scope("largest"):
        empty = graph.zeros("empty", (batch, rows, features))
        index = graph.expand(graph.unsqueeze(owner, [2]), (batch, count, features))
        [result] = graph.node("ScatterElements", [empty, index, value], [empty.shape], axis=1, reduction="max")
        return result


def gathered(graph: Builder, table: Value, rows: Value) -> Value:
    """Rows of a table (batch, rows, n), each batch its own."""
    return graph.gather_rows(table, rows, "gathered")


def window_order(graph: Builder, places: Value, window: int, shift: int, axis: int, grid: int) -> Value:
    """Pillars (batch, pillars) by window, window after window, and inside a window along `axis`, forth and back."""
    with graph.scope("order"):
        count = -(-(grid + shift) // window)
        moved = graph.add(places, graph.integers("shift", shift), "moved") if shift else places
        size = graph.integers("window", window)
        windows, inside = graph.binary("Div", moved, size, "windows"), graph.binary("Mod", moved, size, "inside")
        first, second = (graph.take(windows, at, 2, "window") for at in (axis, 1 - axis))
        along, across = (graph.take(inside, at, 2, "inside") for at in (1 - axis, axis))
        odd = graph.binary("Mod", across, graph.integers("two", 2), "odd")
        back = graph.binary("Sub", graph.integers("last", window - 1), along, "back")
        is_odd = graph.cast(odd, TensorProto.BOOL, "is_odd")
        [snake] = graph.node("Where", [is_odd, back, along], [along.shape], "snake", along.data_type)
        key = graph.add(graph.multiply(first, graph.integers("windows_across", count)), second, "window_number")
        key = graph.add(graph.multiply(key, size), across, "line")
        key = graph.add(graph.multiply(key, size), snake, "key")
        descending = graph.unary("Neg", graph.cast(key, TensorProto.FLOAT))
        return graph.top_k(descending, places.shape[1])[1]


def grouped_layer(
    graph: Builder, value: Value, places: Value, order: Value, heads: int, group: int, hidden: int
) -> Value:
    """Attention in groups of the sorted pillars and feed-forward layers, norms after; then back in their old order."""
    width, count = value.shape[-1], value.shape[1]
    positions = place_sinusoids(graph, places, width)
    groups = -(-count // group)
    if spare := groups * group - count:
        repeated = graph.slice(order, 0, spare, 1, "repeated")  # the last group is filled with pillars of the first
        padded = graph.concat([order, repeated], 1, "filled")
    else:
        padded = order
    sorted_values, sorted_positions = (gathered(graph, one, padded) for one in (value, positions))

    def attend(tokens: Value) -> Value:
        return group_attention(graph, tokens, sorted_positions, heads, group)

    sorted_values = residual(graph, sorted_values, attend, 1)
    sorted_values = layer_norm(graph, sorted_values, "norm1")
    sorted_values = residual(graph, sorted_values, lambda tokens: feed_forward(graph, tokens, hidden), 2)
    sorted_values = layer_norm(graph, sorted_values, "norm2")
    kept = graph.slice(sorted_values, 0, count, 1, "kept") if spare else sorted_values
    return graph.scatter_rows(kept, order, "back")


def group_attention(graph: Builder, tokens: Value, positions: Value, heads: int, group: int) -> Value:
    """Attention inside groups of consecutive tokens; positions are added to queries and keys, not to values."""
    batch, count, width = tokens.shape
    with graph.scope("attention"):
        placed = graph.add(tokens, positions, "placed")
        operands = []
        for source, role in ((placed, "query"), (placed, "key"), (tokens, "value")):
            projected = linear(graph, source, width, role)
            apart = graph.reshape(projected, (batch * count // group, group, width), f"{role}/groups")
            operands.append(split_heads(graph, apart, heads, role))
        mixed = merge_heads(graph, scaled_dot_product(graph, operands[0], operands[1], operands[2]))
        return linear(graph, graph.reshape(mixed, (batch, count, width), "together"), width, "output")


def place_sinusoids(graph: Builder, places: Value, width: int) -> Value:
    """Sines and cosines of each pillar's row and column: (batch, pillars, width)."""
    frequencies = (10_000.0 ** (-np.arange(0, width // 2, 2) / (width // 2))).astype(np.float32)
    with graph.scope("positions"):
        numbers = graph.unsqueeze(graph.cast(places, TensorProto.FLOAT), [3])
        angles = graph.multiply(numbers, graph.constant("frequencies", frequencies), "angles")
        waves = graph.concat([graph.unary("Sin", angles), graph.unary("Cos", angles)], 3, "waves")
        return graph.reshape(waves, (*places.shape[:2], width), "table")


def scattered(graph: Builder, value: Value, places: Value, grid: int) -> Value:
    """Pillars (batch, pillars, width) on the grid, zeros where there is none: (batch, width, grid, grid)."""
    batch, count, width = value.shape
    with graph.scope("canvas"):
        empty = graph.zeros("empty", (batch, grid * grid, width))
        rows, columns = (graph.take(places, at, 2, "place") for at in range(2))
        cell = graph.add(graph.multiply(rows, graph.integers("grid", grid)), columns, "cell")
        index = graph.expand(graph.unsqueeze(cell, [2]), (batch, count, width))
        [filled] = graph.node("ScatterElements", [empty, index, value], [empty.shape], axis=1)
        return graph.reshape(graph.transpose(filled, (0, 2, 1)), (batch, width, grid, grid), "image")


def bird_view(graph: Builder, canvas: Value, widths: Sequence[int], depth: int, neck: int) -> Value:
    """Two stages of residual convolutions, the second at half the extents, brought together at the first's."""
    value, levels = canvas, []
    for stage, channels in enumerate(widths):
        with graph.scope(f"bird_view/stage{stage}"):
            value = conv_norm(graph, value, channels, 3, "first", 1 + (stage > 0), 1)
            for layer in range(depth):
                inner = conv_norm(graph, value, channels, 3, f"layer{layer}", 1, 1, activation="none")
                value = activate(graph, graph.add(value, inner, f"residual{layer}"), "relu")
            if stage:
                levels.append(transposed_convolution(graph, value, neck, 2, "enlarged"))
            else:
                levels.append(conv_norm(graph, value, neck, 1, "kept"))
    return graph.concat(levels, 1, "bird_view/levels")


def detection_head(graph: Builder, value: Value, shared: int, classes: int) -> None:
    """Centres and boxes: a shared convolution, and two more for each map (Yin et al. 2021, arXiv:2006.11275)."""
    value = conv_norm(graph, value, shared, 3, "head/shared", 1, 1, bias=True)
    for name, channels in {"heat": classes, **REGRESSED}.items():
        with graph.scope(f"head/{name}"):
            inner = conv_norm(graph, value, shared, 3, "hidden", 1, 1, bias=True)
            graph.output(convolution(graph, inner, channels, 3, "last", 1, 1, bias=True), name)
