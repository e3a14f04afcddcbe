"""Adaptive layer norm: a condition shifts, scales and gates each branch (Peebles & Xie 2023, arXiv:2212.09748)."""

from __future__ import annotations

from workloads.blocks.dense import linear, unit_layer_norm
from workloads.builder import Builder, Value


def modulation(graph: Builder, condition: Value, width: int, parts: int, name: str = "modulation") -> list[Value]:
    """`parts` vectors (batch, 1, width), shifts, scales and gates, from the condition (batch, 1, its width)."""
    return graph.split(linear(graph, condition, parts * width, name), parts)


def modulated(graph: Builder, value: Value, shift: Value, scale: Value, name: str) -> Value:
    """norm(value) (1 + scale) + shift, the norm without weights."""
    with graph.scope(name):
        normed = unit_layer_norm(graph, value, "norm", 1e-6)
        larger = graph.add(scale, graph.scalar("one", 1.0), "larger")
        return graph.add(graph.multiply(normed, larger, "scaled"), shift, "shifted")
