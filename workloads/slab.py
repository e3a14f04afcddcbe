"""SLAB: normalisation that folds into the next layer at inference, and attention without a softmax, on known hosts.

Guo et al., ICML 2024 (arXiv:2405.11582). The hosts are vision transformers with a class token; a language model takes
the normalisation alone. `host_reference` is the host as it was.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np

from workloads.blocks.attention import encoder_attention, grouped_attention, merge_heads, project_heads
from workloads.blocks.convolution import depthwise
from workloads.blocks.dense import classifier, gated_mlp, layer_norm, linear, mlp
from workloads.blocks.embedding import class_token_of, grid_of, image_input, tokens_of
from workloads.blocks.generation import language_model
from workloads.blocks.positions import rotary_table
from workloads.blocks.residual import encoder_blocks, residual
from workloads.builder import Builder, Value
from workloads.registry import Table, variants
from workloads.vit import VARIANTS as VISION_HOSTS
from workloads.vit import embed

Host = Literal["deit_tiny", "deit_small", "deit_base"]

KEPT = 1.0
"""What of its input the normalisation adds to itself, a learned number at its first value."""

LOCAL = 5
"""Rows and columns of the convolution beside linear attention."""

VARIANTS: Table = {
    "host_reference": {"norm": "layer", "attention": "softmax"},
    "prepbn_hosts": {"attention": "softmax"},
    "slab_hosts": {},
}

REDUCED: Table = {name: {"image": 64, "width": 48, "heads": 3, "layers": 2, "classes": 10} for name in VARIANTS}

LANGUAGE: Table = {"slab_llama_350m": {}}

LANGUAGE_REDUCED: Table = {
    "slab_llama_350m": {"sequence": 6, "width": 32, "heads": 2, "hidden": 48, "layers": 2, "vocabulary": 50}
}


@variants(VARIANTS, REDUCED)
def slab(
    graph: Builder,
    batch: int,
    image: int,
    *,
    host: Host = "deit_tiny",
    norm: Literal["foldable", "layer"] = "foldable",
    attention: Literal["linear", "softmax"] = "linear",
    width: int | None = None,
    heads: int | None = None,
    layers: int = 12,
    patch: int = 16,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes). `width` and `heads` are the host's unless stated."""
    width, heads = width or VISION_HOSTS[host]["width"], heads or VISION_HOSTS[host]["heads"]
    normed = foldable_norm if norm == "foldable" else partial(layer_norm, epsilon=1e-6)
    value = embed(graph, image_input(graph, batch, image, patch), width, patch, ["class"])
    if attention == "linear":
        mix = partial(simplified_linear_attention, graph, heads=heads, side=image // patch)
    else:
        mix = partial(encoder_attention, graph, heads=heads)
    value = encoder_blocks(graph, value, layers, mix, partial(mlp, graph, hidden=4 * width), normed, "layer")
    token = class_token_of(graph, value)
    graph.output(classifier(graph, normed(graph, token, "norm"), classes), "logits")


def foldable_norm(graph: Builder, value: Value, name: str) -> Value:
    """Batch normalisation of each feature plus a part of the value itself: at inference a scale and a shift."""
    with graph.scope(name):
        rows = graph.flatten_rows(value) if value.rank > 2 else value
        parameters = [graph.weight(part, rows.shape[-1]) for part in ("weight", "bias", "mean", "variance")]
        [normal] = graph.node("BatchNormalization", [rows, *parameters], [rows.shape], epsilon=1e-5)
        kept = graph.multiply(rows, graph.frozen("kept", np.array([KEPT], np.float32)), "kept_rows")
        result = graph.add(normal, kept, "rows")
        return graph.unflatten_rows(result, value.shape[:-1]) if value.rank > 2 else result


def simplified_linear_attention(graph: Builder, value: Value, heads: int, side: int) -> Value:
    """Attention with relu(q) and relu(k + position) instead of a softmax, in the order of products that costs less, and
    a depthwise convolution of the values of all tokens but the first."""
    _, count, width = value.shape
    size = width // heads
    with graph.scope("attention"):
        query, key, content = project_heads(graph, value, width, heads, "query", "key", "value")
        places = graph.weight("positions", 1, heads, count, size)
        query, key = graph.unary("Relu", query), graph.unary("Relu", graph.add(key, places, "key_placed"))
        flipped = graph.transpose(key, (0, 1, 3, 2), "key_transposed")
        weight = graph.matmul(query, graph.sum(flipped, (3,), "key_sum", keepdims=True), "weight")
        if count > size:
            mixed = graph.matmul(query, graph.matmul(flipped, content, "key_value"), "mixed")
        else:
            mixed = graph.matmul(graph.matmul(query, flipped, "scores"), content, "mixed")
        mixed = graph.binary("Div", mixed, graph.add(weight, graph.scalar("small", 1e-6), "safe"), "context")
        local = _convolved(graph, merge_heads(graph, content, "values"), side)
        return linear(graph, graph.add(merge_heads(graph, mixed), local, "with_local"), width, "output")


def _convolved(graph: Builder, tokens: Value, side: int) -> Value:
    """A depthwise convolution over the grid of patches; nothing for the class token."""
    patches = graph.slice(tokens, 1, tokens.shape[1], 1, "patches")
    local = tokens_of(graph, depthwise(graph, grid_of(graph, patches, side, side), LOCAL, "local"))
    return graph.pad(local, {1: (1, 0)}, "local_tokens")


@variants(LANGUAGE, LANGUAGE_REDUCED)
def slab_language_model(
    graph: Builder,
    batch: int,
    sequence: int,
    *,
    width: int = 1024,
    heads: int = 16,
    hidden: int = 2736,
    layers: int = 24,
    vocabulary: int = 32000,
) -> None:
    """Token ids (batch, sequence) to logits (batch, sequence, vocabulary): Llama's layers, their norms foldable."""
    rotation = rotary_table(graph, batch, sequence, 0, width // heads, 10_000.0)

    def layer(value: Value, _: int) -> Value:
        def attend(normed: Value) -> Value:
            return grouped_attention(graph, normed, heads, heads, rotation)[0]

        value = residual(graph, value, attend, 1, foldable_norm)
        return residual(graph, value, partial(gated_mlp, graph, hidden=hidden), 2, foldable_norm)

    language_model(
        graph, batch, sequence, layer, partial(foldable_norm, graph), layers=layers, width=width,
        vocabulary=vocabulary, tied=False,
    )  # fmt: skip
