"""Tokens that look at regions of a feature map: points sampled inside a box, mixed by weights made from the token.

A box is (centre x, centre y, width, height), fractions of the map: (batch, tokens, 4).
"""

from __future__ import annotations

import numpy as np

from workloads.blocks.activation import Activation, activate
from workloads.blocks.dense import layer_norm, linear, unit_layer_norm
from workloads.builder import Builder, Value


def initial_boxes(graph: Builder, batch: int, rows: int, columns: int, share: float = 0.5) -> Value:
    """Boxes whose centres are a grid over the map, each `share` of it along both sides, and what learning added."""
    table = graph.weight("boxes", 1, rows * columns, 4)
    places = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2)
    grid = (places + 0.5) / np.array([columns, rows])
    start = np.concatenate([grid, np.full_like(grid, share)], axis=1).astype(np.float32)[None]
    moved = graph.multiply(table, graph.scalar("small", 0.01), "learned")
    boxes = graph.add(moved, graph.constant("grid", start), "initial_boxes")
    return graph.expand(boxes, (batch, rows * columns, 4), "all_boxes")


def adjusted_boxes(graph: Builder, boxes: Value, tokens: Value, name: str = "adjust") -> Value:
    """Boxes moved by fractions of their sides, and scaled by exponents, that a linear layer reads from the tokens."""
    with graph.scope(name):
        delta = linear(graph, layer_norm(graph, tokens, "norm"), 4, "delta")
        shift, stretch = graph.split(delta, 2)
        centres, sides = graph.split(boxes, 2)
        centres = graph.add(centres, graph.multiply(shift, sides, "shift"), "centres")
        sides = graph.multiply(sides, graph.unary("Exp", stretch), "sides")
        return graph.concat([centres, sides], 2, "boxes")


def sampled_points(graph: Builder, feature_map: Value, tokens: Value, boxes: Value, points: int) -> Value:
    """Features (batch, tokens, points, channels) interpolated at places that each token chooses around its box.

    The offsets that a linear layer reads from the token are standardised over its points, so that they fill the box.
    """
    batch, count, _ = tokens.shape
    channels = feature_map.shape[1]
    with graph.scope("sample"):
        offsets = linear(graph, layer_norm(graph, tokens, "norm"), 2 * points, "offsets")
        offsets = graph.transpose(graph.reshape(offsets, (batch, count, points, 2), "apart"), (0, 1, 3, 2))
        offsets = graph.transpose(unit_layer_norm(graph, offsets, "standardised"), (0, 1, 3, 2), "by_point")
        centres, sides = (graph.unsqueeze(part, [2]) for part in graph.split(boxes, 2))
        half = graph.multiply(sides, graph.scalar("half", 0.5), "half_sides")
        places = graph.add(centres, graph.multiply(offsets, half, "inside"), "places")
        grid = graph.multiply(places, graph.scalar("two", 2.0), "doubled")
        grid = graph.binary("Sub", grid, graph.scalar("one", 1.0), "grid")  # GridSample counts from -1 to 1
        [found] = graph.node(
            "GridSample", [feature_map, grid], [(batch, channels, count, points)], mode="linear", align_corners=0
        )
        return graph.transpose(found, (0, 2, 3, 1), "by_token")


def adaptively_mixed(
    graph: Builder, sampled: Value, tokens: Value, inner: int, out_points: int, activation: Activation = "gelu"
) -> Value:
    """Points (batch, tokens, points, channels) mixed by a matrix between channels and one between points, both made
    from the token by two linear layers (Gao et al. 2022, arXiv:2203.16507), and projected to the token's width."""
    batch, count, points, channels = sampled.shape
    with graph.scope("mix"):
        made = linear(graph, layer_norm(graph, tokens, "norm"), inner, "squeeze")
        made = linear(graph, made, channels**2 + points * out_points, "weights")
        between_channels, between_points = graph.split_sizes(made, [channels**2, points * out_points], 2)
        between_channels = graph.reshape(between_channels, (batch, count, channels, channels), "channel_matrix")
        between_points = graph.reshape(between_points, (batch, count, out_points, points), "point_matrix")
        mixed = activate(graph, graph.matmul(sampled, between_channels, "channel_mix"), activation)
        mixed = activate(graph, graph.matmul(between_points, mixed, "point_mix"), activation)
        flat = graph.reshape(mixed, (batch, count, out_points * channels), "flat")
        return linear(graph, flat, tokens.shape[-1], "output")
