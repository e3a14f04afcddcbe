"""PoolFormer: a transformer whose token mixer is average pooling. Yu et al., CVPR 2022 (arXiv:2111.11418)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from workloads.blocks.convolution import average_pool, conv_feed_forward, convolution, group_norm
from workloads.blocks.dense import classifier, layer_norm
from workloads.blocks.embedding import image_input
from workloads.blocks.residual import residual
from workloads.builder import Builder, Value
from workloads.registry import variants

SMALL = (64, 128, 320, 512)
MEDIUM = (96, 192, 384, 768)

VARIANTS = {
    "poolformer_s12": {"widths": SMALL, "depths": (2, 2, 6, 2)},
    "poolformer_s24": {"widths": SMALL, "depths": (4, 4, 12, 4)},
    "poolformer_s36": {"widths": SMALL, "depths": (6, 6, 18, 6)},
    "poolformer_m36": {"widths": MEDIUM, "depths": (6, 6, 18, 6)},
    "poolformer_m48": {"widths": MEDIUM, "depths": (8, 8, 24, 8)},
}

REDUCED = {"poolformer_s12": {"image": 64, "widths": (8, 16, 24, 32), "depths": (1, 1, 2, 1), "classes": 10}}


@variants(VARIANTS, REDUCED)
def poolformer(
    graph: Builder, batch: int, image: int, *, widths: Sequence[int], depths: Sequence[int], classes: int = 1000
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    value = image_input(graph, batch, image)
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        with graph.scope(f"stage{stage}"):
            if not stage:
                value = convolution(graph, value, width, 7, "stem", stride=4, padding=2, bias=True)
            else:
                value = convolution(graph, value, width, 3, "downsample", stride=2, padding=1, bias=True)
            for block in range(depth):
                with graph.scope(f"block{block}"):
                    value = pool_block(graph, value)
    pooled = layer_norm(graph, graph.mean(value, (2, 3), "pool"), "norm")
    graph.output(classifier(graph, pooled, classes), "logits")


def pool_block(graph: Builder, value: Value) -> Value:
    """x + s1 (pool(norm(x)) - norm(x)), then x + s2 mlp(norm(x)); s1 and s2 scale each channel."""
    value = residual(graph, value, partial(pool_mixer, graph), 1, group_norm, layer_scale=True, channel_axis=1)
    feed = partial(conv_feed_forward, graph, hidden=4 * value.shape[1])
    return residual(graph, value, feed, 2, group_norm, layer_scale=True, channel_axis=1)


def pool_mixer(graph: Builder, value: Value) -> Value:
    """The mean of each 3x3 window less the value itself, which the residual adds."""
    return graph.binary("Sub", average_pool(graph, value, 3, stride=1, padding=1), value, "mixed")
