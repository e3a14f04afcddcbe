"""Agent attention: a few pooled queries attend to all tokens, and all queries attend to those few. Its cost is linear
in the tokens. Han et al., ECCV 2024 (arXiv:2312.08874).
"""

from __future__ import annotations

import math

import numpy as np

from workloads.blocks.attention import merge_heads, scaled_dot_product, split_heads
from workloads.blocks.convolution import adaptive_average_pool, depthwise
from workloads.blocks.embedding import grid_of, tokens_of
from workloads.builder import Builder, Value

TABLE_SIDE = 7
"""Rows and columns of the table of position biases, which is stretched to the grid."""


def agent_attention(
    graph: Builder, query: Value, key: Value, content: Value, heads: int, extents: tuple[int, int], agents: int
) -> Value:
    """softmax(q a^T + bias) softmax(a k^T + bias) v with agents a, the means of `agents` windows of the queries' grid,
    plus a depthwise convolution of the values. Operands and result are tokens (batch, tokens, width); tokens that
    stand before the grid's (class tokens) are attended to and attend, but are not pooled or convolved."""
    extra = query.shape[1] - math.prod(extents)
    side = math.isqrt(agents)
    with graph.scope("agents"):
        pooled = adaptive_average_pool(graph, grid_of(graph, _grid_tokens(graph, query, extra), *extents), (side, side))
        agent = split_heads(graph, tokens_of(graph, pooled), heads, "heads")
    content_heads = split_heads(graph, content, heads, "value")
    gathered = scaled_dot_product(
        graph, agent, split_heads(graph, key, heads, "key"), content_heads,
        _bias(graph, heads, agents, extents, extra, "gather_bias"), "gather",
    )  # fmt: skip
    spread_bias = graph.transpose(_bias(graph, heads, agents, extents, extra, "spread_bias"), (0, 2, 1))
    spread = scaled_dot_product(
        graph, split_heads(graph, query, heads, "query"), agent, gathered, spread_bias, "spread"
    )  # fmt: skip
    grid = grid_of(graph, _grid_tokens(graph, content, extra), *extents)
    local = graph.pad(tokens_of(graph, depthwise(graph, grid, 3, "local")), {1: (extra, 0)}, "beside_extra")
    return graph.add(merge_heads(graph, spread), local, "with_local")


def _grid_tokens(graph: Builder, tokens: Value, extra: int) -> Value:
    return graph.slice(tokens, extra, tokens.shape[1], 1, "patches") if extra else tokens


def _bias(graph: Builder, heads: int, agents: int, extents: tuple[int, int], extra: int, name: str) -> Value:
    """Bias between agents and tokens (heads, agents, tokens): a stretched table, a term for each row and one for each
    column, and one for each extra token."""
    with graph.scope(name):
        table = graph.weight("table", heads, agents, TABLE_SIDE, TABLE_SIDE)
        scales = np.array([1, 1, extents[0] / TABLE_SIDE, extents[1] / TABLE_SIDE], dtype=np.float32)
        shape = (heads, agents, *extents)
        [stretched] = graph.node("Resize", [table, None, graph.constant("scales", scales)], [shape], mode="linear")
        rows, columns = (
            graph.weight("rows", heads, agents, extents[0], 1),
            graph.weight("columns", heads, agents, 1, extents[1]),
        )
        bias = graph.add(stretched, graph.add(rows, columns, "rows_and_columns"))
        flat = graph.reshape(bias, (heads, agents, math.prod(extents)), "flat")
        return graph.concat([graph.weight("extra", heads, agents, extra), flat], 2, "with_extra") if extra else flat
