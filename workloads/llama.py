"""Llama 2 and Llama 3: Touvron et al., 2023 (arXiv:2307.09288); Llama Team, 2024 (arXiv:2407.21783).

Root-mean-square norms, rotary positions, grouped-query attention as one ONNX Attention node, gated perceptrons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workloads.blocks.attention import Cache, causal_mask, merge_heads, split_heads
from workloads.blocks.dense import gated_mlp, linear, rms_norm
from workloads.blocks.generation import last_token, read_cache, token_ids, write_cache
from workloads.builder import Builder, Value
from workloads.registry import variants

EPSILON = 1e-5

VARIANTS = {
    name + form: {"kv_heads": kv_heads, "hidden": hidden, "vocabulary": vocabulary, "theta": theta}
    for form in ("", "_decode")
    for name, kv_heads, hidden, vocabulary, theta in (
        ("llama2_7b", 32, 11008, 32000, 10_000.0),
        ("llama3_8b", 8, 14336, 128256, 500_000.0),
    )
}

SMALL = {"heads": 8, "kv_heads": 2, "hidden": 256, "vocabulary": 1000, "width": 128, "layers": 2}
"""Llama 3's structure, four query heads to a key head, small enough to run."""

REDUCED = {
    "llama3_8b": {"sequence": 8, **SMALL},
    "llama3_8b_decode": {"past": 7, **SMALL},
}


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines of each token's position (tokens, head size / 2), and the row of each token (batch, tokens)."""

    cosines: Value
    sines: Value
    rows: Value


@variants(VARIANTS, REDUCED)
def llama(
    graph: Builder,
    batch: int,
    sequence: int,
    past: int = 0,
    *,
    kv_heads: int,
    hidden: int,
    vocabulary: int,
    theta: float,
    heads: int = 32,
    width: int = 4096,
    layers: int = 32,
) -> None:
    """Token ids (batch, sequence), after `past` cached tokens, to logits of the next token (batch, 1, vocabulary)."""
    tokens = token_ids(graph, batch, sequence)
    caches = read_cache(graph, batch, kv_heads, past, width // heads, layers)
    rotation = rotary_table(graph, batch, sequence, past, width // heads, theta)
    mask = causal_mask(graph, sequence, past + sequence) if past and sequence > 1 else None
    value = graph.lookup(graph.weight("embedding/weight", vocabulary, width), tokens, "embedding/lookup")
    presents = []
    for layer, cache in enumerate(caches):
        with graph.scope(f"layer{layer}"):
            normed = rms_norm(graph, value, "norm1", EPSILON)
            attended, present = grouped_attention(graph, normed, heads, kv_heads, rotation, mask, cache)
            value = graph.add(value, attended, "residual1")
            value = graph.add(value, gated_mlp(graph, rms_norm(graph, value, "norm2", EPSILON), hidden), "residual2")
            presents.append(present)
    value = last_token(graph, rms_norm(graph, value, "norm", EPSILON))
    graph.output(linear(graph, value, vocabulary, "head", bias=False), "logits")
    write_cache(graph, presents)


def grouped_attention(
    graph: Builder,
    value: Value,
    heads: int,
    kv_heads: int,
    rotation: Rotation,
    mask: Value | None,
    past: Cache | None,
) -> tuple[Value, Cache]:
    """Attention in which heads / kv_heads query heads share a key and value head (Ainslie et al. 2023,
    arXiv:2305.13245). Returns the result, shaped as `value`, and the keys and values attended to."""
    size = value.shape[-1] // heads
    with graph.scope("attention"):
        query, key, content = (
            split_heads(graph, linear(graph, value, count * size, role, bias=False), count, role)
            for role, count in (("query", heads), ("key", kv_heads), ("value", kv_heads))
        )
        query, key = rotate(graph, query, rotation, "query"), rotate(graph, key, rotation, "key")
        context, present = _attend(graph, query, key, content, mask, past)
        return linear(graph, merge_heads(graph, context), value.shape[-1], "output", bias=False), present


def rotary_table(graph: Builder, batch: int, sequence: int, past: int, head_size: int, theta: float) -> Rotation:
    """Angles of positions past ... past + sequence - 1: position x theta^(-2i / head size) for pair i (Su et al. 2021,
    arXiv:2104.09864)."""
    frequencies = theta ** (-np.arange(0, head_size, 2) / head_size)
    angles = np.outer(np.arange(past, past + sequence), frequencies)
    rows = np.broadcast_to(np.arange(sequence), (batch, sequence))
    with graph.scope("rotary"):
        return Rotation(
            graph.constant("cosines", np.cos(angles).astype(np.float32)),
            graph.constant("sines", np.sin(angles).astype(np.float32)),
            graph.constant("rows", np.ascontiguousarray(rows)),
        )


def rotate(graph: Builder, value: Value, rotation: Rotation, name: str) -> Value:
    """`value` (batch, heads, tokens, head size) with each pair (i, i + half) turned by its token's angle."""
    inputs = [value, rotation.cosines, rotation.sines, rotation.rows]
    [rotated] = graph.node("RotaryEmbedding", inputs, [value.shape], f"{name}/RotaryEmbedding")
    return rotated


def _attend(
    graph: Builder, query: Value, key: Value, content: Value, mask: Value | None, past: Cache | None
) -> tuple[Value, Cache]:
    """One Attention node. Its own causal mask is for sequences without a past; a single token needs none."""
    if past is None:
        [context] = graph.node("Attention", [query, key, content], [query.shape], is_causal=1)
        return context, Cache(key, content)
    batch, heads, tokens, size = key.shape
    total = (batch, heads, past.key.shape[2] + tokens, size)
    inputs = [query, key, content, mask, past.key, past.value]
    context, *present = graph.node("Attention", inputs, [query.shape, total, total])
    return context, Cache(*present)
