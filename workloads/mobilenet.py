"""MobileNetV2: inverted residuals with linear bottlenecks. Sandler et al., CVPR 2018 (arXiv:1801.04381), table 2."""

from __future__ import annotations

from workloads.blocks.convolution import conv_norm, pooled_classifier
from workloads.builder import Builder, Value
from workloads.registry import variants

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, output channels, blocks, and stride of the first block of each stage."""

VARIANTS = {"mobilenetv2": {"stages": STAGES}}

REDUCED = {"mobilenetv2": {"image": 64, "stages": ((1, 8, 1, 1), (6, 16, 2, 2)), "last": 32, "classes": 10}}


@variants(VARIANTS, REDUCED)
def mobilenet_v2(
    graph: Builder,
    batch: int,
    image: int,
    *,
    stages: tuple[tuple[int, int, int, int], ...],
    last: int = 1280,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    value = graph.input("pixels", (batch, 3, image, image))
    value = conv_norm(graph, value, 32, 3, "stem", stride=2, padding=1, activation="relu6")
    for stage, (expansion, channels, blocks, stride) in enumerate(stages):
        for block in range(blocks):
            with graph.scope(f"stage{stage}/block{block}"):
                value = inverted_residual(graph, value, channels, expansion, stride if not block else 1)
    value = conv_norm(graph, value, last, 1, "last", activation="relu6")
    graph.output(pooled_classifier(graph, value, classes), "logits")


def inverted_residual(graph: Builder, value: Value, channels: int, expansion: int, stride: int) -> Value:
    """Expand, filter each channel, project without activation; added to the input where shapes agree."""
    inner, hidden = value, expansion * value.shape[1]
    if expansion > 1:
        inner = conv_norm(graph, inner, hidden, 1, "expand", activation="relu6")
    inner = conv_norm(graph, inner, hidden, 3, "depthwise", stride=stride, padding=1, groups=hidden, activation="relu6")
    inner = conv_norm(graph, inner, channels, 1, "project", activation="none")
    return graph.add(value, inner, "residual") if value.shape == inner.shape else inner
