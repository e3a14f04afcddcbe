"""What decoder language models share: token inputs, the key-value cache as inputs and outputs, the last token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from onnx import TensorProto

from workloads.blocks.attention import Cache
from workloads.blocks.dense import linear, tied_logits
from workloads.builder import Builder, Value

States = Mapping[str, Value]
"""What a layer carries from token to token, by role."""


def token_ids(graph: Builder, batch: int, sequence: int, name: str = "input_ids") -> Value:
    return graph.input(name, (batch, sequence), TensorProto.INT64)


def language_model(
    graph: Builder,
    batch: int,
    sequence: int,
    layer: Callable[[Value, int], Value],
    norm: Callable[[Value, str], Value],
    *,
    layers: int,
    width: int,
    vocabulary: int,
    tied: bool = True,
) -> None:
    """Adds token ids (batch, sequence), their embedding, `layer(value, index)` for each of the layers, a last `norm`,
    and the logits of every token (batch, sequence, vocabulary), from the embedding's table when `tied`."""
    tokens = token_ids(graph, batch, sequence)
    table = graph.weight("embedding/weight", vocabulary, width)
    value = graph.lookup(table, tokens, "embedding/lookup")
    for index in range(layers):
        with graph.scope(f"layer{index}"):
            value = layer(value, index)
    value = norm(value, "norm")
    logits = tied_logits(graph, value, table) if tied else linear(graph, value, vocabulary, "head", bias=False)
    graph.output(logits, "logits")


def read_cache(
    graph: Builder, batch: int, heads: int, past: int, head_size: int, layers: int, prefix: str = ""
) -> list[Cache | None]:
    """Inputs `<prefix>past_key_values.<layer>.key|value` for each layer; None for each when there are no `past`
    tokens."""
    if not past:
        return [None] * layers
    shape = (batch, heads, past, head_size)
    return [
        Cache(*(graph.input(f"{prefix}past_key_values.{layer}.{role}", shape) for role in ("key", "value")))
        for layer in range(layers)
    ]


def write_cache(graph: Builder, presents: Sequence[Cache], prefix: str = "") -> None:
    """Outputs `<prefix>present.<layer>.key|value` for each layer: the next step's past."""
    for layer, present in enumerate(presents):
        graph.output(present.key, f"{prefix}present.{layer}.key")
        graph.output(present.value, f"{prefix}present.{layer}.value")


def read_states(graph: Builder, shapes: Sequence[Mapping[str, tuple[int, ...]]]) -> list[States]:
    """Inputs `past_state.<layer>.<role>`: what each layer carries from token to token, by role."""
    return [
        {role: graph.input(f"past_state.{layer}.{role}", shape) for role, shape in roles.items()}
        for layer, roles in enumerate(shapes)
    ]


def write_states(graph: Builder, states: Sequence[States]) -> None:
    """Outputs `present_state.<layer>.<role>`: the next step's past."""
    for layer, roles in enumerate(states):
        for role, value in roles.items():
            graph.output(value, f"present_state.{layer}.{role}")


def last_token(graph: Builder, value: Value, name: str = "last_token") -> Value:
    """(batch, tokens, width) to (batch, 1, width): generation needs the logits of the last token alone."""
    batch, tokens, width = value.shape
    if tokens == 1:
        return value
    with graph.scope(name):
        bounds = [
            graph.integers(part, [index]) for part, index in (("start", tokens - 1), ("end", tokens), ("axes", 1))
        ]
        [result] = graph.node("Slice", [value, *bounds], [(batch, 1, width)])
        return result
