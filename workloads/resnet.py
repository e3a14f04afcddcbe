"""ResNet with bottleneck blocks: He et al., CVPR 2016 (arXiv:1512.03385); the stride stands at the 3x3 convolution."""

from __future__ import annotations

from collections.abc import Sequence

from workloads.blocks.convolution import conv_norm, max_pool, pooled_classifier
from workloads.builder import Builder, Value
from workloads.registry import variants

EXPANSION = 4
"""Output channels of a bottleneck block, in its inner channels."""

VARIANTS = {"resnet50": {"depths": (3, 4, 6, 3)}}

REDUCED = {"resnet50": {"image": 64, "stem": 8, "depths": (2, 1, 1, 1), "classes": 10}}


@variants(VARIANTS, REDUCED)
def resnet(
    graph: Builder, batch: int, image: int, *, depths: Sequence[int], stem: int = 64, classes: int = 1000
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    maps = stages(graph, graph.input("pixels", (batch, 3, image, image)), depths, stem)
    graph.output(pooled_classifier(graph, maps[-1], classes), "logits")


def stages(graph: Builder, value: Value, depths: Sequence[int], stem: int = 64) -> list[Value]:
    """The maps after each stage, the first at a quarter of the image and each further one at half of that."""
    with graph.scope("stem"):
        value = conv_norm(graph, value, stem, 7, "convolution", stride=2, padding=3)
        value = max_pool(graph, value, 3, stride=2, padding=1)
    maps = []
    for stage, depth in enumerate(depths):
        for block in range(depth):
            with graph.scope(f"stage{stage + 1}/block{block}"):
                value = bottleneck(graph, value, stem << stage, stride=2 if stage and not block else 1)
        maps.append(value)
    return maps


def bottleneck(graph: Builder, value: Value, channels: int, stride: int) -> Value:
    """1x1, 3x3, 1x1 convolutions beside a shortcut, projected where the shape changes."""
    inner = conv_norm(graph, value, channels, 1, "reduce")
    inner = conv_norm(graph, inner, channels, 3, "spatial", stride=stride, padding=1)
    inner = conv_norm(graph, inner, EXPANSION * channels, 1, "expand", activation="none")
    shortcut = value
    if value.shape != inner.shape:
        shortcut = conv_norm(graph, value, EXPANSION * channels, 1, "shortcut", stride=stride, activation="none")
    return graph.unary("Relu", graph.add(inner, shortcut, "residual"))
