"""Combiner: every earlier token reached, near ones directly, far ones through summaries that are attention results.

Ren et al., NeurIPS 2021 (arXiv:2107.05768). The sequence is rows of `segment` tokens. A token attends to its row
causally, in one softmax with: "fixed", a summary of each earlier row; "row_major", for each earlier row the summary
that the token of the same column makes of it; "mixture", for each earlier row the token of the same column, and the
summaries that token makes of what is left and right of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np

from codesign.errors import BadParameter
from workloads.blocks.attention import merge_heads, project_heads
from workloads.blocks.dense import layer_norm, linear, mlp, tied_logits
from workloads.blocks.generation import token_ids
from workloads.blocks.residual import residual
from workloads.blocks.sparse import hidden_from
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

Pattern = Literal["fixed", "row_major", "mixture"]

Far = tuple[Value, Callable[[Value], Value]]
"""Scores (batch, heads, rows, segment, summaries), and what reads the summaries by weights of that shape."""

VARIANTS: Table = {
    "lm_base": {"pattern": "fixed"},
    "fixed_sqrt": {"pattern": "fixed"},
    "axial_rowmajor": {"pattern": "row_major", "project": True},
    "axial_mixture": {"pattern": "mixture"},
}

SMALL = {"sequence": 12, "width": 32, "heads": 4, "layers": 2, "hidden": 64, "vocabulary": 100, "segment": 4}
REDUCED: Table = {name: SMALL for name in VARIANTS if name != "lm_base"}


@variants(VARIANTS, REDUCED)
def combiner(
    graph: Builder,
    batch: int,
    sequence: int,
    *,
    pattern: Pattern,
    project: bool = False,
    segment: int = 128,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    hidden: int = 3072,
    vocabulary: int = 1024,
) -> None:
    """Token ids (batch, sequence) to logits (batch, sequence, vocabulary)."""
    if sequence % segment:
        raise BadParameter(
            f"workload '{graph.name}': sequence = {sequence}; expected a multiple of segment = {segment}"
        )
    norm = partial(layer_norm, epsilon=1e-5)
    tokens = token_ids(graph, batch, sequence)
    table = graph.weight("embedding/weight", vocabulary, width)
    value = graph.lookup(table, tokens, "embedding/lookup")
    value = graph.add(value, graph.weight("embedding/positions", 1, sequence, width), "embedding/positioned")
    mix = partial(combined_attention, graph, heads=heads, segment=segment, pattern=pattern, project=project)
    for index in range(layers):
        with graph.scope(f"layer{index}"):
            value = residual(graph, value, mix, 1, norm)
            value = residual(graph, value, partial(mlp, graph, hidden=hidden), 2, norm)
    graph.output(tied_logits(graph, norm(graph, value, "norm"), table), "logits")


def combined_attention(
    graph: Builder, value: Value, heads: int, segment: int, pattern: Pattern, project: bool
) -> Value:
    """Attention of (batch, tokens, width) in `pattern`, its summaries' queries and keys projected when `project`."""
    batch, tokens, width = value.shape
    size, rows = width // heads, tokens // segment
    with graph.scope("attention"):
        grid = (batch, heads, rows, segment, size)
        query, key, content = (
            graph.reshape(part, grid, "rows")
            for part in project_heads(graph, value, width, heads, "query", "key", "value")
        )
        query = graph.multiply(query, graph.scalar("scale", size**-0.5), "scaled_query")
        future = hidden_from(graph, f"future_{segment}", np.triu(np.ones((segment, segment), bool), 1))
        local = graph.add(_scores(graph, query, key), future, "local_scores")
        maker = {"fixed": _row_summaries, "row_major": _column_summaries, "mixture": _side_summaries}[pattern]
        far_scores, read_far = maker(graph, query, key, content, project)
        weights = graph.unary("Softmax", graph.concat([local, far_scores], 4, "joint"), axis=-1)
        near, far = graph.split_sizes(weights, [segment, far_scores.shape[4]], 4, "near_far")
        context = graph.add(graph.matmul(near, content, "local"), read_far(far), "combined")
        merged = merge_heads(graph, graph.reshape(context, (batch, heads, tokens, size), "joined"))
        return linear(graph, merged, width, "output")


