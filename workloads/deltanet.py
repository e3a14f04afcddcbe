"""DeltaNet: linear attention whose writes correct what the state recalls, in chunks by their WY form.

Yang et al., NeurIPS 2024 (arXiv:2406.06484). Hybrids have softmax attention, over a window or all tokens, in some
layers.
"""

from __future__ import annotations

from workloads.blocks.activation import activate
from workloads.blocks.attention import Cache, causal_mask, grouped_attention, merge_heads, split_heads
from workloads.blocks.dense import gated_mlp, linear, rms_norm
from workloads.blocks.generation import States, language_model, read_states, write_states
from workloads.blocks.positions import rotary_table
from workloads.blocks.recurrence import Form, Recurrence, linear_recurrence
from workloads.blocks.temporal import short_convolution
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

EPSILON = 1e-6
ROLES = ("query", "key", "value")

SIZES: Table = {"340m": {"width": 1024, "hidden": 2816}, "1b3": {"width": 2048, "hidden": 5632, "tied": False}}

MODELS: Table = {
    "deltanet_340m": SIZES["340m"],
    "deltanet_1b3": SIZES["1b3"],
    "deltanet_hybrid_swa": {**SIZES["1b3"], "attention_layers": tuple(range(1, 24, 2)), "window": 2048},
    "deltanet_hybrid_global": {**SIZES["1b3"], "attention_layers": (1, 12)},
}

VARIANTS: Table = {
    f"{name}{suffix}": {**model, "decode": bool(suffix)} for suffix in ("", "_decode") for name, model in MODELS.items()
}

SMALL = {"width": 32, "hidden": 64, "layers": 2, "vocabulary": 100, "head_size": 16, "chunk": 4}
REDUCED: Table = {
    "deltanet_340m": {"sequence": 12, **SMALL},
    "deltanet_340m_decode": {"past": 11, **SMALL},
    "deltanet_hybrid_swa": {"sequence": 12, **SMALL, "attention_layers": (1,), "window": 3},
}


@variants(VARIANTS, REDUCED)
def deltanet(
    graph: Builder,
    batch: int,
    sequence: int,
    past: int = 0,
    *,
    width: int,
    hidden: int,
    decode: bool,
    layers: int = 24,
    head_size: int = 128,
    kernel: int = 4,
    attention_layers: tuple[int, ...] = (),
    window: int | None = None,
    tied: bool = True,
    vocabulary: int = 32000,
    form: Form = "chunked",
    chunk: int = 64,
) -> None:
    """Token ids (batch, sequence), after `past` tokens, to logits (batch, sequence, vocabulary) and the states."""
    heads = width // head_size
    kept = past if window is None else min(past, window - sequence)
    cache = dict.fromkeys(("key", "value"), (batch, heads, kept, head_size))
    carried: dict[str, tuple[int, ...]] = {f"{role}_window": (batch, width, kernel - 1) for role in ROLES}
    carried["recurrence"] = (batch, heads, head_size, head_size)
    shapes = [cache if index in attention_layers else carried for index in range(layers)]
    pasts: list[States | None] = [*read_states(graph, shapes)] if decode else [None] * layers
    presents: list[States] = []
    rotation = rotary_table(graph, batch, sequence, past, head_size, 10_000.0) if attention_layers else None
    masked = attention_layers and not decode and window is not None and window < sequence
    mask = causal_mask(graph, sequence, sequence, window) if masked else None

    def norm(value: Value, name: str) -> Value:
        return rms_norm(graph, value, name, EPSILON)

    def mix(value: Value, index: int) -> tuple[Value, States]:
        before = pasts[index]
        if index not in attention_layers:
            return delta_mixer(graph, value, heads, kernel, form, chunk, before)
        cached = Cache(before["key"], before["value"]) if before else None
        mixed, present = grouped_attention(graph, value, heads, heads, rotation, mask, cached)
        return mixed, {"key": present.key, "value": present.value}

    def layer(value: Value, index: int) -> Value:
        mixed, present = mix(norm(value, "norm1"), index)
        presents.append(present)
        value = graph.add(value, mixed, "residual1")
        return graph.add(value, gated_mlp(graph, norm(value, "norm2"), hidden), "residual2")

    language_model(graph, batch, sequence, layer, norm, layers=layers, width=width, vocabulary=vocabulary, tied=tied)
    write_states(graph, presents)


def delta_mixer(
    graph: Builder, value: Value, heads: int, kernel: int, form: Form, chunk: int, past: States | None
) -> tuple[Value, States]:
    """Queries, keys and values through short convolutions and SiLU, keys and queries of length one, the delta rule with
    a learned strength, a norm of each head."""
    width = value.shape[-1]
    with graph.scope("mixer"):
        parts, present = [], {}
        for role in ROLES:
            window = past[f"{role}_window"] if past else None
            part = linear(graph, value, width, role, bias=False)
            part, present[f"{role}_window"] = short_convolution(
                graph, part, kernel, f"{role}_convolution", window, bias=False
            )
            parts.append(split_heads(graph, activate(graph, part, "silu"), heads, role))
        query, key = (graph.unary("LpNormalization", part, f"{role}_unit", axis=-1, p=2)
                      for role, part in zip(ROLES[:2], parts[:2], strict=True))  # fmt: skip
        strength = graph.unary("Sigmoid", linear(graph, value, heads, "strength", bias=False))
        beta = split_heads(graph, strength, heads, "beta")
        scale = graph.scalar("scale", key.shape[-1] ** -0.5)
        operands = Recurrence(graph.multiply(query, scale, "scaled_query"), key, parts[2], beta=beta)
        outputs, present["recurrence"] = linear_recurrence(
            graph, operands, form, past["recurrence"] if past else None, chunk
        )
        outputs = merge_heads(graph, rms_norm(graph, outputs, "norm", EPSILON))
        return linear(graph, outputs, width, "output", bias=False), present
