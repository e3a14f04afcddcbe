"""Positions: rotations of queries and keys, sinusoids, and biases of attention scores by distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from workloads.builder import Builder, Value


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines of each token's position (tokens, rotated / 2), the row of each token (batch, tokens), how many
    of a head's features turn (0: all), and whether a pair's two stand side by side or half a head apart."""

    cosines: Value
    sines: Value
    rows: Value
    rotated: int = 0
    interleaved: bool = False


def rotary_table(
    graph: Builder, batch: int, sequence: int, past: int, head_size: int, theta: float, rotated: int = 0
) -> Rotation:
    """Angles of positions past ... past + sequence - 1: position x theta^(-2i / n) for pair i of the n features that
    turn, by default all of the head (Su et al. 2021, arXiv:2104.09864). Computed in the graph, in float32 as in the
    models' own code: tables would be as large as the sequence."""
    size = rotated or head_size
    frequencies = theta ** (-np.arange(0, size, 2) / size)
    with graph.scope("rotary"):
        numbers = [graph.integers(part, at) for part, at in (("first", past), ("end", past + sequence), ("step", 1))]
        [places] = graph.node("Range", numbers, [(sequence,)], "places")
        column = graph.unsqueeze(graph.cast(places, TensorProto.FLOAT, "positions"), [1], "column")
        angles = graph.multiply(column, graph.constant("frequencies", frequencies[None].astype(np.float32)), "angles")
        first = graph.integers("past", past)
        rows = graph.expand(graph.binary("Sub", places, first, "numbers"), (batch, sequence), "rows")
        return Rotation(graph.unary("Cos", angles, "cosines"), graph.unary("Sin", angles, "sines"), rows, rotated)


def rotation_by(
    graph: Builder, batch: int, angles: np.ndarray[Any, Any], rotated: int = 0, interleaved: bool = False
) -> Rotation:
    """The rotation of each token's pairs by `angles` (tokens, pairs)."""
    rows = np.broadcast_to(np.arange(angles.shape[0]), (batch, angles.shape[0]))
    with graph.scope("rotary"):
        return Rotation(
            graph.constant("cosines", np.cos(angles).astype(np.float32)),
            graph.constant("sines", np.sin(angles).astype(np.float32)),
            graph.constant("rows", np.ascontiguousarray(rows)),
            rotated,
            interleaved,
        )


def rotate(graph: Builder, value: Value, rotation: Rotation, name: str) -> Value:
    """`value` (batch, heads, tokens, head size) with each pair of features turned by its token's angle."""
    inputs = [value, rotation.cosines, rotation.sines, rotation.rows]
    attributes = {"rotary_embedding_dim": rotation.rotated} if rotation.rotated else {}
    attributes |= {"interleaved": 1} if rotation.interleaved else {}
    [turned] = graph.node("RotaryEmbedding", inputs, [value.shape], f"{name}/RotaryEmbedding", **attributes)
    return turned


def sinusoids(graph: Builder, tokens: int, features: int, name: str = "sinusoids") -> Value:
    """Fixed positions (tokens, features), sines and then cosines of position x 10000^(-2i / features) (Vaswani et al.
    2017, arXiv:1706.03762). Made in the graph: a table would be as large as the activations."""
    frequencies = 10_000.0 ** (-np.arange(0, features, 2) / features)
    with graph.scope(name):
        places = graph.constant("positions", np.arange(tokens, dtype=np.float32)[:, None])
        angles = graph.multiply(places, graph.constant("frequencies", frequencies.astype(np.float32)), "angles")
        return graph.concat([graph.unary("Sin", angles), graph.unary("Cos", angles)], 1, "table")


def sinusoid_table(tokens: int, features: int) -> np.ndarray[Any, Any]:
    """The same positions with each sine beside its cosine, as an array (1, tokens, features) for models that store
    them among their weights."""
    angles = np.arange(tokens)[:, None] * 10_000.0 ** (-np.arange(0, features, 2) / features)
    return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(1, tokens, -1)[..., :features].astype(np.float32)


def distances(graph: Builder, queries: int, keys: int) -> Value:
    """Each key's position less each query's (queries, keys), the last query standing at the last key. Made in the
    graph, once: a table would be the square of the sequence."""

    def make() -> Value:
        places = graph.integers("keys", range(keys))
        rows = graph.constant("queries", np.arange(keys - queries, keys, dtype=np.int64)[:, None])
        return graph.binary("Sub", places, rows, "difference")

    return graph.once(f"distances_{queries}_{keys}", make)


def alibi(graph: Builder, heads: int, queries: int, keys: int) -> Value:
    """-slope x |distance| to add to scores (heads, queries, keys), slopes 2^(-8 h / heads) for a power of two of heads,
    else those of the next smaller and, between them, of the next larger one (Press et al. 2022, arXiv:2108.12409)."""

    def slopes(count: int) -> list[float]:
        power = 2 ** int(np.log2(count))
        if power == count:
            return [2.0 ** (-8.0 * (head + 1) / count) for head in range(count)]
        return slopes(power) + slopes(2 * power)[0::2][: count - power]

    def make() -> Value:
        far = graph.cast(graph.unary("Abs", distances(graph, queries, keys)), TensorProto.FLOAT)
        steepness = graph.constant("slopes", -np.asarray(slopes(heads), dtype=np.float32)[:, None, None])
        return graph.multiply(far, steepness, "bias")

    return graph.once(f"alibi_{heads}_{queries}_{keys}", make)


def relative_buckets(
    graph: Builder, heads: int, queries: int, keys: int, causal: bool, buckets: int = 32, furthest: int = 128
) -> Value:
    """A learned bias for each head and bucket of distances (heads, queries, keys): a bucket for each near distance,
    logarithmically wider ones up to `furthest` (Raffel et al. 2020, arXiv:1910.10683). Shared by all layers."""

    def make() -> Value:
        of_distance = distance_buckets(np.arange(-keys + 1, queries if not causal else 1), causal, buckets, furthest)
        table = graph.once("relative_bias", lambda: graph.weight("weight", buckets, heads))
        by_distance = graph.lookup(table, graph.constant("buckets", of_distance), "by_distance")
        offset = graph.integers("offset", keys - 1)
        index = graph.add(distances(graph, queries, keys), offset, "index")
        if causal:
            [index] = graph.node("Min", [index, offset], [index.shape], "past_index")
        return graph.transpose(graph.lookup(by_distance, index, "bias"), (2, 0, 1), "by_head")

    return graph.once(f"relative_bias_{queries}_{keys}", make)


def distance_buckets(relative: np.ndarray[Any, Any], causal: bool, buckets: int, furthest: int) -> np.ndarray[Any, Any]:
    """The bucket of each distance, key less query, as T5 numbers them."""
    base = np.zeros_like(relative)
    if causal:
        far = np.maximum(-relative, 0)
    else:
        buckets //= 2
        base, far = np.where(relative > 0, buckets, 0), np.abs(relative)
    exact = buckets // 2
    growth = np.log(np.maximum(far, 1) / exact) / np.log(furthest / exact) * (buckets - exact)
    wide = np.minimum(exact + growth.astype(np.int64), buckets - 1)
    return (base + np.where(far < exact, far, wide)).astype(np.int64)
