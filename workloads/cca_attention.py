"""Core-context-aware attention: the far context as one core token a group, the near context token by token.

Chen et al., ICML 2025 (arXiv:2412.12465), on Llama 2 7B. The last token of a group weighs the group's tokens; by
linearity a core token's key and value are the weighted sums of the group's. The prefill runs over blocks of queries,
one Attention node a block, so that no score matrix of the whole sequence exists; a decode step's caches hold core
tokens and the last raw ones.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from codesign.errors import BadParameter
from workloads.blocks.attention import Cache, attend, merge_heads, split_heads
from workloads.blocks.dense import gated_mlp, linear, rms_norm
from workloads.blocks.generation import language_model, read_cache, write_cache
from workloads.blocks.positions import Rotation, rotary_table, rotate
from workloads.blocks.residual import residual
from workloads.blocks.sparse import with_previous_block
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

VARIANTS: Table = {"cca_llama2_7b": {"decode": False}, "cca_llama2_7b_decode": {"decode": True}}

SMALL = {"width": 32, "heads": 4, "layers": 2, "hidden": 64, "vocabulary": 100, "group": 2, "window": 4}
REDUCED: Table = {
    "cca_llama2_7b": {"sequence": 16, **SMALL},
    "cca_llama2_7b_decode": {"past": 15, **SMALL},
}


@variants(VARIANTS, REDUCED)
def cca_llama(
    graph: Builder,
    batch: int,
    sequence: int,
    past: int = 0,
    *,
    decode: bool,
    width: int = 4096,
    heads: int = 32,
    layers: int = 32,
    hidden: int = 11008,
    vocabulary: int = 32000,
    group: int = 16,
    window: int = 1024,
) -> None:
    """Token ids (batch, sequence) to logits (batch, sequence, vocabulary); a decode step of one token after `past`."""
    size = width // heads
    if not decode and sequence > window and (sequence % window or window % group):
        raise BadParameter(f"workload '{graph.name}': sequence = {sequence}; expected a multiple of {window}")
    cached = min(past, window) + max(past - window, 0) // group
    caches = read_cache(graph, batch, heads, cached, size, layers) if decode else [None] * layers
    rotation = rotary_table(graph, batch, sequence, past, size, 10_000.0)
    norm = partial(rms_norm, epsilon=1e-5)
    presents: list[Cache] = []

    def layer(value: Value, index: int) -> Value:
        def attention(inner: Value) -> Value:
            with graph.scope("attention"):
                query, key, content = (
                    split_heads(graph, linear(graph, inner, width, role, bias=False), heads, role)
                    for role in ("query", "key", "value")
                )
                cache = caches[index]
                if cache is not None or sequence <= window:
                    query, key = rotate(graph, query, rotation, "query"), rotate(graph, key, rotation, "key")
                    context, present = attend(graph, query, key, content, past=cache)
                    presents.extend([present] if cache is not None else [])
                else:
                    context = core_context(graph, query, key, content, rotation, group, window)
                return linear(graph, merge_heads(graph, context), width, "output", bias=False)

        value = residual(graph, value, attention, 1, norm)
        return residual(graph, value, partial(gated_mlp, graph, hidden=hidden), 2, norm)

    language_model(
        graph, batch, sequence, layer, partial(norm, graph), layers=layers, width=width, vocabulary=vocabulary,
        tied=False,
    )  # fmt: skip
    write_cache(graph, presents)


def core_context(
    graph: Builder, query: Value, key: Value, content: Value, rotation: Rotation, group: int, window: int
) -> Value:
    """Attention of (batch, heads, tokens, size): each query sees the raw tokens from the group in which its window
    starts, and the core tokens of all groups before."""
    batch, heads, tokens, size = query.shape
    blocks, cores = tokens // window, tokens // group
    query_turned, key_turned = rotate(graph, query, rotation, "query"), rotate(graph, key, rotation, "key")
    core_keys, core_values = core_tokens(graph, query_turned, key_turned, content, group)
    grid = (batch, heads, blocks, window, size)
    near_keys, near_values = (
        with_previous_block(graph, graph.reshape(part, grid, "blocks")) for part in (key_turned, content)
    )
    numbers = graph.once(f"blocks_{blocks}", lambda: graph.integers("numbers", np.arange(blocks).reshape(1, 1, blocks)))
    ends = graph.once(f"core_ends_{cores}", lambda: graph.integers("numbers", group * (1 + np.arange(cores))))

    def step(states: list[Value], slices: list[Value]) -> tuple[list[Value], list[Value]]:
        queries, keys, values, number = slices
        joined_keys, joined_values = (
            graph.concat([far, near], 2, "joined") for far, near in ((core_keys, keys), (core_values, values))
        )
        mask = _visible(graph, number, ends, group, window)
        return [], [attend(graph, queries, joined_keys, joined_values, mask)[0]]

    sequences = [graph.reshape(query_turned, grid, "query_blocks"), near_keys, near_values, numbers]
    _, [context] = graph.scan(step, [], sequences, axis=2, name="blocks")
    return graph.reshape(context, query.shape, "context")


def core_tokens(graph: Builder, query: Value, key: Value, content: Value, group: int) -> tuple[Value, Value]:
    """Keys and values of the core tokens (batch, heads, groups, size): sums of each group's, weighted by the softmax of
    the scores that its last token gives them."""
    batch, heads, tokens, size = key.shape
    grid = (batch, heads, tokens // group, group, size)
    with graph.scope("cores"):
        query, key, content = (graph.reshape(part, grid, "groups") for part in (query, key, content))
        last = graph.slice(query, group - 1, group, 3, "last_queries")
        scores = graph.matmul(last, graph.transpose(key, (0, 1, 2, 4, 3)), "scores")
        scores = graph.multiply(scores, graph.scalar("scale", size**-0.5), "scaled")
        weights = graph.unary("Softmax", scores, axis=-1)
        shape = (batch, heads, tokens // group, size)
        keys, values = (graph.reshape(graph.matmul(weights, part, "sums"), shape) for part in (key, content))
        return keys, values


def _visible(graph: Builder, number: Value, core_ends: Value, group: int, window: int) -> Value:
    """What the queries of block `number` see (window, cores + 2 window): true for it. `core_ends` are the tokens after
    each group."""
    places = graph.constant("places", np.arange(window, dtype=np.int64)[:, None])
    first = graph.multiply(graph.reshape(number, (1,), "number"), graph.integers("window", window), "block_start")
    query_at = graph.add(places, first, "query_at")
    earliest = graph.add(query_at, graph.integers("less_window", 1 - window), "earliest")
    [earliest] = graph.node("Max", [earliest, graph.integers("zero", 0)], [earliest.shape], "not_negative")
    size = graph.integers("group", group)
    start = graph.multiply(graph.binary("Div", earliest, size, "group_number"), size, "near_start")
    key_at = graph.add(graph.integers("near", np.arange(-window, window)), first, "key_at")
    far = graph.compare("LessOrEqual", core_ends, start)
    near = [graph.compare("GreaterOrEqual", key_at, start), graph.compare("LessOrEqual", key_at, query_at)]
    [both] = graph.node("And", near, [near[0].shape], "near_seen")
    return graph.concat([far, both], 1, "seen")
