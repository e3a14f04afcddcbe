"""Mixture-of-head attention: some heads always on, the others chosen for each token.

Jin et al., 2024 (arXiv:2410.11842), here in DiT (Peebles & Xie, ICCV 2023, arXiv:2212.09748) and in Llama 3. As
released, heads that are off are computed and multiplied by zero; with `skip` their queries are gathered, head by head,
in as many slots as a balanced router fills, and scores and contexts are computed for these alone. Keys and values serve
all heads.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from onnx import TensorProto

from workloads.blocks.activation import activate
from workloads.blocks.attention import attend, merge_heads, project_heads, scaled_dot_product, split_heads
from workloads.blocks.dense import gated_mlp, linear, mlp, rms_norm
from workloads.blocks.embedding import patch_embedding
from workloads.blocks.generation import language_model
from workloads.blocks.heads import HeadMixture, gathered_heads, head_gates
from workloads.blocks.modulation import modulated, modulation
from workloads.blocks.positions import rotary_table, rotate
from workloads.blocks.residual import residual
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

DIFFUSION: Table = {"moh_dit_xl_2_90": {}}
LANGUAGE: Table = {"moh_llama3_8b": {}}


@variants(
    DIFFUSION,
    {"moh_dit_xl_2_90": {"latent": 8, "width": 32, "depth": 2, "heads": 8, "shared": 3, "active": 4, "classes": 10}},
)
def moh_dit(
    graph: Builder,
    batch: int,
    latent: int,
    *,
    width: int = 1152,
    depth: int = 28,
    heads: int = 16,
    shared: int = 6,
    active: int = 8,
    skip: bool = False,
    capacity_factor: float = 1.0,
    channels: int = 4,
    patch: int = 2,
    classes: int = 1000,
    frequencies: int = 256,
) -> None:
    """A noisy latent (batch, channels, latent, latent), its time step (batch, 1) and class (batch) to noise and its
    variance (batch, 2 channels, latent, latent). Of the heads `shared` are always on, and `active` of the others."""
    noisy = graph.input("latent", (batch, channels, latent, latent))
    value = patch_embedding(graph, noisy, width, patch, "patches")
    tokens, side = value.shape[1], latent // patch
    value = graph.add(value, graph.weight("positions", 1, tokens, width), "positioned")
    condition = _condition(graph, batch, width, classes, frequencies)
    mixture = HeadMixture(heads, shared, active, capacity_factor)
    for index in range(depth):
        with graph.scope(f"block{index}"):
            value = _adaptive_block(graph, value, condition, mixture, skip)
    with graph.scope("final"):
        shift, scale = modulation(graph, condition, width, 2)
        value = modulated(graph, value, shift, scale, "norm")
        patches = linear(graph, value, patch * patch * 2 * channels, "projection")
        grid = graph.reshape(patches, (batch, side, side, patch, patch, 2 * channels), "grid")
        image = graph.transpose(grid, (0, 5, 1, 3, 2, 4), "image")
        graph.output(graph.reshape(image, (batch, 2 * channels, latent, latent), "unpatched"), "noise")


def _condition(graph: Builder, batch: int, width: int, classes: int, frequencies: int) -> Value:
    """silu(embedding of the time step plus embedding of the class): (batch, 1, width)."""
    time = graph.input("time", (batch, 1))
    label = graph.input("label", (batch,), TensorProto.INT64)
    with graph.scope("condition"):
        half = frequencies // 2
        rates = graph.constant("rates", np.exp(-np.log(10_000) * np.arange(half) / half).astype(np.float32))
        angles = graph.multiply(time, rates, "angles")
        waves = graph.concat([graph.unary("Cos", angles), graph.unary("Sin", angles)], 1, "waves")
        inner = activate(graph, linear(graph, waves, width, "time/up"), "silu")
        total = graph.add(
            linear(graph, inner, width, "time/down"),
            graph.lookup(graph.weight("class/weight", classes + 1, width), label, "class/lookup"),
        )
        return graph.unsqueeze(activate(graph, total, "silu"), [1], "condition")


def _adaptive_block(graph: Builder, value: Value, condition: Value, mixture: HeadMixture, skip: bool) -> Value:
    """Attention and perceptron, each shifted, scaled and gated by the condition."""
    width = value.shape[-1]
    parts = modulation(graph, condition, width, 6)
    inner = modulated(graph, value, parts[0], parts[1], "norm1")
    mixed = routed_attention(graph, inner, mixture, skip)
    value = graph.add(value, graph.multiply(mixed, parts[2], "gated1"), "residual1")
    inner = modulated(graph, value, parts[3], parts[4], "norm2")
    fed = mlp(graph, inner, 4 * width, approximate="tanh")
    return graph.add(value, graph.multiply(fed, parts[5], "gated2"), "residual2")


def routed_attention(graph: Builder, value: Value, mixture: HeadMixture, skip: bool) -> Value:
    """Bidirectional attention of (batch, tokens, width) whose heads a router gates for each token."""
    width = value.shape[-1]
    with graph.scope("attention"):
        query, key, content = project_heads(graph, value, width, mixture.heads, "query", "key", "value")
        if skip:
            context = gathered_heads(graph, value, query, key, content, mixture)
        else:
            gates = head_gates(graph, value, mixture)
            context = graph.multiply(scaled_dot_product(graph, query, key, content), gates, "gated_heads")
        return linear(graph, merge_heads(graph, context), width, "output")


@variants(
    LANGUAGE,
    {
        "moh_llama3_8b": {
            "sequence": 8, "width": 64, "heads": 8, "kv_heads": 2, "shared": 4, "active": 2, "hidden": 96, "layers": 2,
            "vocabulary": 100,
        }
    },
)  # fmt: skip
def moh_llama(
    graph: Builder,
    batch: int,
    sequence: int,
    *,
    width: int = 4096,
    heads: int = 32,
    kv_heads: int = 8,
    shared: int = 16,
    active: int = 8,
    hidden: int = 14336,
    layers: int = 32,
    vocabulary: int = 128256,
) -> None:
    """Token ids (batch, sequence) to logits (batch, sequence, vocabulary). No parameters route: of the heads that are
    not shared, those with the longest queries are on."""
    size = width // heads
    rotation = rotary_table(graph, batch, sequence, 0, size, 500_000.0)
    norm = partial(rms_norm, epsilon=1e-5)

    def attention(value: Value) -> Value:
        with graph.scope("attention"):
            query, key, content = (
                split_heads(graph, linear(graph, value, count * size, role, bias=False), count, role)
                for role, count in (("query", heads), ("key", kv_heads), ("value", kv_heads))
            )
            gates = longest_queries(graph, query, shared, active)
            query, key = rotate(graph, query, rotation, "query"), rotate(graph, key, rotation, "key")
            context, _ = attend(graph, query, key, content)
            gated = graph.multiply(context, gates, "gated_heads")
            return linear(graph, merge_heads(graph, gated), width, "output", bias=False)

    def layer(value: Value, index: int) -> Value:
        value = residual(graph, value, attention, 1, norm)
        return residual(graph, value, partial(gated_mlp, graph, hidden=hidden), 2, norm)

    language_model(
        graph, batch, sequence, layer, partial(norm, graph), layers=layers, width=width, vocabulary=vocabulary,
        tied=False,
    )  # fmt: skip


def longest_queries(graph: Builder, query: Value, shared: int, active: int) -> Value:
    """One for the shared heads and for the `active` others with the longest queries, zero for the rest: (batch, heads,
    tokens, 1)."""
    heads = query.shape[1]
    with graph.scope("router"):
        square = graph.sum(graph.multiply(query, query), [3], "length")
        _, routed = graph.split_sizes(square, [shared, heads - shared], 1, "shared_routed")
        by_token = graph.transpose(routed, (0, 2, 1), "by_token")
        largest, _ = graph.top_k(by_token, active)
        least = graph.slice(largest, active - 1, active, 2, "least_active")
        on = graph.compare("GreaterOrEqual", by_token, least, "on")
        gates = graph.transpose(graph.cast(on, TensorProto.FLOAT, "gates"), (0, 2, 1), "by_head")
        ones = graph.expand(
            graph.constant("one", np.ones((1, 1, 1), np.float32)), (*square.shape[:1], shared, square.shape[2])
        )
        return graph.unsqueeze(graph.concat([ones, gates], 1, "all_heads"), [3], "head_gates")
