"""MASFormer: full causal attention in a few layers, attention inside blocks in all others. Zhang et al., EMNLP 2023
(arXiv:2310.12442). The host has the shape of GPT-Neo 1.3B.
"""

from __future__ import annotations

from functools import partial

from workloads.blocks.attention import attend, merge_heads, project_heads, scaled_dot_product
from workloads.blocks.dense import layer_norm, linear, mlp, tied_logits
from workloads.blocks.generation import token_ids
from workloads.blocks.residual import residual
from workloads.blocks.sparse import block_causal_mask, with_previous_block
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

VARIANTS: Table = {"masformer_1p3b": {}}

REDUCED: Table = {
    "masformer_1p3b": {
        "sequence": 16, "width": 32, "layers": 3, "heads": 4, "hidden": 64, "vocabulary": 100, "block": 4,
        "full_layers": 1,
    },
}  # fmt: skip


@variants(VARIANTS, REDUCED)
def masformer(
    graph: Builder,
    batch: int,
    sequence: int,
    *,
    width: int = 2048,
    layers: int = 24,
    heads: int = 16,
    hidden: int = 8192,
    full_layers: int = 4,
    block: int = 1024,
    previous: bool = False,
    vocabulary: int = 50257,
) -> None:
    """Token ids (batch, sequence) to logits (batch, sequence, vocabulary). The first `full_layers` attend to all
    earlier tokens, the others to their `block`, and with `previous` to the block before."""
    norm = partial(layer_norm, epsilon=1e-5)
    tokens = token_ids(graph, batch, sequence)
    table = graph.weight("embedding/weight", vocabulary, width)
    value = graph.lookup(table, tokens, "embedding/lookup")
    value = graph.add(value, graph.weight("embedding/positions", 1, sequence, width), "embedding/positioned")
    for index in range(layers):
        window = sequence if index < full_layers else min(block, sequence)
        with graph.scope(f"layer{index}"):
            mix = partial(block_attention, graph, heads=heads, block=window, previous=previous and window < sequence)
            value = residual(graph, value, mix, 1, norm)
            value = residual(graph, value, partial(mlp, graph, hidden=hidden, approximate="tanh"), 2, norm)
    graph.output(tied_logits(graph, norm(graph, value, "norm"), table), "logits")


def block_attention(graph: Builder, value: Value, heads: int, block: int, previous: bool) -> Value:
    """Causal attention of (batch, tokens, width) inside blocks, and with `previous` to the block before."""
    batch, tokens, width = value.shape
    blocks = tokens // block
    with graph.scope("attention"):
        if not previous:
            cut = graph.reshape(value, (batch * blocks, block, width), "blocks")
            query, key, content = project_heads(graph, cut, width, heads, "query", "key", "value", bias=False)
            context, _ = attend(graph, query, key, content)
            return linear(graph, graph.reshape(merge_heads(graph, context), value.shape, "tokens"), width, "output")
        grid = (batch, heads, blocks, block, width // heads)
        query, key, content = (
            graph.reshape(part, grid, "cut")
            for part in project_heads(graph, value, width, heads, "query", "key", "value", bias=False)
        )
        context = scaled_dot_product(
            graph, query, with_previous_block(graph, key), with_previous_block(graph, content),
            block_causal_mask(graph, blocks, block),
        )  # fmt: skip
        merged = merge_heads(graph, graph.reshape(context, (batch, heads, tokens, width // heads), "joined"))
        return linear(graph, merged, width, "output")
