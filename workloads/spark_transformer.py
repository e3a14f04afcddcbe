"""Spark Transformer: part of the width predicts which hidden units and which keys matter, the rest serves those alone.

You et al., 2025 (arXiv:2506.06644), on Gemma 2 2B, the host beside it. A statistical threshold keeps about 8% of the
hidden units and 256 keys. The prefill computes everything and leaves zeros, as a matrix unit would; the decode step
gathers the columns and rows that it needs.
"""

from __future__ import annotations

from functools import partial

from workloads.blocks.activation import activate
from workloads.blocks.attention import Cache, attend, causal_mask, merge_heads, split_heads
from workloads.blocks.dense import feed_forward, linear, rms_norm
from workloads.blocks.generation import language_model, read_cache, write_cache
from workloads.blocks.positions import Rotation, rotary_table, rotate
from workloads.blocks.selection import above_threshold, causal_threshold, statistical_threshold
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

EPSILON = 1e-6

MODELS: Table = {"gemma2_2b": {"hidden": 9216}, "spark_gemma2_2b": {"hidden": 13824, "predictor": 1024}}

VARIANTS: Table = {
    f"{name}{suffix}": {**model, "decode": bool(suffix)} for suffix in ("", "_decode") for name, model in MODELS.items()
}

SMALL = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_size": 8, "hidden": 64, "vocabulary": 100,
         "window": 6}  # fmt: skip
SPARSE = {**SMALL, "predictor": 16, "kept_hidden": 8, "key_predictor": 4, "kept_keys": 4}
REDUCED: Table = {
    "gemma2_2b": {"sequence": 10, **SMALL},
    "spark_gemma2_2b": {"sequence": 10, **SPARSE},
    "spark_gemma2_2b_decode": {"past": 9, **SPARSE},
}


@variants(VARIANTS, REDUCED)
def gemma(
    graph: Builder,
    batch: int,
    sequence: int,
    past: int = 0,
    *,
    hidden: int,
    decode: bool,
    predictor: int = 0,
    kept_hidden: int = 1106,
    key_predictor: int = 128,
    kept_keys: int = 256,
    slack: float = 1.0,
    width: int = 2304,
    layers: int = 26,
    heads: int = 8,
    kv_heads: int = 4,
    head_size: int = 256,
    window: int = 4096,
    vocabulary: int = 256128,
) -> None:
    """Token ids (batch, sequence), after `past` cached tokens, to logits (batch, sequence, vocabulary) and caches. With
    a `predictor`, that much of the width chooses hidden units, and `key_predictor` of each head's size keys. A decode
    step gathers `slack` times as many as are kept on average: the threshold may let more through than that."""
    caches = read_cache(graph, batch, kv_heads, past, head_size, layers) if decode else [None] * layers
    rotation = rotary_table(graph, batch, sequence, past, head_size, 10_000.0)
    norm = partial(rms_norm, graph, epsilon=EPSILON)
    presents: list[Cache] = []

    def attention(value: Value, index: int) -> Value:
        reach = window if index % 2 == 0 and window < past + sequence else None
        with graph.scope("attention"):
            query, key, content = _project(graph, value, heads, kv_heads, head_size, rotation)
            cache = caches[index]
            if predictor:
                keys = graph.concat([cache.key, key], 2, "keys") if cache else key
                values = graph.concat([cache.value, content], 2, "values") if cache else content
                present = Cache(keys, values)
                read = partial(gathered_attention, slack=slack) if decode else thresholded_attention
                context = read(graph, query, present, key_predictor, kept_keys, reach)
            else:
                mask = causal_mask(graph, sequence, past + sequence, reach) if reach else None
                context, present = attend(graph, query, key, content, mask, cache)
            presents.append(present)
            return linear(graph, merge_heads(graph, context), width, "output", bias=False)

    def feed(value: Value) -> Value:
        if not predictor:
            return feed_forward(graph, value, hidden, activation="gelu_tanh", gated=True, bias=False)
        read = partial(gathered_feed_forward, slack=slack) if decode else thresholded_feed_forward
        return read(graph, value, hidden, predictor, kept_hidden)

    def layer(value: Value, index: int) -> Value:
        mixed = norm(attention(norm(value, "norm1"), index), "norm1_after")
        value = graph.add(value, mixed, "residual1")
        return graph.add(value, norm(feed(norm(value, "norm2")), "norm2_after"), "residual2")

    language_model(graph, batch, sequence, layer, norm, layers=layers, width=width, vocabulary=vocabulary)
    write_cache(graph, presents)


def _project(
    graph: Builder, value: Value, heads: int, kv_heads: int, size: int, rotation: Rotation
) -> tuple[Value, Value, Value]:
    query, key, content = (
        split_heads(graph, linear(graph, value, count * size, role, bias=False), count, role)
        for role, count in (("query", heads), ("key", kv_heads), ("value", kv_heads))
    )
    return rotate(graph, query, rotation, "query"), rotate(graph, key, rotation, "key"), content


# Feed-forward layers: down(gelu(kept(x_1 K_1)) * (x_2 K_2)), x_1 the first `predictor` of the width


def thresholded_feed_forward(graph: Builder, value: Value, hidden: int, predictor: int, kept: int) -> Value:
    """Every hidden unit computed, those below the statistical threshold zero."""
    with graph.scope("mlp"):
        first, rest = graph.split_sizes(value, [predictor, value.shape[-1] - predictor], name="predicting_served")
        scores = linear(graph, first, hidden, "gate", bias=False)
        gate = above_threshold(graph, scores, statistical_threshold(graph, scores, kept))
        up = graph.transpose(graph.weight("up/weight", hidden, rest.shape[-1]), (1, 0), "up/columns")
        inner = graph.multiply(activate(graph, gate, "gelu_tanh"), graph.matmul(rest, up, "up/MatMul"), "gated")
        return linear(graph, inner, value.shape[-1], "down", bias=False)


