"""Language models of selective state spaces, attention and perceptrons in any order.

Waleffe et al., An Empirical Study of Mamba-based Language Models, 2024 (arXiv:2406.07887). A pattern names the layers:
M a Mamba-2 mixer, m a Mamba mixer, * attention, - a perceptron with squared ReLU; each after a norm, in a residual.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from workloads.blocks.attention import Cache, causal_mask, grouped_attention
from workloads.blocks.dense import feed_forward, layer_norm, rms_norm
from workloads.blocks.generation import States, language_model, read_states, write_states
from workloads.blocks.positions import rotary_table
from workloads.blocks.recurrence import Form
from workloads.blocks.state_space import Dual, Selective, mamba2_mixer, mamba_mixer
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

EPSILON = 1e-5

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of what a layer carries from token to token, by role."""


def spread_pattern(layers: int, attention_ratio: float, mlp_ratio: float) -> str:
    """Attention layers at even distances, then perceptrons at even distances among the others, as Megatron-LM places
    them from their shares."""
    pattern = ["M"] * layers
    for kind, count in (("*", round(layers * attention_ratio)), ("-", round(layers * mlp_ratio))):
        free = [place for place, present in enumerate(pattern) if present == "M"]
        between = (len(free) - count) / (count + 1 if kind == "*" else count) if count else 0.0
        credit = between
        for place in free:
            if credit < 0.5:
                pattern[place] = kind
                credit += between
            else:
                credit -= 1
    return "".join(pattern)


MODELS: Table = {
    "mamba2_hybrid_8b": {"pattern": "M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-"},
    "mamba2_8b": {"pattern": "M" * 56},
    "mamba1_8b": {"pattern": "m" * 56},
    "transformer_8b": {"pattern": "*-" * 32, "kv_heads": 32, "rotated": 64, "norm": "layer"},
    "hybrid_800m_train_script": {
        "pattern": spread_pattern(48, attention_ratio=0.08, mlp_ratio=0.5),
        "width": 1024,
        "heads": 16,
        "hidden": 4096,
    },
}

VARIANTS = {
    f"{name}{suffix}": {**model, "decode": bool(suffix)} for suffix in ("", "_decode") for name, model in MODELS.items()
}

SMALL = {"width": 64, "heads": 4, "kv_heads": 2, "hidden": 128, "head_size": 16, "state": 8, "groups": 2,
         "state_head": 16, "vocabulary": 100, "chunk": 4}  # fmt: skip
REDUCED = {
    "mamba2_hybrid_8b": {"sequence": 12, **SMALL, "pattern": "M*-Mm"},
    "mamba2_hybrid_8b_decode": {"past": 11, **SMALL, "pattern": "M*-Mm"},
    "transformer_8b": {"sequence": 12, **SMALL, "pattern": "*-", "rotated": 8},
}


@variants(VARIANTS, REDUCED)
def hybrid(
    graph: Builder,
    batch: int,
    sequence: int,
    past: int = 0,
    *,
    pattern: str,
    decode: bool,
    width: int = 4096,
    heads: int = 32,
    kv_heads: int = 8,
    head_size: int = 0,
    hidden: int = 16384,
    state: int = 128,
    groups: int = 8,
    state_head: int = 64,
    kernel: int = 4,
    chunk: int = 256,
    rotated: int = 0,
    norm: Literal["rms", "layer"] = "rms",
    form: Form = "chunked",
    vocabulary: int = 256000,
) -> None:
    """Token ids (batch, sequence), after `past` cached tokens, to logits (batch, sequence, vocabulary) and the states
    and caches of the layers."""
    head_size = head_size or width // heads
    dual = Dual(2 * width, state, 2 * width // state_head, groups, kernel, chunk)
    selective = Selective(2 * width, state, kernel, -(-width // 16))
    cache: Shapes = dict.fromkeys(("key", "value"), (batch, kv_heads, past, head_size))
    of_kind: Mapping[str, Shapes] = {
        "M": dual.state_shapes(batch),
        "m": selective.state_shapes(batch),
        "*": cache,
        "-": {},
    }
    pasts: list[States | None] = [*read_states(graph, [of_kind[kind] for kind in pattern])] if decode else []
    pasts = pasts or [None] * len(pattern)
    presents: list[States] = []
    rotation = rotary_table(graph, batch, sequence, past, head_size, 10_000.0, rotated) if rotated else None
    mask = causal_mask(graph, sequence, past + sequence) if past and sequence > 1 else None

    def normalise(value: Value, name: str) -> Value:
        return (rms_norm if norm == "rms" else layer_norm)(graph, value, name, EPSILON)

    def mix(value: Value, kind: str, before: States | None) -> tuple[Value, States]:
        if kind == "M":
            return mamba2_mixer(graph, value, dual, form, before)
        if kind == "m":
            return mamba_mixer(graph, value, selective, "recurrent" if form == "chunked" else form, before)
        if kind == "-":
            return feed_forward(graph, value, hidden, activation="squared_relu", bias=False), {}
        cached = Cache(before["key"], before["value"]) if before else None
        mixed, present = grouped_attention(graph, value, heads, kv_heads, rotation, mask, cached, head_size)
        return mixed, {"key": present.key, "value": present.value}

    def layer(value: Value, index: int) -> Value:
        mixed, present = mix(normalise(value, "norm"), pattern[index], pasts[index])
        presents.append(present)
        return graph.add(value, mixed, "residual")

    language_model(
        graph, batch, sequence, layer, normalise, layers=len(pattern), width=width, vocabulary=vocabulary, tied=False
    )
    write_states(graph, presents)
