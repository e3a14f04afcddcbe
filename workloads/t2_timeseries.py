"""The time-series transformer of photometric classification: Allam & McEwen, 2021 (arXiv:2105.06178)."""

from __future__ import annotations

from functools import partial

from workloads.blocks.activation import activate
from workloads.blocks.attention import self_attention
from workloads.blocks.dense import classifier, feed_forward, layer_norm, linear
from workloads.blocks.positions import sinusoids
from workloads.builder import Builder
from workloads.registry import Table, variants

VARIANTS: Table = {"t2_plasticc": {}, "t2_plasticc_z": {"channels": 8}}
REDUCED: Table = {"t2_plasticc": {"steps": 12, "layers": 2}}


@variants(VARIANTS, REDUCED)
def t2(
    graph: Builder,
    batch: int,
    steps: int,
    *,
    channels: int = 6,
    width: int = 32,
    heads: int = 16,
    hidden: int = 128,
    layers: int = 1,
    classes: int = 14,
) -> None:
    """Light curves (batch, steps, channels), other features repeated as channels, to probabilities (batch, classes)."""
    curves = graph.input("light_curves", (batch, steps, channels))
    value = activate(graph, linear(graph, curves, width, "embedding"), "relu")  # a convolution of width one
    value = graph.add(value, sinusoids(graph, steps, width), "positioned")
    norm = partial(layer_norm, graph, epsilon=1e-6)
    for index in range(layers):
        with graph.scope(f"layer{index}"):
            mixed, _ = self_attention(graph, value, heads)
            value = norm(graph.add(value, mixed, "residual1"), name="norm1")
            fed = feed_forward(graph, value, hidden, activation="relu")
            value = norm(graph.add(value, fed, "residual2"), name="norm2")
    logits = classifier(graph, graph.mean(value, [1], "pool"), classes)
    graph.output(graph.unary("Softmax", logits, "Softmax", axis=-1), "probabilities")
