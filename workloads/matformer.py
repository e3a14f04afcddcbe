"""MatFormer: feed-forward layers whose first hidden units are smaller feed-forward layers.

Kudugunta et al., NeurIPS 2024 (arXiv:2310.07707).

`ratios` are the hidden units of each layer, in widths; `stored` those of the weights on file: where it is larger, the
layer reads a slice of them, as a network that changes its size at deployment does.
"""

from __future__ import annotations

from functools import partial

from workloads.blocks.activation import Activation, activate
from workloads.blocks.attention import encoder_attention, grouped_attention
from workloads.blocks.dense import classifier, layer_norm, rms_norm
from workloads.blocks.embedding import image_input, learned_token, patch_embedding, positioned
from workloads.blocks.generation import language_model
from workloads.blocks.positions import rotary_table
from workloads.blocks.residual import residual
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

EPSILON = 1e-6

LANGUAGE: Table = {
    "matlm_family_shape": {"width": 3072, "ratios": (0.5,) * 4 + (1.0,) * 4 + (2.0,) * 4 + (4.0,) * 4, "stored": 4.0},
    "matlm_2p6b_XL": {"width": 3072},
    "matlm_2p6b_L": {"width": 3072, "ratios": (2.0,)},
    "matlm_2p6b_M": {"width": 3072, "ratios": (1.0,)},
    "matlm_2p6b_S": {"width": 3072, "ratios": (0.5,)},
    "matlm_850m_XL": {"width": 1536},
    "matlm_463m_XL": {"width": 1024},
    "matlm_310m_XL": {"width": 768},
    "matlm_180m_XL": {"width": 512},
    "matlm_78m_XL": {"width": 256},
}

VISION = {
    "matvit_b16": {"width": 768, "heads": 12, "layers": 12},
    "matvit_l16": {"width": 1024, "heads": 16, "layers": 24},
}

SMALL = {"sequence": 8, "width": 32, "heads": 4, "layers": 2, "vocabulary": 100}


@variants(LANGUAGE, {"matlm_2p6b_XL": SMALL, "matlm_family_shape": {**SMALL, "ratios": (0.5, 2.0)}})
def matlm(
    graph: Builder,
    batch: int,
    sequence: int,
    *,
    width: int,
    ratios: tuple[float, ...] = (4.0,),
    stored: float = 0.0,
    heads: int = 16,
    layers: int = 16,
    vocabulary: int = 256000,
) -> None:
    """Token ids (batch, sequence) to logits (batch, sequence, vocabulary). One ratio serves all layers."""
    rotation = rotary_table(graph, batch, sequence, 0, width // heads, 10_000.0)
    norm = partial(rms_norm, epsilon=EPSILON)

    def layer(value: Value, index: int) -> Value:
        value = residual(
            graph, value, lambda inner: grouped_attention(graph, inner, heads, heads, rotation)[0], 1, norm
        )
        ratio = ratios[index % len(ratios)]
        return residual(graph, value, partial(nested_feed_forward, graph, ratio=ratio, stored=stored), 2, norm)

    language_model(
        graph, batch, sequence, layer, partial(norm, graph), layers=layers, width=width, vocabulary=vocabulary
    )


@variants(
    VISION, {"matvit_b16": {"image": 64, "width": 48, "layers": 2, "classes": 10, "ratios": (1.0,), "stored": 4.0}}
)
def matvit(
    graph: Builder,
    batch: int,
    image: int,
    *,
    width: int,
    heads: int,
    layers: int,
    ratios: tuple[float, ...] = (4.0,),
    stored: float = 0.0,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes): ViT with nested feed-forward layers."""
    norm = partial(layer_norm, epsilon=EPSILON)
    with graph.scope("embedding"):
        patches = patch_embedding(graph, image_input(graph, batch, image, 16), width, 16, "patches")
        tokens = graph.concat([learned_token(graph, "class_token", batch, width), patches], 1, "tokens")
        value = positioned(graph, tokens)
    for index in range(layers):
        with graph.scope(f"layer{index}"):
            value = residual(graph, value, partial(encoder_attention, graph, heads=heads), 1, norm)
            feed = partial(nested_feed_forward, graph, ratio=ratios[index % len(ratios)], stored=stored, bias=True)
            value = residual(graph, value, feed, 2, norm)
    value = norm(graph, value, "norm")
    graph.output(classifier(graph, graph.take(value, 0, 1, "class_token"), classes), "logits")


def nested_feed_forward(
    graph: Builder,
    value: Value,
    ratio: float,
    stored: float,
    activation: Activation = "gelu",
    bias: bool = False,
    name: str = "mlp",
) -> Value:
    """down(activation(up(x))) by the first `ratio` x width of the `stored` x width hidden units (0: of as many)."""
    width = value.shape[-1]
    whole, used = int((stored or ratio) * width), int(ratio * width)

    def first(weight: Value, axis: int) -> Value:
        return weight if whole == used else graph.slice(weight, 0, used, axis, "first")

    with graph.scope(name):
        with graph.scope("up"):
            inner = graph.matmul(value, first(graph.weight("weight", width, whole), 1))
            inner = graph.add(inner, first(graph.weight("bias", whole), 0)) if bias else inner
        inner = activate(graph, inner, activation)
        with graph.scope("down"):
            outer = graph.matmul(inner, first(graph.weight("weight", whole, width), 0))
            return graph.add(outer, graph.weight("bias", width)) if bias else outer
