"""DeBERTa: attention scores of contents, of contents against distances, and of distances against contents.

He et al., ICLR 2021 (arXiv:2006.03654). Version 2 shares the projections of contents and distances, makes distances
logarithmic, and adds a convolution beside its first layer.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from workloads.bert import padding_mask
from workloads.blocks.activation import activate
from workloads.blocks.attention import merge_heads, split_heads
from workloads.blocks.dense import layer_norm, linear, mlp
from workloads.blocks.generation import token_ids
from workloads.blocks.positions import distances
from workloads.blocks.temporal import temporal_convolution
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

EPSILON = 1e-7

VARIANTS: Table = {
    "deberta_base": {"width": 768, "layers": 12, "heads": 12},
    "deberta_large": {"width": 1024, "layers": 24, "heads": 16},
    "deberta_xlarge": {"width": 1024, "layers": 48, "heads": 16},
    "deberta_v2_xxlarge": {
        "width": 1536, "layers": 48, "heads": 24, "vocabulary": 128100, "second_version": True, "furthest": 256,
    },
}  # fmt: skip

SMALL = {"sequence": 12, "width": 48, "layers": 2, "heads": 4, "vocabulary": 100, "furthest": 8}
REDUCED: Table = {"deberta_base": SMALL, "deberta_v2_xxlarge": SMALL}


@variants(VARIANTS, REDUCED)
def deberta(
    graph: Builder,
    batch: int,
    sequence: int,
    *,
    width: int,
    layers: int,
    heads: int,
    vocabulary: int = 50265,
    furthest: int = 512,
    second_version: bool = False,
) -> None:
    """Token ids and a mask of real tokens (batch, sequence) to the last hidden state (batch, sequence, width). A
    distance counts up to `furthest` either way."""
    tokens, attended = (token_ids(graph, batch, sequence, name) for name in ("input_ids", "attention_mask"))
    mask = padding_mask(graph, attended)
    norm = partial(layer_norm, graph, epsilon=EPSILON)
    words = graph.lookup(graph.weight("embedding/weight", vocabulary, width), tokens, "embedding/lookup")
    value = embedded = norm(words, name="embedding/norm")
    relative = graph.weight("distances/weight", 2 * furthest, width)
    if second_version:
        relative = norm(relative, name="distances/norm")
    places = relative_places(graph, sequence, furthest, logarithmic=second_version)
    for index in range(layers):
        with graph.scope(f"layer{index}"):
            mixed = disentangled_attention(graph, value, heads, relative, places, mask, shared=second_version)
            value = norm(graph.add(mixed, value, "residual1"), name="norm1")
            value = norm(graph.add(mlp(graph, value, 4 * width), value, "residual2"), name="norm2")
        if second_version and index == 0:
            with graph.scope("convolution"):
                value = norm(graph.add(value, local_mixing(graph, embedded), "residual"), name="norm")
    graph.output(value, "last_hidden_state")


def local_mixing(graph: Builder, value: Value) -> Value:
    """A convolution of width three over tokens, and tanh."""
    mixed = temporal_convolution(graph, graph.transpose(value, (0, 2, 1)), value.shape[-1], 3, "mix", padding="same")
    return graph.transpose(activate(graph, mixed, "tanh"), (0, 2, 1), "tokens")


def relative_places(graph: Builder, tokens: int, furthest: int, logarithmic: bool) -> Value:
    """The row of the table of distances for each query and key (tokens, tokens): query less key, plus `furthest`, held
    between 0 and 2 x furthest - 1."""
    far = np.arange(-tokens + 1, tokens)
    if logarithmic:
        middle = furthest // 2
        size = np.maximum(np.abs(far), 1)
        growth = np.ceil(np.log(size / middle) / np.log((512 - 1) / middle) * (middle - 1)) + middle
        far = np.where(np.abs(far) <= middle, far, np.sign(far) * growth).astype(np.int64)
    rows = np.clip(far + furthest, 0, 2 * furthest - 1)

    def make() -> Value:
        from_key = graph.unary("Neg", distances(graph, tokens, tokens), "query_less_key")
        index = graph.add(from_key, graph.integers("offset", tokens - 1), "index")
        return graph.lookup(graph.constant("rows", rows.astype(np.int64)), index, "places")

    return graph.once("relative_places", make)


def disentangled_attention(
    graph: Builder, value: Value, heads: int, relative: Value, places: Value, mask: Value, shared: bool
) -> Value:
    """Attention whose scores add, to those of contents, the content of the query with the key's distance, and the
    content of the key with the query's. The projections of distances are those of contents when `shared`."""
    batch, tokens, width = value.shape
    with graph.scope("attention"):
        weights = {role: graph.weight(f"{role}/weight", width, width) for role in ("query", "key", "value")}
        biases = {role: graph.weight(f"{role}/bias", width) for role in weights if shared or role != "key"}

        def project(source: Value, role: str, weight: Value, bias: Value | None) -> Value:
            result = graph.matmul(source, weight, role)
            return split_heads(graph, graph.add(result, bias) if bias else result, heads, role)

        query, key, content = (project(value, role, weights[role], biases.get(role)) for role in weights)
        table = graph.unsqueeze(relative, [0], "distances")
        if shared:
            far_query, far_key = (project(table, role, weights[role], biases.get(role)) for role in ("query", "key"))
        else:
            far_key = project(table, "far_key", graph.weight("far_key/weight", width, width), None)
            bias = graph.weight("far_query/bias", width)
            far_query = project(table, "far_query", graph.weight("far_query/weight", width, width), bias)
        shape = (batch, heads, tokens, tokens)
        index = graph.expand(places, shape, "places")

        def by_distance(left: Value, right: Value, where: Value, name: str) -> Value:
            products = graph.matmul(left, graph.transpose(right, (0, 1, 3, 2)), name)
            return graph.node("GatherElements", [products, where], [shape], f"{name}/gathered", axis=3)[0]

        to_place = by_distance(query, far_key, index, "content_to_place")
        of_key = by_distance(key, far_query, index, "place_to_content")  # (.., keys, queries): key less query
        scores = graph.matmul(query, graph.transpose(key, (0, 1, 3, 2)), "content_to_content")
        scores = graph.add(graph.add(scores, to_place), graph.transpose(of_key, (0, 1, 3, 2)), "scores")
        scores = graph.multiply(scores, graph.scalar("scale", (3 * width // heads) ** -0.5), "scaled")
        weighed = graph.unary("Softmax", graph.add(scores, mask, "masked"), axis=-1)
        return linear(graph, merge_heads(graph, graph.matmul(weighed, content, "context")), width, "output")
