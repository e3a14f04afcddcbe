"""Attention along one axis with learned embeddings of relative positions for queries, keys and values, and batch norms.

Wang et al., Axial-DeepLab, 2020 (arXiv:2003.07853). Sequences are (sequences, channels, length).
"""

from __future__ import annotations

from workloads.blocks.convolution import batch_norm, conv_norm
from workloads.blocks.positions import distances
from workloads.builder import Builder, Value

SPAN = 255
"""The longest distance that has an embedding of its own."""

EPSILON = 1e-3

HEADS = 8


def axial_attention(graph: Builder, value: Value, key_width: int, value_width: int, name: str) -> Value:
    """(sequences, value_width, length) of (sequences, channels, length)."""
    count, _, length = value.shape
    sizes = (key_width // HEADS, value_width // HEADS)
    with graph.scope(name):
        projected = conv_norm(
            graph, value, 2 * key_width + value_width, 1, "query_key_value", activation="none", epsilon=EPSILON
        )
        parts = graph.split_sizes(projected, [key_width, key_width, value_width], 1)
        query, key, content = (
            graph.reshape(part, (count, HEADS, part.shape[1] // HEADS, length), "heads") for part in parts
        )
        places = [_relative(graph, length, size, role) for size, role in zip((*sizes[:1], *sizes), "qkv", strict=True)]
        scores = [
            graph.einsum("bhdl,bhdm->bhlm", query, key, name="content_scores"),
            graph.einsum("bhdl,lmd->bhlm", query, places[0], name="query_scores"),
            graph.einsum("bhdm,lmd->bhlm", key, places[1], name="key_scores"),
        ]
        normal = batch_norm(graph, graph.concat(scores, 1, "scores"), "score_norm", EPSILON)
        apart = graph.reshape(normal, (count, 3, HEADS, length, length), "kinds")
        weights = graph.unary("Softmax", graph.sum(apart, (1,), "summed"), axis=-1)
        found = [
            graph.einsum("bhlm,bhdm->bhdl", weights, content, name="content"),
            graph.einsum("bhlm,lmd->bhdl", weights, places[2], name="places"),
        ]
        both = graph.reshape(graph.concat(found, 1, "found"), (count, 2 * value_width, length), "flat")
        normal = batch_norm(graph, both, "found_norm", EPSILON)
        return graph.sum(graph.reshape(normal, (count, 2, value_width, length), "apart"), (1,), "result")


def _relative(graph: Builder, length: int, size: int, role: str) -> Value:
    """An embedding for each pair of places, by their distance: (length, length, size)."""
    table = graph.weight(f"relative_{role}", 2 * SPAN - 1, size)
    middle = graph.integers("middle", SPAN - 1)
    return graph.lookup(table, graph.add(distances(graph, length, length), middle, "rows"), f"places_{role}")


def axial_block(graph: Builder, value: Value, filters: int, name: str, stride: int = 1) -> Value:
    """A bottleneck whose inner part attends along columns and then along rows; 4 `filters` channels come out. The
    first convolution and the shortcut stride."""
    return _bottleneck(graph, value, 2 * filters, filters, name, stride, axial=True)


def convolution_block(graph: Builder, value: Value, filters: int, name: str, stride: int = 1) -> Value:
    """The same with a 3x3 convolution inside."""
    return _bottleneck(graph, value, filters, filters, name, stride, axial=False)


def _bottleneck(
    graph: Builder, value: Value, first: int, filters: int, name: str, stride: int, axial: bool
) -> Value:
    with graph.scope(name):
        value = graph.unary("Gelu", value)
        inner = conv_norm(graph, value, first, 1, "reduce", stride, activation="gelu", epsilon=EPSILON)
        if axial:
            inner = graph.unary("Gelu", _both_axes(graph, inner, filters))
        else:
            inner = conv_norm(graph, inner, filters, 3, "spatial", 1, 1, activation="gelu", epsilon=EPSILON)
        inner = conv_norm(graph, inner, 4 * filters, 1, "expand", activation="none", epsilon=EPSILON)
        if value.shape != inner.shape:
            value = conv_norm(graph, value, 4 * filters, 1, "shortcut", stride, activation="none", epsilon=EPSILON)
        return graph.add(inner, value, "residual")


def _both_axes(graph: Builder, value: Value, filters: int) -> Value:
    """(batch, 2 filters, height, width): attention along columns, and along rows of its result."""
    batch, channels, height, width = value.shape
    columns = graph.reshape(graph.transpose(value, (0, 3, 1, 2)), (batch * width, channels, height), "columns")
    mixed = axial_attention(graph, columns, filters, 2 * filters, "along_columns")
    apart = graph.reshape(mixed, (batch, width, 2 * filters, height), "columns_apart")
    rows = graph.reshape(graph.transpose(apart, (0, 3, 2, 1)), (batch * height, 2 * filters, width), "rows")
    mixed = axial_attention(graph, rows, filters, 2 * filters, "along_rows")
    apart = graph.reshape(mixed, (batch, height, 2 * filters, width), "rows_apart")
    return graph.transpose(apart, (0, 2, 1, 3))
