"""Positions: rotations of queries and keys, sinusoids, and biases of attention scores by distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

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
    turn, by default all of the head (Su et al. 2021, arXiv:2104.09864)."""
    size = rotated or head_size
    frequencies = theta ** (-np.arange(0, size, 2) / size)
    return rotation_by(graph, batch, np.outer(np.arange(past, past + sequence), frequencies), rotated)


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
