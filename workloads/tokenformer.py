"""TokenFormer: every projection is attention over learned pairs of key and value tokens.

Wang et al., ICLR 2025 (arXiv:2410.23168). A network grows by appending pairs; a pair with a zero key changes nothing as
long as scores keep the scale of the slots that were there (`scale_slots`).
"""

from __future__ import annotations

import math
from functools import partial

from workloads.blocks.attention import attend, merge_heads, split_heads
from workloads.blocks.dense import layer_norm, linear, unit_layer_norm
from workloads.blocks.generation import language_model
from workloads.blocks.positions import rotary_table, rotate
from workloads.blocks.residual import residual
from workloads.builder import Builder, Value
from workloads.registry import variants

EPSILON = 1e-5

VARIANTS = {
    name: {"width": width, "layers": layers, "heads": heads, "slots": slots}
    for name, width, layers, heads, slots in (
        ("tokenformer_150m", 768, 12, 12, 768),
        ("tokenformer_450m", 1024, 24, 16, 1024),
        ("tokenformer_900m", 1280, 32, 16, 1280),
        ("tokenformer_1p5b", 1536, 40, 16, 1536),
        ("tokenformer_354m_to_757m", 1024, 24, 16, 1792),
    )
}

REDUCED = {"tokenformer_150m": {"sequence": 8, "width": 32, "layers": 2, "heads": 4, "slots": 24, "vocabulary": 100}}


@variants(VARIANTS, REDUCED)
def tokenformer(
    graph: Builder,
    batch: int,
    sequence: int,
    *,
    width: int,
    layers: int,
    heads: int,
    slots: int,
    scale_slots: int = 0,
    rotary_share: float = 0.25,
    vocabulary: int = 50304,
) -> None:
    """Token ids (batch, sequence) to logits (batch, sequence, vocabulary). A projection has `slots` pairs, the
    feed-forward part four times as many; scores are scaled by the root of `scale_slots` (0: of the slots)."""
    size = width // heads
    rotation = rotary_table(graph, batch, sequence, 0, size, 10_000.0, max(2, int(rotary_share * size)))
    scale = math.sqrt(scale_slots or slots)

    def norm(graph: Builder, value: Value, name: str) -> Value:
        return unit_layer_norm(graph, value, name, EPSILON)

    def attention(value: Value) -> Value:
        with graph.scope("attention"):
            query, key, content = (
                split_heads(graph, parameter_attention(graph, value, slots, scale, role), heads, role)
                for role in ("query", "key", "value")
            )
            query, key = rotate(graph, query, rotation, "query"), rotate(graph, key, rotation, "key")
            context, _ = attend(graph, query, key, content)
            return parameter_attention(graph, merge_heads(graph, context), slots, scale, "output")

    def layer(value: Value, index: int) -> Value:
        value = residual(graph, value, attention, 1, norm)
        return residual(
            graph, value, lambda inner: parameter_attention(graph, inner, 4 * slots, 2 * scale, "mlp"), 2, norm
        )

    last = partial(layer_norm, graph, epsilon=EPSILON)
    language_model(
        graph, batch, sequence, layer, lambda v, name: last(v, name=name), layers=layers, width=width,
        vocabulary=vocabulary,
    )  # fmt: skip


def parameter_attention(graph: Builder, value: Value, slots: int, scale: float, name: str) -> Value:
    """gelu(scale s / |s|) V for the scores s = x K^T of learned keys and values, `slots` rows of the input's width."""
    with graph.scope(name):
        scores = linear(graph, value, slots, "keys", bias=False)
        unit = graph.unary("LpNormalization", scores, "unit", axis=-1, p=2)
        weights = graph.unary("Gelu", graph.multiply(unit, graph.scalar("scale", scale), "scaled"))
        return linear(graph, weights, value.shape[-1], "values", bias=False)