def gathered_feed_forward(graph: Builder, value: Value, hidden: int, predictor: int, kept: int, slack: float) -> Value:
    """The same for single tokens, of the `slack` x `kept` largest hidden units alone: their rows of the weights are
    gathered. The threshold holds among them, so that fewer may act."""
    batch, width = value.shape[0], value.shape[-1]
    with graph.scope("mlp"):
        first, rest = graph.split_sizes(value, [predictor, width - predictor], name="predicting_served")
        scores = linear(graph, first, hidden, "gate", bias=False)
        slots = min(hidden, round(slack * kept))
        largest, places = graph.top_k(scores, slots, in_order=False)
        gate = activate(graph, above_threshold(graph, largest, statistical_threshold(graph, scores, kept)), "gelu_tanh")
        rows = graph.reshape(places, (batch, slots), "rows")
        up = graph.lookup(graph.weight("up/weight", hidden, width - predictor), rows, "up/gathered")
        served = graph.matmul(rest, graph.transpose(up, (0, 2, 1), "up/columns"), "up/MatMul")
        down = graph.lookup(graph.weight("down/weight", hidden, width), rows, "down/gathered")
        return graph.matmul(graph.multiply(gate, served, "gated"), down, "down/MatMul")


# Attention: softmax over the keys kept by q_1 k_1, times softplus(q_2 k_2)


def _scores(graph: Builder, query: Value, key: Value, name: str) -> Value:
    scale = graph.scalar("scale", query.shape[-1] ** -0.5)
    axes = (*range(key.rank - 2), key.rank - 1, key.rank - 2)
    return graph.multiply(graph.matmul(query, graph.transpose(key, axes, "key_transposed"), name), scale, "scaled")


def thresholded_attention(
    graph: Builder, query: Value, cache: Cache, predictor: int, kept: int, window: int | None
) -> Value:
    """Every score computed, those below the threshold hidden from the softmax."""
    batch, heads, queries, size = query.shape
    kv_heads, keys = cache.key.shape[1:3]
    grouped = graph.reshape(query, (batch, kv_heads, heads // kv_heads, queries, size), "query_groups")
    key, content = graph.unsqueeze(cache.key, [2], "shared_keys"), graph.unsqueeze(cache.value, [2], "shared_values")
    parts = [predictor, size - predictor]
    (query_1, query_2), (key_1, key_2) = graph.split_sizes(grouped, parts), graph.split_sizes(key, parts)
    scores = _scores(graph, query_1, key_1, "predicted")
    low = graph.compare("Less", scores, causal_threshold(graph, scores, kept, window), "low")
    scores = graph.where(low, graph.scalar("hidden", -1e30), scores, "kept")
    mask = graph.once(f"mask_{queries}_{keys}_{window}", lambda: causal_mask(graph, queries, keys, window))
    weights = graph.unary("Softmax", graph.add(scores, mask, "masked"), axis=-1)
    served = activate(graph, _scores(graph, query_2, key_2, "served"), "softplus")
    context = graph.matmul(graph.multiply(weights, served, "weights"), content, "context")
    return graph.reshape(context, query.shape, "heads")


def gathered_attention(
    graph: Builder, query: Value, cache: Cache, predictor: int, kept: int, window: int | None, slack: float
) -> Value:
    """The same for a single query: the rest of the keys and the values are gathered for the largest `slack` x `kept`
    alone."""
    batch, heads, _, size = query.shape
    kv_heads, keys = cache.key.shape[1:3]
    key, content = cache.key, cache.value
    if window is not None:
        key, content = (graph.slice(part, -window, keys, 2, "window") for part in (key, content))
    slots = min(round(slack * kept), key.shape[2])
    grouped = graph.reshape(query, (batch, kv_heads, heads // kv_heads, size), "query_groups")
    parts = [predictor, size - predictor]
    (query_1, query_2), (key_1, key_2) = graph.split_sizes(grouped, parts), graph.split_sizes(key, parts)
    scores = _scores(graph, query_1, key_1, "predicted")
    threshold = statistical_threshold(graph, scores, kept)
    largest, places = graph.top_k(scores, slots, in_order=False)
    low = graph.compare("Less", largest, threshold, "low")
    largest = graph.where(low, graph.scalar("hidden", -1e30), largest, "kept")
    weights = graph.unary("Softmax", largest, axis=-1)

    def gathered(source: Value, name: str) -> Value:
        """Rows (batch, kv heads, sharing heads, slots, size) of each head's own keys."""
        flat = graph.reshape(places, (*places.shape[:2], places.shape[2] * slots, 1), f"{name}_rows")
        shape = (*flat.shape[:3], source.shape[-1])
        index = graph.expand(flat, shape, f"{name}_index")
        [rows] = graph.node("GatherElements", [source, index], [shape], f"{name}_gathered", axis=2)
        return graph.reshape(rows, (*places.shape, source.shape[-1]), name)

    served = _scores(graph, graph.unsqueeze(query_2, [3]), gathered(key_2, "keys"), "served")
    weights = graph.multiply(graph.unsqueeze(weights, [3]), activate(graph, served, "softplus"), "weights")
    context = graph.matmul(weights, gathered(content, "values"), "context")
    return graph.reshape(context, query.shape, "heads")
