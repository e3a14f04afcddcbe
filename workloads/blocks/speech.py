"""What encoders of speech share: subsampling, attention with relative positions, the convolution module."""

from __future__ import annotations

import math

import numpy as np

from workloads.blocks.activation import Activation, activate
from workloads.blocks.attention import merge_heads, project_heads
from workloads.blocks.convolution import batch_norm, convolution
from workloads.blocks.dense import linear
from workloads.blocks.temporal import temporal_convolution
from workloads.builder import Builder, Value


def subsample(graph: Builder, features: Value, width: int, separable: bool, activation: Activation) -> Value:
    """Log-mel features (batch, frames, bins) to tokens (batch, frames / 4, width): two strided convolutions, the second
    depthwise and pointwise when `separable`, and a linear layer over the bins that are left."""
    with graph.scope("subsampling"):
        grid = graph.unsqueeze(features, [1], "image")
        grid = activate(graph, convolution(graph, grid, width, 3, "first", 2, "same", bias=True), activation)
        groups = width if separable else 1
        grid = convolution(graph, grid, width, 3, "second", 2, "same", groups=groups, bias=True)
        if separable:
            grid = convolution(graph, grid, width, 1, "pointwise", bias=True)
        grid = activate(graph, grid, activation)
        batch, _, frames, bins = grid.shape
        flat = graph.reshape(graph.transpose(grid, (0, 2, 1, 3)), (batch, frames, width * bins), "flat")
        return linear(graph, flat, width, "projection")


def relative_attention(graph: Builder, value: Value, heads: int, name: str = "attention") -> Value:
    """Attention whose scores add those of queries against the sinusoid of the distance, each sum with a bias of its own
    (Dai et al. 2019, arXiv:1901.02860). Distances are those of one side, as many as tokens."""
    batch, tokens, width = value.shape
    size = width // heads
    with graph.scope(name):
        query, key, content = (project_heads(graph, value, width, heads, role)[0] for role in ("query", "key", "value"))
        table = graph.once(f"distance_table_{tokens}_{width}", lambda: _distance_table(graph, tokens, width))
        spread = graph.expand(graph.unsqueeze(table, [0], "one"), (batch, tokens, width), "distances")
        places = project_heads(graph, spread, width, heads, "position", bias=False)[0]
        biased = [
            graph.add(query, graph.weight(f"{kind}_bias", heads, 1, size), f"{kind}_query")
            for kind in ("content", "position")
        ]
        scores = graph.matmul(biased[0], graph.transpose(key, (0, 1, 3, 2)), "content_scores")
        far = graph.matmul(biased[1], graph.transpose(places, (0, 1, 3, 2)), "position_scores")
        scores = graph.add(scores, relative_shift(graph, far), "scores")
        scores = graph.multiply(scores, graph.scalar("scale", 1 / math.sqrt(size)), "scaled")
        context = graph.matmul(graph.unary("Softmax", scores, axis=-1), content, "context")
        return linear(graph, merge_heads(graph, context), width, "output")


def _distance_table(graph: Builder, tokens: int, width: int) -> Value:
    """Sinusoids of the distances tokens - 1 ... 0, made in the graph."""
    far = graph.constant("distances", np.arange(tokens - 1, -1, -1, dtype=np.float32)[:, None])
    rates = graph.constant("rates", (10_000.0 ** (-np.arange(0, width, 2) / width)).astype(np.float32))
    angles = graph.multiply(far, rates, "angles")
    return graph.concat([graph.unary("Sin", angles), graph.unary("Cos", angles)], 1, "table")


def relative_shift(graph: Builder, scores: Value) -> Value:
    """Scores by distance (..., queries, distances), moved so that column j of row i holds that of distance i - j."""
    batch, heads, queries, keys = scores.shape
    with graph.scope("shift"):
        padded = graph.pad(scores, {3: (1, 0)}, "padded")
        turned = graph.reshape(padded, (batch, heads, keys + 1, queries), "turned")
        return graph.reshape(graph.slice(turned, 1, keys + 1, 2, "rest"), scores.shape, "shifted")


def convolution_module(graph: Builder, value: Value, kernel: int, gated: bool, name: str = "convolution") -> Value:
    """Pointwise to twice the width, a gate that halves it or SiLU that does not, depthwise, norm, SiLU, pointwise."""
    width = value.shape[-1]
    with graph.scope(name):
        inner = temporal_convolution(graph, graph.transpose(value, (0, 2, 1), "channels"), 2 * width, 1, "expand")
        if gated:
            inner, gate = graph.split(inner, 2, 1, "inner_gate")
            inner = graph.multiply(inner, graph.unary("Sigmoid", gate), "gated")
        else:
            inner = activate(graph, inner, "silu")
        channels = inner.shape[1]
        inner = temporal_convolution(graph, inner, channels, kernel, "depthwise", padding="same", groups=channels)
        inner = activate(graph, batch_norm(graph, inner), "silu")
        outer = temporal_convolution(graph, inner, width, 1, "contract")
        return graph.transpose(outer, (0, 2, 1), "tokens")
