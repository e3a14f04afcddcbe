"""Aaren: softmax attention by a learned query, whose every prefix is an output. Feng et al., 2024 (arXiv:2405.13956).

Scores of a query that does not come from the input can be summed one token after another: the largest score m, the
denominator u and the numerator w combine associatively. The parallel form is a prefix scan of logarithmic depth, the
recurrent form a Scan, a decode step one combination with the state. Beside it, the Transformer layer it replaces.
"""

from __future__ import annotations

import math

import numpy as np

from workloads.blocks.attention import causal_mask, merge_heads, project_heads, scaled_dot_product, split_heads
from workloads.blocks.dense import feed_forward, layer_norm, linear
from workloads.blocks.generation import States, read_states, write_states
from workloads.blocks.prefix import prefix_scan, sequential_scan
from workloads.blocks.recurrence import Form
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

EPSILON = 1e-5
STATE = ("maximum", "denominator", "numerator")

VARIANTS: Table = {
    "transformer_ref": {"learned_query": False},
    "aaren": {},
    "aaren_stream": {"stream": True},
}

SMALL = {"width": 32, "heads": 4, "hidden": 64, "layers": 2}
REDUCED = {
    "transformer_ref": {"sequence": 12, **SMALL},
    "aaren": {"sequence": 12, **SMALL},
    "aaren_stream": SMALL,
}


@variants(VARIANTS, REDUCED)
def aaren(
    graph: Builder,
    batch: int,
    sequence: int,
    *,
    learned_query: bool = True,
    stream: bool = False,
    form: Form = "parallel",
    width: int = 512,
    heads: int = 8,
    hidden: int = 2048,
    layers: int = 1,
) -> None:
    """Tokens (batch, sequence, width) to tokens of the same shape, each of what came before and itself; the learned
    query's states too."""
    value = graph.input("tokens", (batch, sequence, width))
    shapes = {role: (batch, heads, size) for role, size in zip(STATE, (1, 1, width // heads), strict=True)}
    pasts = read_states(graph, [shapes] * layers) if stream else [None] * layers
    mask = None if learned_query else causal_mask(graph, sequence, sequence)
    presents: list[States] = []
    for layer, past in enumerate(pasts):
        with graph.scope(f"layer{layer}"), graph.scope("attention"):
            if learned_query:
                attended, present = prefix_attention(graph, value, heads, form, past)
                presents.append(present)
            else:
                query, key, content = project_heads(graph, value, width, heads, "query", "key", "value")
                context = merge_heads(graph, scaled_dot_product(graph, query, key, content, mask))
                attended = linear(graph, context, width, "output")
        with graph.scope(f"layer{layer}"):
            value = layer_norm(graph, graph.add(value, attended, "residual1"), "norm1", EPSILON)
            mixed = feed_forward(graph, value, hidden, activation="relu")
            value = layer_norm(graph, graph.add(value, mixed, "residual2"), "norm2", EPSILON)
    graph.output(value, "encoded")
    write_states(graph, presents)


def prefix_attention(graph: Builder, value: Value, heads: int, form: Form, past: States | None) -> tuple[Value, States]:
    """softmax(q k^T) v of a learned q over each prefix of the tokens, after those that `past` sums up."""
    width = value.shape[-1]
    query = linear(graph, graph.weight("query", 1, 1, width), width, "query")
    query = split_heads(graph, query, heads, "query_heads")
    key, content = project_heads(graph, value, width, heads, "key", "value")
    scores = graph.sum(graph.multiply(key, query, "products"), [-1], "scores", keepdims=True)
    scores = graph.multiply(scores, graph.scalar("scale", 1 / math.sqrt(key.shape[-1])), "scaled")
    ones = graph.constant("one", np.ones((1, 1, 1, 1), np.float32))
    elements = [scores, graph.expand(ones, scores.shape, "ones"), content]
    if past is not None:
        start = [graph.unsqueeze(past[role], [2], role) for role in STATE]
        elements = [graph.concat([first, rest], 2, "after_past") for first, rest in zip(start, elements, strict=True)]

    def combine(earlier: list[Value], later: list[Value]) -> list[Value]:
        [largest] = graph.node("Max", [earlier[0], later[0]], [earlier[0].shape], "largest")
        parts = [graph.unary("Exp", graph.binary("Sub", part[0], largest), "weight") for part in (earlier, later)]
        sums = (
            graph.add(graph.multiply(parts[0], earlier[i]), graph.multiply(parts[1], later[i]), name)
            for i, name in ((1, "denominator"), (2, "numerator"))
        )
        return [largest, *sums]

    if form == "recurrent":
        first = [graph.take(element, 0, 2) for element in elements]
        rest = [graph.slice(element, 1, element.shape[2], 2) for element in elements]
        _, every = sequential_scan(graph, rest, combine, first, axis=2)
        prefixes = [
            graph.concat([graph.unsqueeze(one, [2]), others], 2) for one, others in zip(first, every, strict=True)
        ]
    else:
        prefixes = prefix_scan(graph, elements, combine, axis=2)
    last = prefixes[0].shape[2] - 1
    present = {role: graph.take(prefix, last, 2, role) for role, prefix in zip(STATE, prefixes, strict=True)}
    outputs = graph.binary("Div", prefixes[2], prefixes[1], "prefix_means")
    if past is not None:
        outputs = graph.slice(outputs, 1, outputs.shape[2], 2, "new")
    return linear(graph, merge_heads(graph, outputs), width, "output"), present
