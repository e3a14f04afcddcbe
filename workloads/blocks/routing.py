"""Tokens to experts and back, with static shapes: every expert has a fixed number of slots.

An entry is one choice of one token. Entries take their expert's slots in order, first choices before second ones; an
entry whose expert is full is dropped and adds nothing (Lepikhin et al. 2021, arXiv:2006.16668). With as many slots as
there are tokens none is. How many slots are filled, the executor's statistics tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from workloads.blocks.activation import Activation, activate
from workloads.builder import Builder, Value


@dataclass(frozen=True, slots=True)
class Routing:
    """Where entries go: `gates`, the `chosen` expert and `slots` (tokens, choices) of each, and of each slot (experts x
    capacity) its `entries`, the number of entries for an empty one."""

    gates: Value
    chosen: Value
    slots: Value
    entries: Value
    experts: int
    capacity: int

    @property
    def choices(self) -> int:
        return self.gates.shape[1]


def capacity_of(tokens: int, choices: int, experts: int, factor: float) -> int:
    """Slots of an expert: `factor` times its share of the entries, and at most one for each token."""
    return min(tokens, max(1, math.ceil(factor * tokens * choices / experts)))


def route(
    graph: Builder,
    logits: Value,
    choices: int,
    capacity: int,
    renormalise: bool = True,
    groups: int = 1,
    name: str = "route",
) -> Routing:
    """The `choices` experts of each token with the largest logits (tokens, experts), their gates the softmax over the
    chosen, or (without `renormalise`) over all experts. Tokens in `groups` have experts for each group, one group's
    after another's."""
    tokens, experts = logits.shape
    with graph.scope(name):
        if renormalise:
            largest, chosen = graph.top_k(logits, choices)
            gates = graph.unary("Softmax", largest, "gates", axis=-1)
        else:
            gates, chosen = graph.top_k(graph.unary("Softmax", logits, axis=-1), choices)
        expert = chosen
        if groups > 1:
            first = np.repeat(np.arange(groups) * experts, tokens // groups)[:, None]
            expert = graph.add(chosen, graph.integers("group_experts", first), "expert")
        in_order = graph.reshape(graph.transpose(expert, (1, 0)), (choices * tokens,), "entries")
        return _placed(graph, gates, chosen, in_order, groups * experts, capacity)


def _placed(graph: Builder, gates: Value, chosen: Value, in_order: Value, experts: int, capacity: int) -> Routing:
    """Slots for the experts of entries in order of priority: all first choices, then all second ones."""
    tokens, choices = gates.shape
    count, slots = tokens * choices, experts * capacity
    numbers = graph.integers("experts", range(experts))
    mine = graph.compare("Equal", graph.unsqueeze(in_order, [1]), numbers, "mine")
    mine = graph.cast(mine, TensorProto.INT32, "mine_counted")
    ahead = graph.cumulative_sum(mine, 0, "ahead", exclusive=1)
    place = graph.cast(graph.sum(graph.multiply(mine, ahead), [1], "place"), TensorProto.INT64, "place_in_expert")
    slot = graph.add(graph.multiply(in_order, graph.integers("capacity", capacity), "first_slot"), place, "wanted_slot")
    free = graph.compare("Less", place, graph.integers("capacity", capacity), "free")
    slot = graph.where(free, slot, graph.integers("none", slots), "slot")
    [empty] = graph.node(
        "Expand", [graph.integers("no_entry", [count]), graph.integers("slots.shape", [slots + 1])], [(slots + 1,)]
    )
    entry_numbers = graph.once(
        f"entries_{tokens}_{choices}", lambda: graph.integers("by_token", _by_token(tokens, choices))
    )
    [entries] = graph.node("ScatterElements", [empty, slot, entry_numbers], [(slots + 1,)], "entries", axis=0)
    by_token = graph.transpose(graph.reshape(slot, (choices, tokens), "slots_by_choice"), (1, 0), "slots")
    return Routing(gates, chosen, by_token, graph.slice(entries, 0, slots, 0, "filled"), experts, capacity)


def _by_token(tokens: int, choices: int) -> list[int]:
    """Numbers of the entries, counted token by token, in order of priority."""
    return [token * choices + choice for choice in range(choices) for token in range(tokens)]


def tokens_to_experts(graph: Builder, routing: Routing, rows: Value, name: str = "dispatch") -> Value:
    """Rows of tokens (tokens, width) in the slots of their experts (experts, capacity, width), zeros in empty ones."""
    choices = graph.integers(f"{name}.choices", routing.choices)
    tokens = graph.binary("Div", routing.entries, choices, f"{name}/tokens")
    return _gathered(graph, routing, rows, tokens, name)


def entries_to_experts(graph: Builder, routing: Routing, rows: Value, name: str = "dispatch") -> Value:
    """The same of rows of entries (tokens, choices, width)."""
    flat = graph.reshape(rows, (rows.shape[0] * rows.shape[1], rows.shape[2]), f"{name}/entries")
    return _gathered(graph, routing, flat, routing.entries, name)


def _gathered(graph: Builder, routing: Routing, rows: Value, which: Value, name: str) -> Value:
    padded = graph.pad(rows, {0: (0, 1)}, f"{name}/padded")
    gathered = graph.lookup(padded, which, f"{name}/slots")
    return graph.reshape(gathered, (routing.experts, routing.capacity, rows.shape[1]), name)


def from_experts(graph: Builder, routing: Routing, outputs: Value, name: str = "collect") -> Value:
    """What the experts (experts, capacity, width) made of each entry (tokens, choices, width); zeros if dropped."""
    flat = graph.reshape(outputs, (routing.experts * routing.capacity, outputs.shape[2]), f"{name}/slots")
    return graph.lookup(graph.pad(flat, {0: (0, 1)}, f"{name}/padded"), routing.slots, name)


def combine(graph: Builder, routing: Routing, entries: Value, name: str = "combine") -> Value:
    """Entries (tokens, choices, width) times their gates, summed over each token's choices (tokens, width)."""
    weighted = graph.multiply(entries, graph.unsqueeze(routing.gates, [2]), f"{name}/weighted")
    return graph.sum(weighted, [1], name)


def expert_linear(graph: Builder, value: Value, features: int, name: str, bias: bool = False) -> Value:
    """A linear layer of each expert on its own slots: (experts, capacity, n) to (experts, capacity, features)."""
    experts, _, width = value.shape
    with graph.scope(name):
        stacked = graph.weight("weight", experts * width, features)
        result = graph.matmul(value, graph.reshape(stacked, (experts, width, features), "weights"))
        return graph.add(result, graph.weight("bias", experts, 1, features)) if bias else result


def expert_feed_forward(
    graph: Builder,
    value: Value,
    hidden: int,
    activation: Activation = "gelu",
    bias: bool = False,
    name: str = "experts",
) -> Value:
    """Feed-forward layers of each expert on its own slots, (experts, capacity, width) to the same shape."""
    with graph.scope(name):
        inner = activate(graph, expert_linear(graph, value, hidden, "up", bias), activation)
        return expert_linear(graph, inner, value.shape[-1], "down", bias)


def mixture_of_experts(
    graph: Builder,
    value: Value,
    logits: Value,
    hidden: int,
    choices: int,
    capacity_factor: float,
    activation: Activation = "gelu",
    bias: bool = False,
    renormalise: bool = True,
) -> Value:
    """Tokens (batch, tokens, width) through the feed-forward layers of the experts that their logits (batch x tokens,
    experts) choose, weighted by the gates and summed."""
    rows = graph.flatten_rows(value, "rows")
    capacity = capacity_of(rows.shape[0], choices, logits.shape[1], capacity_factor)
    routing = route(graph, logits, choices, capacity, renormalise)
    outputs = expert_feed_forward(graph, tokens_to_experts(graph, routing, rows), hidden, activation, bias)
    mixed = combine(graph, routing, from_experts(graph, routing, outputs))
    return graph.unflatten_rows(mixed, value.shape[:-1], "tokens")
