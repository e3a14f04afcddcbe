"""MosaicBERT: BERT with attention biases by distance in place of positions, and gated feed-forward layers.

Portes et al., NeurIPS 2023 (arXiv:2312.17482). Beside it, the BERT that it is held against.
"""

from __future__ import annotations

from functools import partial

from workloads.bert import bert, padding_mask
from workloads.blocks.activation import activate
from workloads.blocks.attention import self_attention
from workloads.blocks.dense import layer_norm, linear
from workloads.blocks.generation import token_ids
from workloads.blocks.positions import alibi
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

EPSILON = 1e-12

VARIANTS: Table = {
    "mosaicbert_base": {"width": 768, "layers": 12, "heads": 12, "hidden": 3072},
    "mosaicbert_large": {"width": 1024, "layers": 24, "heads": 16, "hidden": 4096},
}

REDUCED: Table = {
    "mosaicbert_base": {"sequence": 8, "width": 48, "layers": 2, "heads": 6, "hidden": 96, "vocabulary": 100}
}


@variants(VARIANTS, REDUCED)
def mosaicbert(
    graph: Builder,
    batch: int,
    sequence: int,
    *,
    width: int,
    layers: int,
    heads: int,
    hidden: int,
    vocabulary: int = 30528,
) -> None:
    """Token ids, segment ids and a mask of real tokens, (batch, sequence) each, to the last hidden state (batch,
    sequence, width)."""
    tokens, attended, segments = (
        token_ids(graph, batch, sequence, name) for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    bias = graph.add(padding_mask(graph, attended), alibi(graph, heads, sequence, sequence), "bias")
    norm = partial(layer_norm, graph, epsilon=EPSILON)
    with graph.scope("embedding"):
        words = graph.lookup(graph.weight("words/weight", vocabulary, width), tokens, "words/lookup")
        kinds = graph.lookup(graph.weight("segments/weight", 2, width), segments, "segments/lookup")
        value = norm(graph.add(words, kinds), name="norm")
    for index in range(layers):
        with graph.scope(f"layer{index}"):
            mixed, _ = self_attention(graph, value, heads, mask=bias)
            value = norm(graph.add(mixed, value, "residual1"), name="norm1")
            value = norm(graph.add(gated_layers(graph, value, hidden), value, "residual2"), name="norm2")
    graph.output(value, "last_hidden_state")


def gated_layers(graph: Builder, value: Value, hidden: int) -> Value:
    """down(gelu(a) * b), a and b from one projection without bias; `down` has one."""
    with graph.scope("mlp"):
        gate, inner = graph.split(linear(graph, value, 2 * hidden, "gated_layers", bias=False), 2, name="gate_inner")
        product = graph.multiply(activate(graph, gate, "gelu"), inner, "gated")
        return linear(graph, product, value.shape[-1], "down")


@variants(
    {"bert_base_baseline": {}},
    {"bert_base_baseline": {"sequence": 8, "width": 48, "layers": 2, "heads": 6, "vocabulary": 100}},
)
def baseline(
    graph: Builder,
    batch: int,
    sequence: int,
    *,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    vocabulary: int = 30522,
) -> None:
    """BERT-base, as in `workloads.bert`."""
    bert(graph, batch, sequence, width=width, heads=heads, layers=layers, vocabulary=vocabulary)
