"""DenseNet: every layer reads the outputs of all layers before it. Huang et al., CVPR 2017 (arXiv:1608.06993)."""

from __future__ import annotations

from collections.abc import Sequence

from workloads.blocks.activation import activate
from workloads.blocks.convolution import average_pool, batch_norm, conv_norm, convolution, max_pool, pooled_classifier
from workloads.blocks.embedding import image_input
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

BOTTLENECK = 4
"""Channels between the two convolutions of a layer, in those that it adds."""

VARIANTS: Table = {
    "densenet121": {"blocks": (6, 12, 24, 16)},
    "densenet161": {"blocks": (6, 12, 36, 24), "growth": 48},
    "densenet201": {"blocks": (6, 12, 48, 32)},
}

REDUCED = {"densenet121": {"image": 64, "blocks": (2, 2), "growth": 8, "classes": 10}}


@variants(VARIANTS, REDUCED)
def densenet(
    graph: Builder, batch: int, image: int, *, blocks: Sequence[int], growth: int = 32, classes: int = 1000
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    value = conv_norm(graph, image_input(graph, batch, image), 2 * growth, 7, "stem", stride=2, padding=3)
    value = max_pool(graph, value, 3, stride=2, padding=1)
    for block, layers in enumerate(blocks):
        with graph.scope(f"block{block}"):
            for layer in range(layers):
                with graph.scope(f"layer{layer}"):
                    inner = _norm_convolution(graph, value, BOTTLENECK * growth, 1, "reduce")
                    added = _norm_convolution(graph, inner, growth, 3, "grow")
                    value = graph.concat([value, added], 1, "joined")
            if block < len(blocks) - 1:
                value = _norm_convolution(graph, value, value.shape[1] // 2, 1, "transition")
                value = average_pool(graph, value, 2, stride=2)
    value = activate(graph, batch_norm(graph, value), "relu")
    graph.output(pooled_classifier(graph, value, classes), "logits")


def _norm_convolution(graph: Builder, value: Value, channels: int, kernel: int, name: str) -> Value:
    """Batch norm, ReLU, convolution: in that order."""
    with graph.scope(name):
        normed = activate(graph, batch_norm(graph, value), "relu")
        return convolution(graph, normed, channels, kernel, "convolution", padding=kernel // 2)
