"""T2T-ViT: tokens made of overlapping windows in three steps with narrow attention between them, then a deep and narrow
encoder. Yuan et al., ICCV 2021 (arXiv:2101.11986).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal

from workloads.blocks.attention import encoder_attention, scaled_dot_product
from workloads.blocks.dense import classifier, layer_norm, linear, mlp
from workloads.blocks.embedding import class_token_of, grid_of, image_input, learned_token, unfold
from workloads.blocks.positions import sinusoid_table
from workloads.blocks.residual import encoder_blocks, residual
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

Mixing = Literal["performer", "attention"]

TOKEN_WIDTH = 64
WINDOWS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
"""Extent, stride and padding of the windows of each step."""
FEATURES = 32
"""Random features of the performer."""
EPSILON = 1e-8

ENCODERS: dict[str, dict[str, int]] = {
    "14": {"width": 384, "heads": 6, "layers": 14, "expansion": 3},
    "19": {"width": 448, "heads": 7, "layers": 19, "expansion": 3},
    "24": {"width": 512, "heads": 8, "layers": 24, "expansion": 3},
}

VARIANTS: Table = {
    **{f"t2t_vit_{layers}": {"width": 256, "heads": 4, "layers": layers, "expansion": 2} for layers in (7, 10, 12)},
    **{f"t2t_vit_{size}": encoder for size, encoder in ENCODERS.items()},
    **{f"t2t_vit_t_{size}": {**encoder, "mixing": "attention"} for size, encoder in ENCODERS.items()},
    "t2t_vit_14_resnext": {**ENCODERS["14"], "heads": 32},
    "t2t_vit_14_wide": {"width": 768, "heads": 12, "layers": 4, "expansion": 3},
}

SMALL: dict[str, Any] = {"image": 64, "width": 32, "heads": 4, "layers": 2, "classes": 10}

REDUCED = {"t2t_vit_7": SMALL, "t2t_vit_t_14": SMALL}


@variants(VARIANTS, REDUCED)
def t2t_vit(
    graph: Builder,
    batch: int,
    image: int,
    *,
    width: int,
    heads: int,
    layers: int,
    expansion: int,
    mixing: Mixing = "performer",
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    value = image_input(graph, batch, image, 16)
    for step, (extent, stride, padding) in enumerate(WINDOWS):
        with graph.scope(f"step{step}"):
            tokens = unfold(graph, value, extent, stride, padding)
            if step < len(WINDOWS) - 1:
                tokens = _narrow(graph, tokens, mixing)
                side = math.isqrt(tokens.shape[1])
                value = grid_of(graph, tokens, side, side)
    tokens = linear(graph, tokens, width, "projection")
    tokens = graph.concat([learned_token(graph, "class_token", batch, width), tokens], 1, "tokens")
    tokens = graph.add(tokens, graph.frozen("positions", sinusoid_table(tokens.shape[1], width)), "positioned")
    attend = partial(encoder_attention, graph, heads=heads, bias=False)
    tokens = encoder_blocks(graph, tokens, layers, attend, partial(mlp, graph, hidden=expansion * width), layer_norm)
    tokens = layer_norm(graph, tokens, "norm")
    graph.output(classifier(graph, class_token_of(graph, tokens), classes), "logits")


def _narrow(graph: Builder, tokens: Value, mixing: Mixing) -> Value:
    """Attention of one head to narrower tokens, added to their values as the input is too wide; then a perceptron."""
    mix = random_feature_attention if mixing == "performer" else _single_head_attention
    value = mix(graph, layer_norm(graph, tokens, "norm1"))
    return residual(graph, value, partial(mlp, graph, hidden=TOKEN_WIDTH), 2, layer_norm)


def _single_head_attention(graph: Builder, tokens: Value) -> Value:
    with graph.scope("attention"):
        query, key, content = graph.split(linear(graph, tokens, 3 * TOKEN_WIDTH, "query_key_value", bias=False), 3)
        scale = 1 / math.sqrt(tokens.shape[-1])
        context = scaled_dot_product(graph, query, key, content, scale=scale)
        return graph.add(linear(graph, context, TOKEN_WIDTH, "output"), content, "with_values")


def random_feature_attention(graph: Builder, tokens: Value) -> Value:
    """Attention whose softmax kernel is approximated by positive random features, so that keys and values are summed
    before any query is seen (Choromanski et al. 2021, arXiv:2009.14794)."""
    with graph.scope("attention"):
        key, query, content = graph.split(linear(graph, tokens, 3 * TOKEN_WIDTH, "key_query_value"), 3)
        directions = graph.weight("directions", TOKEN_WIDTH, FEATURES)
        key, query = (_features(graph, part, directions) for part in (key, query))
        total = graph.reduce("ReduceSum", key, [1], "total", keepdims=True)
        weights = graph.matmul(query, graph.transpose(total, (0, 2, 1)), "normaliser")
        pairs = graph.matmul(graph.transpose(key, (0, 2, 1)), content, "pairs")
        context = graph.matmul(query, pairs, "context")
        context = graph.binary("Div", context, graph.add(weights, graph.scalar("epsilon", EPSILON)), "normalised")
        return graph.add(linear(graph, context, TOKEN_WIDTH, "output"), content, "with_values")


def _features(graph: Builder, value: Value, directions: Value) -> Value:
    """exp(w x - |x|^2 / 2) / sqrt(features) for each random direction w."""
    half = graph.multiply(
        graph.reduce("ReduceSumSquare", value, [-1], "squares", keepdims=True), graph.scalar("half", 0.5)
    )
    exponent = graph.binary("Sub", graph.matmul(value, directions, "projected"), half)
    return graph.multiply(graph.unary("Exp", exponent), graph.scalar("share", 1 / math.sqrt(directions.shape[1])))
