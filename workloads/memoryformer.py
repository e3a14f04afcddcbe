"""MemoryFormer: linear layers become tables that the signs of the input address. Ding et al., NeurIPS 2024
(arXiv:2411.12992). The hosts have the shapes of Pythia.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from onnx import TensorProto

from workloads.blocks.attention import attend, merge_heads, split_heads
from workloads.blocks.dense import layer_norm
from workloads.blocks.generation import language_model
from workloads.blocks.positions import rotary_table, rotate
from workloads.blocks.residual import residual
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

VARIANTS: Table = {
    "memoryformer_tiny": {"width": 512, "layers": 6, "heads": 8},
    "memoryformer_small": {"width": 768, "layers": 12, "heads": 12},
    "memoryformer_base": {"width": 1024, "layers": 24, "heads": 16},
}

REDUCED: Table = {
    "memoryformer_tiny": {"sequence": 8, "width": 32, "layers": 2, "heads": 4, "bits": 4, "vocabulary": 100},
}


@variants(VARIANTS, REDUCED)
def memoryformer(
    graph: Builder,
    batch: int,
    sequence: int,
    *,
    width: int,
    layers: int,
    heads: int,
    bits: int = 8,
    more_bits: int = 2,
    rotary_share: float = 0.25,
    vocabulary: int = 50304,
) -> None:
    """Token ids (batch, sequence) to logits (batch, sequence, vocabulary). A feed-forward part is two memory layers,
    the first of which gives each chunk `more_bits` bits, so that the second has larger tables."""
    size, chunks = width // heads, width // bits
    rotation = rotary_table(graph, batch, sequence, 0, size, 10_000.0, max(2, int(rotary_share * size)))
    norm = partial(layer_norm, epsilon=1e-5)

    def attention(value: Value) -> Value:
        with graph.scope("attention"):
            query, key, content = (
                split_heads(graph, memory_layer(graph, value, width, bits, role), heads, role)
                for role in ("query", "key", "value")
            )
            query, key = rotate(graph, query, rotation, "query"), rotate(graph, key, rotation, "key")
            return memory_layer(graph, merge_heads(graph, attend(graph, query, key, content)[0]), width, bits, "output")

    def feed(value: Value) -> Value:
        with graph.scope("mlp"):
            inner = memory_layer(graph, value, chunks * (bits + more_bits), bits, "up")
            inner = norm(graph, inner, "norm")
            return memory_layer(graph, inner, width, bits + more_bits, "down")

    def layer(value: Value, index: int) -> Value:
        return residual(graph, residual(graph, value, attention, 1, norm), feed, 2, norm)

    language_model(
        graph, batch, sequence, layer, partial(norm, graph), layers=layers, width=width, vocabulary=vocabulary,
        tied=False,
    )  # fmt: skip


def memory_layer(graph: Builder, value: Value, features: int, bits: int, name: str, temperature: float = 1.0) -> Value:
    """The sum over chunks of `bits` inputs of the row that their signs address in the chunk's table of 2^bits rows,
    weighted by the probability of that bucket, the product of sigmoid(2 |z| / temperature)."""
    *lead, width = value.shape
    chunks = width // bits
    with graph.scope(name):
        cut = graph.reshape(value, (*lead, chunks, bits), "chunks")
        positive = graph.compare("Greater", cut, graph.scalar("zero", 0.0), "signs")
        powers = graph.integers("powers", [2**bit for bit in range(bits)])
        digits = graph.multiply(graph.cast(positive, TensorProto.INT64), powers, "digits")
        rows = graph.add(
            graph.sum(digits, [-1], "bucket"), graph.integers("first_rows", np.arange(chunks) * 2**bits), "rows"
        )
        table = graph.weight("table", chunks * 2**bits, features)
        gathered = graph.lookup(table, rows, "lookup")
        sharpness = graph.multiply(graph.unary("Abs", cut), graph.scalar("sharpness", 2 / temperature))
        likely = graph.reduce("ReduceProd", graph.unary("Sigmoid", sharpness), [-1], "probability", keepdims=True)
        return graph.sum(graph.multiply(gathered, likely, "weighted"), [len(lead)], "total")
