"""WideNet: one transformer block with a mixture of experts, run at every depth with norms of its own.

Xue et al., AAAI 2022 (arXiv:2107.11817). For images after ViT, for text after ALBERT, which is the one-expert case.
"""

from __future__ import annotations

from functools import partial

from onnx import TensorProto

from workloads import vit
from workloads.blocks.attention import encoder_attention
from workloads.blocks.dense import classifier, feed_forward, layer_norm, linear
from workloads.blocks.embedding import image_input, learned_token, patch_embedding, positioned
from workloads.blocks.residual import residual
from workloads.blocks.routing import mixture_of_experts
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

EPSILON = 1e-6
CHOICES = 2

VISION: Table = {
    "widenet_b": {"width": 768, "hidden": 4096, "depth": 12, "heads": 12},
    "widenet_l": {"width": 1024, "hidden": 4096, "depth": 24, "heads": 16},
    "widenet_h": {"width": 1280, "hidden": 5120, "depth": 32, "heads": 16},
}

LANGUAGE: Table = {
    "widenet_nlp_e4": {"experts": 4},
    "widenet_nlp_e8": {"experts": 8},
    "widenet_nlp_e16": {"experts": 16},
    "albert_base": {"experts": 1},
}

SMALL = {"width": 32, "hidden": 64, "depth": 3, "heads": 4}


@variants(VISION, {"widenet_b": {"image": 64, "classes": 10, **SMALL}})
def widenet(
    graph: Builder,
    batch: int,
    image: int,
    *,
    width: int,
    hidden: int,
    depth: int,
    heads: int,
    experts: int = 4,
    capacity_factor: float = 1.2,
    patch: int = 16,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    with graph.scope("embedding"):
        patches = patch_embedding(graph, image_input(graph, batch, image, patch), width, patch, "patches")
        tokens = graph.concat([learned_token(graph, "class_token", batch, width), patches], 1, "tokens")
        value = positioned(graph, tokens)
    value = shared_blocks(graph, value, depth, heads, hidden, experts, capacity_factor)
    value = layer_norm(graph, value, "norm", EPSILON)
    graph.output(classifier(graph, graph.take(value, 0, 1, "class_token"), classes), "logits")


@variants(LANGUAGE, {name: {"sequence": 8, "vocabulary": 100, **SMALL} for name in ("widenet_nlp_e4", "albert_base")})
def widenet_language(
    graph: Builder,
    batch: int,
    sequence: int,
    *,
    experts: int,
    capacity_factor: float = 1.2,
    width: int = 768,
    hidden: int = 3072,
    depth: int = 12,
    heads: int = 12,
    embedding: int = 128,
    vocabulary: int = 30000,
    positions: int = 512,
) -> None:
    """Token and segment ids (batch, sequence) to the last hidden state and the pooled first token."""
    tokens, segments = (
        graph.input(name, (batch, sequence), TensorProto.INT64) for name in ("input_ids", "token_type_ids")
    )
    with graph.scope("embedding"):
        words = graph.lookup(graph.weight("words/weight", vocabulary, embedding), tokens, "words/lookup")
        kinds = graph.lookup(graph.weight("segments/weight", 2, embedding), segments, "segments/lookup")
        places = graph.slice(graph.weight("positions/weight", positions, embedding), 0, sequence, 0, "places")
        value = layer_norm(graph, graph.add(graph.add(words, kinds), places), "norm", EPSILON)
        value = linear(graph, value, width, "widen")
    value = shared_blocks(graph, value, depth, heads, hidden, experts, capacity_factor)
    graph.output(value, "last_hidden_state")
    first = graph.take(value, 0, 1, "first_token")
    graph.output(graph.unary("Tanh", linear(graph, first, width, "pooler"), "pooler/Tanh"), "pooler_output")


def shared_blocks(
    graph: Builder, value: Value, depth: int, heads: int, hidden: int, experts: int, capacity_factor: float
) -> Value:
    """`depth` uses of one block, x + attention(norm(x)) and then x + experts(norm(x)), their norms apart."""
    norm = partial(layer_norm, epsilon=EPSILON)

    def attention(inner: Value) -> Value:
        with graph.sharing("attention"):
            return encoder_attention(graph, inner, heads)

    def feed(inner: Value) -> Value:
        with graph.sharing("experts"):
            if experts == 1:
                return feed_forward(graph, inner, hidden)
            logits = linear(graph, graph.flatten_rows(inner, "rows"), experts, "router", bias=False)
            return mixture_of_experts(
                graph, inner, logits, hidden, CHOICES, capacity_factor, bias=True, renormalise=False
            )

    for index in range(depth):
        with graph.scope(f"layer{index}"):
            value = residual(graph, value, attention, 1, norm)
            value = residual(graph, value, feed, 2, norm)
    return value


@variants({"vit_b": {}}, {"vit_b": {"image": 64, "width": 48, "layers": 2, "classes": 10}})
def vit_base(
    graph: Builder, batch: int, image: int, *, width: int = 768, heads: int = 12, layers: int = 12, classes: int = 1000
) -> None:
    """The ViT-B/16 that WideNet-B is held against."""
    vit.vit(graph, batch, image, width=width, heads=heads, layers=layers, classes=classes)
