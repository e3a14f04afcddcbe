"""Gated linear attention: a forget gate for each key channel, in chunks and subchunks that use matrix products.

Yang et al., ICML 2024 (arXiv:2312.06635). The 7B has the shapes of Mistral, query heads sharing keys, values and gates.
"""

from __future__ import annotations

from workloads.blocks.activation import activate
from workloads.blocks.attention import merge_heads, split_heads
from workloads.blocks.dense import gated_mlp, linear, rms_norm
from workloads.blocks.generation import States, language_model, read_states, write_states
from workloads.blocks.recurrence import Form, Recurrence, linear_recurrence
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

EPSILON = 1e-6
GATE_LOGIT_NORMALISER = 16.0
"""The gate is sigmoid(x)^(1/16): close to one, so that memory is long."""
GATE_RANK = 16

MODELS: Table = {
    "gla_340m": {"width": 1024, "hidden": 2816, "heads": 4},
    "gla_1b3": {"width": 2048, "hidden": 5632, "heads": 4, "tied": False},
    "gla_7b": {"width": 4096, "hidden": 14336, "heads": 32, "kv_heads": 8, "layers": 32, "key_ratio": 1.0,
               "rectified": True, "output_gate": False, "tied": False},
}  # fmt: skip

VARIANTS = {
    f"{name}{suffix}": {**model, "decode": bool(suffix)} for suffix in ("", "_decode") for name, model in MODELS.items()
}

SMALL = {"width": 32, "hidden": 64, "layers": 2, "vocabulary": 100, "heads": 4, "chunk": 8, "subchunk": 4}
REDUCED = {
    "gla_340m": {"sequence": 16, **SMALL},
    "gla_340m_decode": SMALL,
    "gla_7b": {"sequence": 16, **SMALL, "kv_heads": 2},
}


@variants(VARIANTS, REDUCED)
def gla(
    graph: Builder,
    batch: int,
    sequence: int,
    *,
    width: int,
    hidden: int,
    heads: int,
    decode: bool,
    kv_heads: int = 0,
    layers: int = 24,
    key_ratio: float = 0.5,
    rectified: bool = False,
    output_gate: bool = True,
    tied: bool = True,
    vocabulary: int = 32000,
    form: Form = "chunked",
    chunk: int = 64,
    subchunk: int = 16,
) -> None:
    """Token ids (batch, sequence) to logits (batch, sequence, vocabulary) and the states."""
    kv_heads = kv_heads or heads
    key_size, value_size = int(key_ratio * width) // heads, width // heads
    shape = (batch, kv_heads, key_size, value_size)
    pasts = read_states(graph, [{"recurrence": shape}] * layers) if decode else [None] * layers
    presents: list[States] = []

    def norm(value: Value, name: str) -> Value:
        return rms_norm(graph, value, name, EPSILON)

    def mix(value: Value, past: States | None) -> Value:
        with graph.scope("mixer"):
            query, key, content, gate = _operands(graph, value, heads, kv_heads, key_size, value_size)
            if rectified:
                query, key = graph.unary("Relu", query, "query_features"), graph.unary("Relu", key, "key_features")
            shared = heads // kv_heads
            query = graph.reshape(query, (batch * kv_heads, shared, sequence, key_size), "query_groups")
            single = [
                graph.reshape(part, (batch * kv_heads, 1, sequence, part.shape[-1]), "groups")
                for part in (key, content, gate)
            ]
            start = graph.reshape(past["recurrence"], (batch * kv_heads, 1, *shape[2:])) if past else None
            operands = Recurrence(query, *single)
            outputs, state = linear_recurrence(graph, operands, form, start, chunk, subchunk)
            presents.append({"recurrence": graph.reshape(state, shape, "state")})
            outputs = graph.reshape(outputs, (batch, heads, sequence, value_size), "outputs")
            merged = merge_heads(graph, rms_norm(graph, outputs, "norm", EPSILON))
            if output_gate:
                opened = activate(graph, linear(graph, value, width, "gate", bias=False), "silu")
                merged = graph.multiply(merged, opened, "gated")
            return linear(graph, merged, width, "output", bias=False)

    def layer(value: Value, index: int) -> Value:
        value = graph.add(value, mix(norm(value, "norm1"), pasts[index]), "residual1")
        return graph.add(value, gated_mlp(graph, norm(value, "norm2"), hidden), "residual2")

    language_model(graph, batch, sequence, layer, norm, layers=layers, width=width, vocabulary=vocabulary, tied=tied)
    write_states(graph, presents)


def _operands(
    graph: Builder, value: Value, heads: int, kv_heads: int, key_size: int, value_size: int
) -> tuple[Value, Value, Value, Value]:
    """Scaled queries, keys, values and the logarithm of the gates, (batch, heads, tokens, size) each."""
    query, key, content = (
        split_heads(graph, linear(graph, value, count * size, role, bias=False), count, role)
        for role, count, size in (
            ("query", heads, key_size),
            ("key", kv_heads, key_size),
            ("value", kv_heads, value_size),
        )
    )
    low = linear(graph, value, GATE_RANK, "forget_down", bias=False)
    logits = linear(graph, low, kv_heads * key_size, "forget_up")
    softened = activate(graph, graph.unary("Neg", logits), "softplus")
    log_gate = graph.multiply(softened, graph.scalar("normaliser", -1 / GATE_LOGIT_NORMALISER), "log_gate")
    query = graph.multiply(query, graph.scalar("scale", key_size**-0.5), "scaled_query")
    return query, key, content, split_heads(graph, log_gate, kv_heads, "log_gate")
