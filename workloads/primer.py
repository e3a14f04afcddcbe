"""Primer: squared ReLU, and a short convolution after each projection of attention. So et al., NeurIPS 2021
(arXiv:2109.08668).

PrimerEZ has these two in T5's decoder. The full Primer also makes keys from queries, and norms before and after each
part by the mean of x (x - mean), which equals the variance.
"""

from __future__ import annotations

from functools import partial

from workloads.blocks.attention import causal_mask, merge_heads, scaled_dot_product, split_heads
from workloads.blocks.dense import feed_forward, layer_norm, linear, rms_norm
from workloads.blocks.generation import States, language_model, read_states, write_states
from workloads.blocks.positions import relative_buckets
from workloads.blocks.temporal import short_convolution
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

EPSILON = 1e-6
KERNEL = 3
ROLES = ("query", "key", "value")

MODELS: Table = {
    "primer_medium": {"width": 768, "layers": 12, "heads": 12, "hidden": 3072},
    "primer_ez_medium": {"width": 768, "layers": 12, "heads": 12, "hidden": 3072, "easy": True},
    "primer_large": {"width": 1024, "layers": 24, "heads": 16, "hidden": 8192},
    "primer_small_lm1b": {"width": 512, "layers": 6, "heads": 8, "hidden": 2048},
    "primer_xl": {"width": 2048, "layers": 24, "heads": 16, "hidden": 8192},
}

VARIANTS: Table = {
    f"{name}{suffix}": {**model, "decode": bool(suffix)} for suffix in ("", "_decode") for name, model in MODELS.items()
}

SMALL = {"width": 32, "layers": 2, "heads": 4, "hidden": 64, "vocabulary": 100}
REDUCED: Table = {
    "primer_medium": {"sequence": 8, **SMALL},
    "primer_ez_medium": {"sequence": 8, **SMALL},
    "primer_medium_decode": {"past": 7, **SMALL},
}


@variants(VARIANTS, REDUCED)
def primer(
    graph: Builder,
    batch: int,
    sequence: int,
    past: int = 0,
    *,
    width: int,
    layers: int,
    heads: int,
    hidden: int,
    decode: bool,
    easy: bool = False,
    vocabulary: int = 32128,
) -> None:
    """Token ids (batch, sequence), after `past` cached tokens, to logits (batch, sequence, vocabulary), the caches and
    the convolutions' windows."""
    shapes: dict[str, tuple[int, ...]] = {f"{role}_window": (batch, width, KERNEL - 1) for role in ROLES}
    shapes |= dict.fromkeys(ROLES[1:], (batch, heads, past, width // heads))
    pasts: list[States | None] = [*read_states(graph, [shapes] * layers)] if decode else [None] * layers
    presents: list[States] = []
    norm = partial(rms_norm if easy else layer_norm, epsilon=EPSILON)
    bias = relative_buckets(graph, heads, sequence, past + sequence, causal=True)
    if sequence > 1:
        bias = graph.once("masked_bias", lambda: graph.add(bias, causal_mask(graph, sequence, past + sequence)))

    def branch(value: Value, mix: partial[Value], number: int) -> Value:
        inner = mix(norm(graph, value, f"norm{number}"))
        inner = inner if easy else norm(graph, inner, f"norm{number}_after")
        return graph.add(value, inner, f"residual{number}")

    def layer(value: Value, index: int) -> Value:
        states: dict[str, Value] = {}
        mix = partial(
            convolved_attention, graph, heads=heads, bias=bias, shared=not easy, past=pasts[index], present=states
        )
        value = branch(value, mix, 1)
        presents.append(states)
        return branch(value, partial(feed_forward, graph, hidden=hidden, activation="squared_relu", bias=False), 2)

    language_model(
        graph, batch, sequence, layer, partial(norm, graph), layers=layers, width=width, vocabulary=vocabulary
    )
    write_states(graph, presents)


def convolved_attention(
    graph: Builder,
    value: Value,
    heads: int,
    bias: Value,
    shared: bool,
    past: States | None,
    present: dict[str, Value],
) -> Value:
    """Attention whose queries, keys and values each go through a causal depthwise convolution of width 3; keys come
    from the queries when `shared`. What the next token needs is put in `present`."""
    width = value.shape[-1]
    with graph.scope("attention"):
        projected: dict[str, Value] = {}
        for role in ROLES:
            source = projected["query"] if shared and role == "key" else value
            projected[role] = linear(graph, source, width, role, bias=False)
        parts = {}
        for role, part in projected.items():
            window = past[f"{role}_window"] if past else None
            mixed, present[f"{role}_window"] = short_convolution(
                graph, part, KERNEL, f"{role}_convolution", window, bias=False
            )
            parts[role] = split_heads(graph, mixed, heads, role)
        for role in ROLES[1:]:
            if past:
                parts[role] = graph.concat([past[role], parts[role]], 2, f"{role}s")
            present[role] = parts[role]
        context = scaled_dot_product(graph, parts["query"], parts["key"], parts["value"], bias)
        return linear(graph, merge_heads(graph, context), width, "output", bias=False)
