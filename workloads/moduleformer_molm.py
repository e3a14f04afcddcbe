"""MoLM: experts in attention as in the feed-forward part, and attention weights that break a stick.

Shen et al., ModuleFormer, 2023 (arXiv:2306.04640). An attention expert is a query and an output projection; keys and
values are shared. A token's weight on an earlier one is sigmoid of the score times what all tokens between leave over,
so that no position embedding is needed. The sequence is read in blocks, each with the one before as history.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx

from codesign.errors import BadParameter
from workloads.blocks.activation import activate
from workloads.blocks.dense import layer_norm, linear
from workloads.blocks.generation import language_model
from workloads.blocks.residual import residual
from workloads.blocks.routing import (
    capacity_of,
    combine,
    entries_to_experts,
    expert_linear,
    from_experts,
    mixture_of_experts,
    route,
    tokens_to_experts,
)
from workloads.blocks.sparse import with_previous_block
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

GATE_WIDTH = 256

VARIANTS: Table = {
    "molm_350m_4b": {"layers": 24, "choices": 2},
    "molm_700m_4b": {"layers": 24, "choices": 4},
    "molm_700m_8b": {"layers": 48, "choices": 2},
}

REDUCED: Table = {
    "molm_350m_4b": {
        "sequence": 12, "width": 32, "layers": 2, "attention_experts": 4, "mlp_experts": 4, "attended": 16,
        "hidden": 32, "block": 4, "vocabulary": 100, "capacity_factor": 2.0,
    },
}  # fmt: skip


@variants(VARIANTS, REDUCED)
def molm(
    graph: Builder,
    batch: int,
    sequence: int,
    *,
    layers: int,
    choices: int,
    width: int = 1024,
    attention_experts: int = 16,
    mlp_experts: int = 32,
    attended: int = 1024,
    hidden: int = 2048,
    block: int = 512,
    capacity_factor: float = 1.0,
    vocabulary: int = 50295,
) -> None:
    """Token ids (batch, sequence) to logits (batch, sequence, vocabulary). The released kernels have no capacity; a
    `capacity_factor` of one is their work when the routers balance the load."""
    block = min(block, sequence)
    if sequence % block:
        raise BadParameter(f"workload '{graph.name}': sequence = {sequence}; expected a multiple of {block}")
    norm = partial(layer_norm, epsilon=1e-5)

    def attention(value: Value) -> Value:
        with graph.scope("attention"):
            return attention_of_experts(graph, value, attention_experts, choices, attended, block, capacity_factor)

    def feed(value: Value) -> Value:
        with graph.scope("mlp"):
            logits = gate_logits(graph, value, mlp_experts)
            return mixture_of_experts(graph, value, logits, hidden, choices, capacity_factor)

    def layer(value: Value, index: int) -> Value:
        return residual(graph, residual(graph, value, attention, 1, norm), feed, 2, norm)

    language_model(
        graph, batch, sequence, layer, partial(norm, graph), layers=layers, width=width, vocabulary=vocabulary,
        tied=False,
    )  # fmt: skip


def gate_logits(graph: Builder, value: Value, experts: int) -> Value:
    """Logits of the experts (batch x tokens, experts), by a perceptron."""
    inner = activate(graph, linear(graph, graph.flatten_rows(value, "rows"), GATE_WIDTH, "gate/up", False), "gelu")
    return linear(graph, inner, experts, "gate/down", bias=False)


def attention_of_experts(
    graph: Builder, value: Value, experts: int, choices: int, attended: int, block: int, capacity_factor: float
) -> Value:
    """Each token's chosen experts make a query each, over keys and values that all share, and project its result."""
    batch, tokens, width = value.shape
    blocks = tokens // block
    rows = graph.flatten_rows(value, "rows")
    capacity = capacity_of(batch * tokens, choices, experts, capacity_factor)
    routing = route(graph, gate_logits(graph, value, experts), choices, capacity)
    queries = expert_linear(graph, tokens_to_experts(graph, routing, rows), attended, "query")
    chosen = from_experts(graph, routing, queries, "queries")
    query = graph.reshape(chosen, (batch, blocks, block, choices, attended), "query_blocks")
    query = graph.transpose(query, (0, 3, 1, 2, 4), "query_heads")
    key, content = (
        with_previous_block(
            graph,
            graph.reshape(linear(graph, value, attended, role, bias=False), (batch, 1, blocks, block, attended)),
        )
        for role in ("key", "value")
    )
    scores = graph.matmul(query, graph.transpose(key, (0, 1, 2, 4, 3), "key_transposed"), "scores")
    scores = graph.multiply(scores, graph.scalar("scale", attended**-0.5), "scaled")
    weights = stick_breaking(graph, scores, blocks, block)
    context = graph.transpose(graph.matmul(weights, content, "context"), (0, 2, 3, 1, 4), "by_token")
    entries = graph.reshape(context, (batch * tokens, choices, attended), "entries")
    outputs = expert_linear(graph, entries_to_experts(graph, routing, entries, "return"), width, "output")
    mixed = combine(graph, routing, from_experts(graph, routing, outputs))
    return graph.unflatten_rows(mixed, value.shape[:-1], "tokens")


def stick_breaking(graph: Builder, scores: Value, blocks: int, block: int) -> Value:
    """sigmoid(score) of each key times the product of 1 - sigmoid(score) over the keys between it and the query, for
    scores (..., blocks, block, 2 block) of `with_previous_block`; a row's weights sum to at most one."""

    def visible() -> Value:
        extents = (block, 2 * block)
        one = onnx.numpy_helper.from_array(np.ones(1, dtype=np.float32))
        [ones] = graph.node(
            "ConstantOfShape", [graph.integers("extents", extents)], [extents], data_type=one.data_type, value=one
        )
        [causal] = graph.node("Trilu", [ones, graph.integers("last_key", block)], [extents], "causal", upper=0)
        first = np.ones((blocks, 1, 2 * block), dtype=np.float32)
        first[0, 0, :block] = 0
        return graph.multiply(causal, graph.constant("exists", first), "visible")

    seen = graph.once(f"visible_{blocks}_{block}", visible)
    left = graph.multiply(activate(graph, scores, "softplus"), graph.unary("Neg", seen, "negative"), "log_left")
    between = graph.cumulative_sum(left, -1, "log_left_between", exclusive=1, reverse=1)
    taken = graph.multiply(graph.unary("Sigmoid", scores), seen, "taken")
    return graph.multiply(taken, graph.unary("Exp", between, "left"), "weights")
