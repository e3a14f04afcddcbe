"""PoolFormer: a transformer whose token mixer is average pooling. Yu et al., CVPR 2022 (arXiv:2111.11418)."""

from __future__ import annotations

from collections.abc import Sequence

from workloads.blocks.convolution import average_pool, convolution
from workloads.blocks.dense import classifier, layer_norm
from workloads.builder import Builder, Value
from workloads.registry import variants

EPSILON = 1e-5

VARIANTS = {"poolformer_s12": {"widths": (64, 128, 320, 512), "depths": (2, 2, 6, 2)}}

REDUCED = {"poolformer_s12": {"image": 64, "widths": (8, 16, 24, 32), "depths": (1, 1, 2, 1), "classes": 10}}


@variants(VARIANTS, REDUCED)
def poolformer(
    graph: Builder, batch: int, image: int, *, widths: Sequence[int], depths: Sequence[int], classes: int = 1000
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    value = graph.input("pixels", (batch, 3, image, image))
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        with graph.scope(f"stage{stage}"):
            if not stage:
                value = convolution(graph, value, width, 7, "stem", stride=4, padding=2, bias=True)
            else:
                value = convolution(graph, value, width, 3, "downsample", stride=2, padding=1, bias=True)
            for block in range(depth):
                with graph.scope(f"block{block}"):
                    value = pool_block(graph, value)
    pooled = layer_norm(graph, graph.mean(value, (2, 3), "pool"), "norm", EPSILON)
    graph.output(classifier(graph, pooled, classes), "logits")


def pool_block(graph: Builder, value: Value) -> Value:
    """x + s1 (pool(norm(x)) - norm(x)), then x + s2 mlp(norm(x)); s1 and s2 scale each channel."""
    normed = group_norm(graph, value, "norm1")
    mixed = graph.binary("Sub", average_pool(graph, normed, 3, stride=1, padding=1), normed, "mixed")
    value = graph.add(value, _scaled(graph, mixed, "scale1"), "residual1")
    channels = value.shape[1]
    with graph.scope("mlp"):
        hidden = convolution(graph, group_norm(graph, value, "norm"), 4 * channels, 1, "up", bias=True)
        hidden = convolution(graph, graph.unary("Gelu", hidden), channels, 1, "down", bias=True)
    return graph.add(value, _scaled(graph, hidden, "scale2"), "residual2")


def group_norm(graph: Builder, value: Value, name: str) -> Value:
    """Group norm with one group: over channels, height and width together."""
    with graph.scope(name):
        inputs = [value, graph.weight("weight", value.shape[1]), graph.weight("bias", value.shape[1])]
        [result] = graph.node("GroupNormalization", inputs, [value.shape], num_groups=1, epsilon=EPSILON)
        return result


def _scaled(graph: Builder, value: Value, name: str) -> Value:
    with graph.scope(name):
        return graph.multiply(value, graph.weight("weight", value.shape[1], 1, 1))
