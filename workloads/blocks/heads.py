"""Heads of attention as experts: some shared by all tokens, the others chosen token by token (Jin et al. 2024,
arXiv:2410.11842)."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.blocks.attention import scaled_dot_product
from workloads.blocks.dense import linear
from workloads.blocks.routing import Routing, capacity_of, entries_to_experts, from_experts, route
from workloads.builder import Builder, Value


@dataclass(frozen=True, slots=True)
class HeadMixture:
    """How many heads there are, how many of them are always on, how many of the others are on for a token, and how many
    times a balanced router's tokens a head has slots for, where heads that are off are skipped."""

    heads: int
    shared: int
    active: int
    capacity_factor: float = 1.0

    @property
    def routed(self) -> int:
        return self.heads - self.shared

    @property
    def share(self) -> float:
        """The share of heads that is on for a token."""
        return (self.shared + self.active) / self.heads


def head_gates(graph: Builder, value: Value, mixture: HeadMixture) -> Value:
    """A gate for each head (batch, heads, tokens, 1), zero for those that are off: a softmax over shared heads times
    their number, a softmax over the chosen others times theirs, and a softmax times two between the kinds."""
    batch, tokens, _ = value.shape
    with graph.scope("router"):
        shared = _shared_gates(graph, value, mixture)
        if not mixture.routed:
            return graph.unsqueeze(graph.transpose(shared, (0, 2, 1)), [3], "gates")
        routing = _route(graph, value, mixture, capacity=tokens)
        spread = _to_heads(graph, graph.unsqueeze(routing.gates, [2]), routing.chosen, mixture.routed)
        routed = graph.reshape(spread, (batch, tokens, mixture.routed), "routed_gates")
        gates = _balanced(graph, value, shared, routed, mixture)
        return graph.unsqueeze(graph.transpose(gates, (0, 2, 1), "by_head"), [3], "gates")


def gathered_heads(
    graph: Builder, value: Value, query: Value, key: Value, content: Value, mixture: HeadMixture
) -> Value:
    """Gated contexts (batch, heads, tokens, size) whose routed heads compute the tokens that chose them alone, in as
    many slots as a balanced router fills; what finds no slot adds nothing."""
    batch, _, tokens, size = query.shape
    shared, routed = mixture.shared, mixture.routed
    parts = [graph.split_sizes(part, [shared, routed], 1, "shared_routed") for part in (query, key, content)]
    always = scaled_dot_product(graph, parts[0][0], parts[1][0], parts[2][0])
    with graph.scope("router"):
        routing = _route(graph, value, mixture, capacity_of(tokens, mixture.active, routed, mixture.capacity_factor))
        gates = _shared_gates(graph, value, mixture)
    by_token = graph.transpose(parts[0][1], (0, 2, 1, 3), "queries_by_token")
    by_token = graph.reshape(by_token, (batch * tokens, routed, size), "queries")
    index = graph.expand(graph.unsqueeze(routing.chosen, [2]), (batch * tokens, mixture.active, size), "chosen_heads")
    [entries] = graph.node("GatherElements", [by_token, index], [index.shape], "chosen_queries", axis=1)
    slots = graph.reshape(entries_to_experts(graph, routing, entries), (batch, routed, routing.capacity, size), "slots")
    context = scaled_dot_product(graph, slots, parts[1][1], parts[2][1], name="routed_scores")
    found = from_experts(graph, routing, graph.reshape(context, (batch * routed, routing.capacity, size), "by_head"))
    weighted = graph.multiply(found, graph.unsqueeze(routing.gates, [2]), "weighted")
    spread = graph.reshape(_to_heads(graph, weighted, routing.chosen, routed), (batch, tokens, routed, size), "spread")
    shared_context = graph.multiply(
        graph.transpose(always, (0, 2, 1, 3)), graph.unsqueeze(gates, [3], "shared_gates"), "shared_context"
    )
    with graph.scope("router"):
        both = _kinds(graph, value, mixture)
    total = [
        graph.multiply(part, graph.unsqueeze(kind, [3], "kind"), "balanced")
        for part, kind in zip((shared_context, spread), both, strict=True)
    ]
    return graph.transpose(graph.concat(total, 2, "all_heads"), (0, 2, 1, 3), "contexts")


def _shared_gates(graph: Builder, value: Value, mixture: HeadMixture) -> Value:
    logits = linear(graph, value, mixture.shared, "shared", bias=False)
    return graph.multiply(graph.unary("Softmax", logits, axis=-1), graph.scalar("shared_heads", mixture.shared))


def _route(graph: Builder, value: Value, mixture: HeadMixture, capacity: int) -> Routing:
    """Each token's routed heads, those of each sample apart."""
    logits = linear(graph, graph.flatten_rows(value, "rows"), mixture.routed, "routed", bias=False)
    routing = route(graph, logits, mixture.active, capacity, groups=value.shape[0])
    gates = graph.multiply(routing.gates, graph.scalar("active_heads", mixture.active), "routed_gates")
    return Routing(gates, routing.chosen, routing.slots, routing.entries, routing.experts, routing.capacity)


def _kinds(graph: Builder, value: Value, mixture: HeadMixture) -> list[Value]:
    """The weights of the shared and of the routed heads (batch, tokens, 1) each."""
    logits = linear(graph, value, 2, "kinds", bias=False)
    weights = graph.multiply(graph.unary("Softmax", logits, axis=-1), graph.scalar("two", 2.0), "kind_weights")
    return graph.split(weights, 2, name="kind_weight")


def _balanced(graph: Builder, value: Value, shared: Value, routed: Value, mixture: HeadMixture) -> Value:
    kinds = _kinds(graph, value, mixture)
    parts = [graph.multiply(part, kind) for part, kind in zip((shared, routed), kinds, strict=True)]
    return graph.concat(parts, 2, "all_gates")


def _to_heads(graph: Builder, entries: Value, chosen: Value, routed: int) -> Value:
    """Entries (tokens, choices, size) at their heads (tokens, routed, size), zeros elsewhere."""
    tokens, choices, size = entries.shape
    shape = (tokens, routed, size)
    empty = graph.zeros("no_heads", shape)
    index = graph.unsqueeze(chosen, [2], "places")
    index = graph.expand(index, (tokens, choices, size), "all_places") if size > 1 else index
    [placed] = graph.node("ScatterElements", [empty, index, entries], [shape], "to_heads", axis=1)
    return placed
