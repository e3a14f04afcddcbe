"""EfficientFormer: pooling and convolutions first, attention in the last blocks. Li et al., NeurIPS 2022
(arXiv:2206.01191).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from workloads.blocks.attention import merge_heads, scaled_dot_product, split_heads
from workloads.blocks.convolution import conv_feed_forward, conv_norm
from workloads.blocks.dense import classifier, layer_norm, linear, mean_of, mlp
from workloads.blocks.embedding import image_input, tokens_of
from workloads.blocks.residual import residual
from workloads.blocks.window import distance_bias
from workloads.builder import Builder, Value
from workloads.poolformer import pool_mixer
from workloads.registry import variants

VARIANTS = {
    "efficientformer_l1": {"widths": (48, 96, 224, 448), "depths": (3, 2, 6, 4), "attending": 1},
    "efficientformer_l3": {"widths": (64, 128, 320, 512), "depths": (4, 4, 12, 6), "attending": 4},
    "efficientformer_l7": {"widths": (96, 192, 384, 768), "depths": (6, 6, 18, 8), "attending": 8},
}

REDUCED = {"efficientformer_l1": {"image": 64, "widths": (8, 16, 24, 32), "depths": (1, 1, 1, 2), "classes": 10}}


@variants(VARIANTS, REDUCED)
def efficientformer(
    graph: Builder,
    batch: int,
    image: int,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    attending: int,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes). The last `attending` blocks have attention."""
    value = image_input(graph, batch, image, 32)
    value = conv_norm(graph, value, widths[0] // 2, 3, "stem1", stride=2, padding=1, bias=True)
    value = conv_norm(graph, value, widths[0], 3, "stem2", stride=2, padding=1, bias=True)
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        with graph.scope(f"stage{stage}"):
            if stage:
                value = conv_norm(graph, value, width, 3, "downsample", 2, 1, bias=True, activation="none")
            pooling = depth - attending if stage == len(depths) - 1 else depth
            for block in range(pooling):
                with graph.scope(f"block{block}"):
                    value = _pool_block(graph, value)
    extents = (value.shape[2], value.shape[3])
    tokens = tokens_of(graph, value)
    for block in range(pooling, pooling + attending):
        with graph.scope(f"stage{len(depths) - 1}/block{block}"):
            tokens = _attention_block(graph, tokens, extents)
    pooled = graph.mean(layer_norm(graph, tokens, "norm"), (1,), "pool")
    heads = [classifier(graph, pooled, classes, name) for name in ("head", "distillation_head")]
    graph.output(mean_of(graph, heads), "logits")


def _pool_block(graph: Builder, value: Value) -> Value:
    """x + s1 (pool(x) - x), then x + s2 mlp(x): no norm but the batch norms of the convolutions."""
    value = residual(graph, value, partial(pool_mixer, graph), 1, layer_scale=True, channel_axis=1)
    feed = partial(conv_feed_forward, graph, hidden=4 * value.shape[1], norm=True)
    return residual(graph, value, feed, 2, layer_scale=True, channel_axis=1)


def _attention_block(graph: Builder, tokens: Value, extents: tuple[int, int]) -> Value:
    tokens = residual(graph, tokens, partial(_attention, graph, extents=extents), 1, layer_norm, layer_scale=True)
    feed = partial(mlp, graph, hidden=4 * tokens.shape[-1])
    return residual(graph, tokens, feed, 2, layer_norm, layer_scale=True)


def _attention(
    graph: Builder, tokens: Value, extents: tuple[int, int], heads: int = 8, key_size: int = 32, value_size: int = 128
) -> Value:
    """Attention with values wider than keys and a learned bias for each distance."""
    with graph.scope("attention"):
        sizes = (key_size, key_size, value_size)
        projected = split_heads(graph, linear(graph, tokens, heads * sum(sizes), "query_key_value"), heads, "heads")
        query, key, content = graph.split_sizes(projected, sizes)
        context = scaled_dot_product(graph, query, key, content, distance_bias(graph, heads, extents))
        return linear(graph, merge_heads(graph, context), tokens.shape[-1], "output")
