"""BART: a bidirectional encoder, a causal decoder, norms after each sum. Lewis et al., ACL 2020 (arXiv:1910.13461).

The prefill reads the source and all of the target at once, as in training. A decode step reads its own cache, and the
keys and values that the encoder's output gave once; beams are a batch.
"""

from __future__ import annotations

from functools import partial

from workloads.blocks.attention import Cache, causal_mask, cross_attention, self_attention
from workloads.blocks.dense import layer_norm, mlp, tied_logits
from workloads.blocks.generation import read_cache, token_ids, write_cache
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

POSITION_OFFSET = 2
"""Rows of the positions' table before the first position."""

MODELS: Table = {
    "bart_base": {"layers": 6, "width": 768, "heads": 12},
    "bart_large": {"layers": 12, "width": 1024, "heads": 16},
    "bart_large_cnn": {"layers": 12, "width": 1024, "heads": 16},
}

VARIANTS: Table = {
    f"{name}{suffix}": {**model, "decode": bool(suffix)} for suffix in ("", "_decode") for name, model in MODELS.items()
}

SMALL = {"source": 6, "layers": 2, "width": 32, "heads": 4, "vocabulary": 100, "positions": 16}
REDUCED: Table = {"bart_base": {"target": 8, **SMALL}, "bart_base_decode": {"past": 7, **SMALL}}


@variants(VARIANTS, REDUCED)
def bart(
    graph: Builder,
    batch: int,
    source: int,
    target: int,
    past: int = 0,
    *,
    layers: int,
    width: int,
    heads: int,
    decode: bool,
    vocabulary: int = 50265,
    positions: int = 1024,
) -> None:
    """Source ids (batch, source) and target ids (batch, target) to the logits of the tokens that follow (batch, target,
    vocabulary); a decode step reads, in place of the source, keys and values of it and of `past` tokens."""
    table = graph.weight("embedding/weight", vocabulary, width)
    tokens = token_ids(graph, batch, target, "decoder_input_ids")
    of_source: list[Cache | None] = [None] * layers
    pasts = of_source
    memory: Value | None = None
    if decode:
        of_source = read_cache(graph, batch, heads, source, width // heads, layers, "source_")
        pasts = read_cache(graph, batch, heads, past, width // heads, layers)
    else:
        memory = _encode(graph, token_ids(graph, batch, source), table, layers, heads, positions)
    mask = causal_mask(graph, target, past + target) if target > 1 else None
    presents, source_presents = [], []
    with graph.scope("decoder"):
        value = _embed(graph, tokens, table, past, positions)
        for index in range(layers):
            with graph.scope(f"layer{index}"):
                mixed, present = self_attention(graph, value, heads, mask=mask, past=pasts[index], separate=True)
                value = _after(graph, value, mixed, 1)
                known = of_source[index] or memory
                assert known is not None
                crossed, source_present = cross_attention(graph, value, known, heads)
                value = _after(graph, value, crossed, 2)
                value = _after(graph, value, mlp(graph, value, 4 * width), 3)
                presents.append(present)
                source_presents.append(source_present)
    graph.output(tied_logits(graph, value, table), "logits")
    write_cache(graph, presents)
    if not decode:
        write_cache(graph, source_presents, "source_")


def _encode(graph: Builder, tokens: Value, table: Value, layers: int, heads: int, positions: int) -> Value:
    """Token ids (batch, source) to their encoding (batch, source, width)."""
    with graph.scope("encoder"):
        value = _embed(graph, tokens, table, 0, positions)
        for index in range(layers):
            with graph.scope(f"layer{index}"):
                value = post_norm_block(graph, value, heads)
        return value


def post_norm_block(graph: Builder, value: Value, heads: int) -> Value:
    """norm(x + attention(x)), then norm(x + mlp(x)) with a hidden layer of four widths."""
    value = _after(graph, value, self_attention(graph, value, heads, separate=True)[0], 1)
    return _after(graph, value, mlp(graph, value, 4 * value.shape[-1]), 2)


norm = partial(layer_norm, epsilon=1e-5)


def _after(graph: Builder, value: Value, branch: Value, number: int) -> Value:
    return norm(graph, graph.add(value, branch, f"residual{number}"), f"norm{number}")


def _embed(graph: Builder, tokens: Value, table: Value, past: int, positions: int) -> Value:
    """Words and learned positions, normalised."""
    with graph.scope("embedding"):
        words = graph.lookup(table, tokens, "words")
        places = graph.weight("positions", positions + POSITION_OFFSET, table.shape[1])
        first = past + POSITION_OFFSET
        return norm(graph, graph.add(words, graph.slice(places, first, first + tokens.shape[1], 0)), "norm")
