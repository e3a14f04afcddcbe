"""Llama 2 and Llama 3: Touvron et al., 2023 (arXiv:2307.09288); Llama Team, 2024 (arXiv:2407.21783).

Root-mean-square norms, rotary positions, grouped-query attention as one ONNX Attention node, gated perceptrons.
"""

from __future__ import annotations

from workloads.blocks.attention import causal_mask, grouped_attention
from workloads.blocks.dense import gated_mlp, linear, rms_norm
from workloads.blocks.generation import last_token, read_cache, token_ids, write_cache
from workloads.blocks.positions import rotary_table
from workloads.builder import Builder
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
