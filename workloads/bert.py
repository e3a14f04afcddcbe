"""BERT encoders with their pooler: Devlin et al., NAACL 2019 (arXiv:1810.04805). BERT-Tiny is of Turc et al., 2019
(arXiv:1908.08962)."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from codesign.errors import BadParameter
from workloads.blocks.attention import self_attention
from workloads.blocks.dense import layer_norm, linear, mlp
from workloads.blocks.generation import token_ids
from workloads.builder import Builder, Value
from workloads.registry import variants

EPSILON = 1e-12

VARIANTS = {
    "bert_tiny": {"width": 128, "heads": 2, "layers": 2},
    "bert_base": {"width": 768, "heads": 12, "layers": 12},
    "bert_large": {"width": 1024, "heads": 16, "layers": 24},
}

REDUCED = {"bert_tiny": {"sequence": 16, "width": 64, "vocabulary": 1000}}

ENCODERS = {"bert_base_encoder": {"width": 768, "heads": 12, "layers": 12}}

REDUCED_ENCODERS = {"bert_base_encoder": {"sequence": 16, "width": 64, "heads": 2, "layers": 2}}


@variants(VARIANTS, REDUCED)
def bert(
    graph: Builder,
    batch: int,
    sequence: int,
    *,
    width: int,
    heads: int,
    layers: int,
    vocabulary: int = 30522,
    positions: int = 512,
) -> None:
    """Token ids, segment ids and a mask of real tokens, (batch, sequence) each, to the last hidden state
    (batch, sequence, width) and the pooled first token (batch, width)."""
    if sequence > positions:
        raise BadParameter(f"workload '{graph.name}': sequence = {sequence}; expected at most {positions} positions")
    tokens, attended, segments = (
        token_ids(graph, batch, sequence, name) for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    mask = padding_mask(graph, attended)
    value = _embed(graph, tokens, segments, width, vocabulary, positions)
    for layer in range(layers):
        with graph.scope(f"layer{layer}"):
            value = encoder_block(graph, value, heads, mask)
    graph.output(value, "last_hidden_state")
    first = graph.take(value, 0, 1, "first_token")
    graph.output(graph.unary("Tanh", linear(graph, first, width, "pooler"), "pooler/Tanh"), "pooler_output")


@variants(ENCODERS, REDUCED_ENCODERS)
def encoder(graph: Builder, batch: int, sequence: int, *, width: int, heads: int, layers: int) -> None:
    """The layers alone, from embedded tokens (batch, sequence, width), none of them padding: query, key and value in
    one product, as in PyTorch's `nn.TransformerEncoder`."""
    value = graph.input("embedded", (batch, sequence, width))
    for layer in range(layers):
        with graph.scope(f"layer{layer}"):
            value = encoder_block(graph, value, heads, None, separate=False)
    graph.output(value, "last_hidden_state")


def encoder_block(graph: Builder, value: Value, heads: int, mask: Value | None, separate: bool = True) -> Value:
    """norm(x + attention(x)), then norm(x + mlp(x)): normalised after each sum."""
    attended, _ = self_attention(graph, value, heads, mask=mask, separate=separate)
    value = layer_norm(graph, graph.add(attended, value, "residual1"), "norm1", EPSILON)
    hidden = mlp(graph, value, 4 * value.shape[-1])
    return layer_norm(graph, graph.add(hidden, value, "residual2"), "norm2", EPSILON)


def padding_mask(graph: Builder, attended: Value) -> Value:
    """Added to scores (batch, 1, 1, keys): zero for real tokens, the lowest float for padding."""
    with graph.scope("padding_mask"):
        [real] = graph.node(
            "Cast", [attended], [attended.shape], data_type=TensorProto.FLOAT, to=int(TensorProto.FLOAT)
        )
        batch, keys = attended.shape
        spread = graph.reshape(real, (batch, 1, 1, keys))
        hidden = graph.binary("Sub", graph.scalar("one", 1.0), spread)
        return graph.multiply(hidden, graph.scalar("lowest", float(np.finfo(np.float32).min)))


def _embed(graph: Builder, tokens: Value, segments: Value, width: int, vocabulary: int, positions: int) -> Value:
    """Word, position and segment embeddings summed and normalised."""
    with graph.scope("embedding"):
        words = graph.lookup(graph.weight("words/weight", vocabulary, width), tokens, "words/lookup")
        kinds = graph.lookup(graph.weight("segments/weight", 2, width), segments, "segments/lookup")
        indices = graph.integers("positions/indices", range(tokens.shape[1]))
        places = graph.lookup(graph.weight("positions/weight", positions, width), indices, "positions/lookup")
        return layer_norm(graph, graph.add(graph.add(words, kinds), places), "norm", EPSILON)
