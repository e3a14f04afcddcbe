"""Sparse query attention: fewer query heads, of an unchanged size, in a small decoder.

Filipek, 2025 (arXiv:2510.01817).

Scores and the output projection shrink with the query heads; grouped keys and values alone leave them as they are.
"""

from __future__ import annotations

from functools import partial

from workloads.blocks.attention import Cache, grouped_attention
from workloads.blocks.dense import gated_mlp, rms_norm
from workloads.blocks.generation import language_model, read_cache, write_cache
from workloads.blocks.positions import rotary_table
from workloads.blocks.residual import residual
from workloads.builder import Builder, Value
from workloads.registry import variants

EPSILON = 1e-5

VARIANTS = {
    f"{name}{suffix}": {"heads": heads, "kv_heads": kv_heads}
    for suffix in ("", "_decode")
    for name, heads, kv_heads in (
        ("mha", 16, 16), ("gqa", 16, 4), ("mqa", 16, 1), ("sqa", 8, 4), ("ssqa", 8, 8), ("xsqa", 4, 4), ("xsmqa", 4, 1),
    )
}  # fmt: skip

SMALL = {"width": 64, "head_size": 8, "hidden": 96, "layers": 2, "vocabulary": 100}
REDUCED = {"mha": {"sequence": 8, **SMALL}, "sqa": {"sequence": 8, **SMALL}, "sqa_decode": {"past": 7, **SMALL}}


@variants(VARIANTS, REDUCED)
def sqa(
    graph: Builder,
    batch: int,
    sequence: int,
    past: int = 0,
    *,
    heads: int,
    kv_heads: int,
    width: int = 256,
    head_size: int = 16,
    hidden: int = 768,
    layers: int = 8,
    vocabulary: int = 10000,
) -> None:
    """Token ids (batch, sequence), after `past` cached tokens, to logits (batch, sequence, vocabulary) and caches."""
    caches = read_cache(graph, batch, kv_heads, past, head_size, layers)
    rotation = rotary_table(graph, batch, sequence, past, head_size, 10_000.0)
    norm = partial(rms_norm, epsilon=EPSILON)
    presents: list[Cache] = []

    def layer(value: Value, index: int) -> Value:
        def attention(inner: Value) -> Value:
            mixed, present = grouped_attention(graph, inner, heads, kv_heads, rotation, None, caches[index], head_size)
            presents.append(present)
            return mixed

        value = residual(graph, value, attention, 1, norm)
        return residual(graph, value, partial(gated_mlp, graph, hidden=hidden), 2, norm)

    language_model(
        graph, batch, sequence, layer, partial(norm, graph), layers=layers, width=width, vocabulary=vocabulary
    )
    write_cache(graph, presents)
