"""Multi-head attention in the pieces that PyTorch's eager mode exports: products, a scale, a mask, a softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from onnx import numpy_helper

from workloads.blocks.dense import linear
from workloads.blocks.positions import Rotation, rotate
from workloads.builder import Builder, Value


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of earlier tokens, or of all tokens so far: (batch, heads, tokens, head size) each."""

    key: Value
    value: Value


def split_heads(graph: Builder, value: Value, heads: int, name: str) -> Value:
    """(batch, tokens, width) to (batch, heads, tokens, width / heads)."""
    batch, tokens, width = value.shape
    with graph.scope(name):
        apart = graph.reshape(value, (batch, tokens, heads, width // heads))
        return graph.transpose(apart, (0, 2, 1, 3))


def merge_heads(graph: Builder, value: Value, name: str = "merge") -> Value:
    """The reverse of `split_heads`."""
    batch, heads, tokens, size = value.shape
    with graph.scope(name):
        return graph.reshape(graph.transpose(value, (0, 2, 1, 3)), (batch, tokens, heads * size))


def scaled_dot_product(
    graph: Builder,
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None = None,
    name: str = "scores",
    scale: float | Value | None = None,
) -> Value:
    """softmax(scale q k^T + mask) v, for (..., tokens, head size) operands. `mask` may be any sum of masks and biases
    that broadcasts to the scores; `scale` is 1 / sqrt(head size) unless stated, or a learned tensor."""
    if not isinstance(scale, Value):
        scale = graph.scalar("scale", 1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    axes = [*range(key.rank - 2), key.rank - 1, key.rank - 2]
    scores = graph.matmul(query, graph.transpose(key, axes, "key_transposed"), name)
    scores = graph.multiply(scores, scale, "scaled")
    if mask is not None:
        scores = graph.add(scores, mask, "masked")
    return graph.matmul(graph.unary("Softmax", scores, axis=-1), value, "context")


def project_heads(graph: Builder, value: Value, width: int, heads: int, *roles: str, bias: bool = True) -> list[Value]:
    """`value` projected to `width` features for each of the roles ("query", "key", "value") by one linear layer, and
    split into heads."""
    name = roles[0] if len(roles) == 1 else "_".join(roles)
    projected = linear(graph, value, len(roles) * width, name, bias)
    parts = graph.split(projected, len(roles)) if len(roles) > 1 else [projected]
    return [split_heads(graph, part, heads, role) for part, role in zip(parts, roles, strict=True)]


def self_attention(
    graph: Builder,
    value: Value,
    heads: int,
    name: str = "attention",
    mask: Value | None = None,
    past: Cache | None = None,
    separate: bool = False,
    bias: bool = True,
    output_bias: bool = True,
    scale: float | Value | None = None,
) -> tuple[Value, Cache]:
    """Attention with one projection to query, key and value, or `separate` ones; `bias` is theirs. The keys and values
    of `past` come before the new ones.

    Returns the result, shaped as `value`, and the keys and values attended to.
    """
    width, roles = value.shape[-1], ("query", "key", "value")
    with graph.scope(name):
        if separate:
            query, key, content = (project_heads(graph, value, width, heads, role, bias=bias)[0] for role in roles)
        else:
            query, key, content = project_heads(graph, value, width, heads, *roles, bias=bias)
        if past is not None:
            key = graph.concat([past.key, key], 2, "keys")
            content = graph.concat([past.value, content], 2, "values")
        context = merge_heads(graph, scaled_dot_product(graph, query, key, content, mask, scale=scale))
        return linear(graph, context, width, "output", output_bias), Cache(key, content)


def encoder_attention(
    graph: Builder,
    value: Value,
    heads: int,
    mask: Value | None = None,
    bias: bool = True,
    output_bias: bool = True,
    scale: float | Value | None = None,
) -> Value:
    """`self_attention` of an encoder, which keeps no keys and values."""
    return self_attention(graph, value, heads, mask=mask, bias=bias, output_bias=output_bias, scale=scale)[0]


def grouped_attention(
    graph: Builder,
    value: Value,
    heads: int,
    kv_heads: int,
    rotation: Rotation | None = None,
    mask: Value | None = None,
    past: Cache | None = None,
    head_size: int | None = None,
    bias: bool = False,
    name: str = "attention",
) -> tuple[Value, Cache]:
    """Causal attention in which heads / kv_heads query heads share a key and value head (Ainslie et al. 2023,
    arXiv:2305.13245). Returns the result, shaped as `value`, and the keys and values attended to."""
    size = head_size or value.shape[-1] // heads
    with graph.scope(name):
        query, key, content = (
            split_heads(graph, linear(graph, value, count * size, role, bias), count, role)
            for role, count in (("query", heads), ("key", kv_heads), ("value", kv_heads))
        )
        if rotation is not None:
            query, key = rotate(graph, query, rotation, "query"), rotate(graph, key, rotation, "key")
        context, present = attend(graph, query, key, content, mask, past)
        return linear(graph, merge_heads(graph, context), value.shape[-1], "output", bias), present


def attend(
    graph: Builder, query: Value, key: Value, content: Value, mask: Value | None = None, past: Cache | None = None
) -> tuple[Value, Cache]:
    """Causal attention as one Attention node, or as `mask` has it. The node's own causal mask is for sequences without
    a past; a single token needs none."""
    if past is None:
        inputs: list[Value | None] = [query, key, content] if mask is None else [query, key, content, mask]
        shape = (*query.shape[:3], content.shape[-1])
        [context] = graph.node("Attention", inputs, [shape], is_causal=int(mask is None))
        return context, Cache(key, content)
    batch, heads, tokens, size = key.shape
    total = (batch, heads, past.key.shape[2] + tokens, size)
    inputs = [query, key, content, mask, past.key, past.value]
    context, *present = graph.node("Attention", inputs, [query.shape, total, total])
    return context, Cache(*present)


def cross_attention(
    graph: Builder, value: Value, memory: Value | Cache, heads: int, bias: bool = True, name: str = "cross_attention"
) -> tuple[Value, Cache]:
    """Attention of `value` (batch, tokens, width) to an encoder's `memory` (batch, tokens, width), or to the keys and
    values that an earlier step made of it. Returns the result, and those keys and values."""
    width = value.shape[-1]
    with graph.scope(name):
        [query] = project_heads(graph, value, width, heads, "query", bias=bias)
        if not isinstance(memory, Cache):
            key, content = (project_heads(graph, memory, width, heads, role, bias=bias)[0] for role in ("key", "value"))
            memory = Cache(key, content)
        [context] = graph.node("Attention", [query, memory.key, memory.value], [query.shape])
        return linear(graph, merge_heads(graph, context), width, "output", bias), memory


def causal_mask(graph: Builder, queries: int, keys: int, window: int | None = None, name: str = "causal_mask") -> Value:
    """Added to scores (queries, keys): zero for keys up to each query's own, or the last `window` of them, the lowest
    float for others.

    The last query stands at the last key. Made in the graph: a table would be the square of the sequence.
    """
    with graph.scope(name):
        shape = graph.integers("shape", (queries, keys))
        fill = numpy_helper.from_array(np.array([np.finfo(np.float32).min], dtype=np.float32))
        [full] = graph.node("ConstantOfShape", [shape], [(queries, keys)], data_type=fill.data_type, value=fill)
        first_hidden = graph.integers("first_hidden", keys - queries + 1)
        [mask] = graph.node("Trilu", [full, first_hidden], [(queries, keys)], upper=1)
        if window is None or window >= keys:
            return mask
        last_hidden = graph.integers("last_hidden", keys - queries - window)
        [older] = graph.node("Trilu", [full, last_hidden], [(queries, keys)], upper=0)
        return graph.add(mask, older, "band")
