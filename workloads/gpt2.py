"""GPT-2: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019. Prefill, and one decode step.

Both write the keys and values of each layer, so that the outputs of one are the cache that the next reads.
"""

from __future__ import annotations

from codesign.errors import BadParameter
from workloads.blocks.attention import Cache, causal_mask, self_attention
from workloads.blocks.dense import layer_norm, mlp, tied_logits
from workloads.blocks.generation import last_token, read_cache, token_ids, write_cache
from workloads.builder import Builder, Value
from workloads.registry import variants

EPSILON = 1e-5

VARIANTS = {
    name + form: {"width": width, "heads": heads, "layers": layers}
    for form in ("", "_decode")
    for name, width, heads, layers in (
        ("gpt2_small", 768, 12, 12),
        ("gpt2_medium", 1024, 16, 24),
        ("gpt2_large", 1280, 20, 36),
        ("gpt2_xl", 1600, 25, 48),
    )
}

REDUCED = {
    "gpt2_small": {"sequence": 8, "width": 48, "layers": 2, "vocabulary": 1000},
    "gpt2_small_decode": {"past": 7, "width": 48, "layers": 2, "vocabulary": 1000},
}


@variants(VARIANTS, REDUCED)
def gpt2(
    graph: Builder,
    batch: int,
    sequence: int,
    past: int = 0,
    *,
    width: int,
    heads: int,
    layers: int,
    vocabulary: int = 50257,
    positions: int = 1024,
) -> None:
    """Token ids (batch, sequence), after `past` cached tokens, to logits of the next token (batch, 1, vocabulary)."""
    if past + sequence > positions:
        raise BadParameter(
            f"workload '{graph.name}': past + sequence = {past + sequence}; expected at most {positions}, "
            "the number of learned positions"
        )
    decoder(graph, token_ids(graph, batch, sequence), past, width, heads, layers, vocabulary, positions)


def decoder(
    graph: Builder,
    tokens: Value,
    past: int,
    width: int,
    heads: int,
    layers: int,
    vocabulary: int,
    positions: int,
    prefix: str = "",
) -> None:
    """The network on `tokens` (batch, sequence); its caches and logits are inputs and outputs after a `prefix`."""
    batch, sequence = tokens.shape
    caches = read_cache(graph, batch, heads, past, width // heads, layers, prefix)
    table = graph.weight("embedding/tokens/weight", vocabulary, width)
    value = _embed(graph, tokens, table, past, positions)
    mask = causal_mask(graph, sequence, past + sequence) if sequence > 1 else None
    presents = []
    for layer, cache in enumerate(caches):
        with graph.scope(f"layer{layer}"):
            value, present = decoder_block(graph, value, heads, mask, cache)
            presents.append(present)
    value = last_token(graph, layer_norm(graph, value, "norm", EPSILON))
    graph.output(tied_logits(graph, value, table), f"{prefix}logits")
    write_cache(graph, presents, prefix)


def decoder_block(
    graph: Builder, value: Value, heads: int, mask: Value | None, past: Cache | None
) -> tuple[Value, Cache]:
    """x + attention(norm(x)), then x + mlp(norm(x)); also the keys and values attended to."""
    normed = layer_norm(graph, value, "norm1", EPSILON)
    attended, present = self_attention(graph, normed, heads, mask=mask, past=past)
    value = graph.add(value, attended, "residual1")
    normed = layer_norm(graph, value, "norm2", EPSILON)
    hidden = mlp(graph, normed, 4 * value.shape[-1], approximate="tanh")
    return graph.add(value, hidden, "residual2"), present


def _embed(graph: Builder, tokens: Value, table: Value, past: int, positions: int) -> Value:
    """Token and learned position embeddings: (batch, sequence, width)."""
    sequence = tokens.shape[1]
    with graph.scope("embedding"):
        looked_up = graph.lookup(table, tokens, "tokens/lookup")
        position_table = graph.weight("positions/weight", positions, table.shape[1])
        indices = graph.integers("positions/indices", range(past, past + sequence))
        return graph.add(looked_up, graph.lookup(position_table, indices, "positions/lookup"))