def _row_summaries(graph: Builder, query: Value, key: Value, content: Value, project: bool) -> Far:
    """A summary of each earlier row."""
    batch, heads, rows, _, size = query.shape
    pooled = [graph.reduce("ReduceMax", part, [3], "pooled", keepdims=True) for part in (query, key)]
    asking, keys = _projected(graph, pooled, project)
    values = _summary(graph, asking, key, content, None)
    shape = (batch, heads, 1, rows, size)
    keys, values = graph.reshape(keys, shape, "keys"), graph.reshape(values, shape, "values")
    seen = np.tril(np.ones((rows, rows), bool), -1)[:, None, :]
    scores = graph.add(_scores(graph, query, keys), hidden_from(graph, f"later_rows_{rows}", ~seen), "row_scores")
    return scores, lambda weights: graph.matmul(weights, values, "far")


def _column_summaries(graph: Builder, query: Value, key: Value, content: Value, project: bool) -> Far:
    """Summaries of earlier rows, each made by the row's token of one's own column."""
    asking, keys = _projected(graph, [query, key], project)
    values = _summary(graph, asking, key, content, None)
    return _down_columns(graph, query, [(keys, values, None)])


def _side_summaries(graph: Builder, query: Value, key: Value, content: Value, project: bool) -> Far:
    """The tokens of one's own column in earlier rows, and their summaries of what is left and right of them."""
    segment = query.shape[3]
    asking, projected = _projected(graph, [query, key], project)
    parts: list[tuple[Value, Value, int | None]] = [(key, content, None)]
    counts = np.maximum(np.arange(segment), 1).astype(np.float32)[:, None]
    for side, visible, count, empty in (
        ("left", np.tri(segment, k=-1, dtype=bool), counts, 0),
        ("right", ~np.tri(segment, dtype=bool), counts[::-1], segment - 1),
    ):
        hidden = hidden_from(graph, f"not_{side}_{segment}", ~visible)
        sums = graph.cumulative_sum(projected, 3, f"{side}_keys", exclusive=1, reverse=int(side == "right"))
        keys = graph.binary("Div", sums, graph.constant(f"{side}_counts", np.ascontiguousarray(count)), "mean_keys")
        parts.append((keys, _summary(graph, asking, key, content, hidden), empty))
    return _down_columns(graph, query, parts)


def _down_columns(graph: Builder, query: Value, parts: list[tuple[Value, Value, int | None]]) -> Far:
    """Each part's keys in earlier rows of the same column; a part is hidden from the column for which it is empty."""
    rows, segment = query.shape[2:4]
    columns = (0, 1, 3, 2, 4)
    query = graph.transpose(query, columns, "query_columns")
    scores, values = [], []
    for keys, content, empty in parts:
        hidden = np.repeat(np.triu(np.ones((rows, rows), bool))[None], segment, axis=0)
        if empty is not None:
            hidden[empty] = True
        of_part = _scores(graph, query, graph.transpose(keys, columns, "key_columns"))
        scores.append(graph.add(of_part, hidden_from(graph, f"columns_{rows}_{segment}_{empty}", hidden), "masked"))
        values.append(graph.transpose(content, columns, "value_columns"))
    together = graph.concat(values, 3, "column_values") if len(values) > 1 else values[0]
    joint = graph.concat(scores, 4, "column_scores") if len(scores) > 1 else scores[0]

    def read(weights: Value) -> Value:
        far = graph.matmul(graph.transpose(weights, columns, "weight_columns"), together, "far_columns")
        return graph.transpose(far, columns, "far")

    return graph.transpose(joint, columns, "far_scores"), read


def _summary(graph: Builder, query: Value, key: Value, content: Value, mask: Value | None) -> Value:
    """What `query` makes of its row."""
    scores = _scores(graph, query, key)
    scores = graph.add(scores, mask, "masked") if mask else scores
    return graph.matmul(graph.unary("Softmax", scores, axis=-1), content, "summary")


def _projected(graph: Builder, parts: list[Value], project: bool) -> list[Value]:
    if not project:
        return parts
    return [
        linear(graph, part, part.shape[-1], f"summary_{role}")
        for role, part in zip(("query", "key"), parts, strict=True)
    ]


def _scores(graph: Builder, query: Value, key: Value) -> Value:
    return graph.matmul(query, graph.transpose(key, (0, 1, 2, 4, 3), "key_transposed"), "scores")
