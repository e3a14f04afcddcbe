"""What decoder language models share: token inputs, the key-value cache as inputs and outputs, the last token."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto

from workloads.blocks.attention import Cache
from workloads.builder import Builder, Value


def token_ids(graph: Builder, batch: int, sequence: int, name: str = "input_ids") -> Value:
    return graph.input(name, (batch, sequence), TensorProto.INT64)


def read_cache(graph: Builder, batch: int, heads: int, past: int, head_size: int, layers: int) -> list[Cache | None]:
    """Inputs `past_key_values.<layer>.key|value` for each layer; None for each when there are no `past` tokens."""
    if not past:
        return [None] * layers
    shape = (batch, heads, past, head_size)
    return [
        Cache(*(graph.input(f"past_key_values.{layer}.{role}", shape) for role in ("key", "value")))
        for layer in range(layers)
    ]


def write_cache(graph: Builder, presents: Sequence[Cache]) -> None:
    """Outputs `present.<layer>.key|value` for each layer: the next step's past."""
    for layer, present in enumerate(presents):
        graph.output(present.key, f"present.{layer}.key")
        graph.output(present.value, f"present.{layer}.value")


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
