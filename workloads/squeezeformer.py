"""Squeezeformer, a speech encoder whose middle layers run at half the frame rate; and the Conformer before it.

Kim et al., NeurIPS 2022 (arXiv:2206.00888); Gulati et al., Interspeech 2020 (arXiv:2005.08100). Both with a CTC head.
"""

from __future__ import annotations

from functools import partial

from codesign.errors import BadParameter
from workloads.blocks.dense import feed_forward, layer_norm, linear
from workloads.blocks.residual import Branch, residual
from workloads.blocks.speech import convolution_module, relative_attention, subsample
from workloads.blocks.temporal import temporal_convolution
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

EPSILON = 1e-5
KERNEL = 31

SQUEEZEFORMER: Table = {
    f"squeezeformer_{name}": {"layers": layers, "width": width, "heads": heads, "reduced": reduced}
    for name, layers, width, heads, reduced in (
        ("xs", 16, 144, 4, (7, 15)),
        ("s", 18, 196, 4, (8, 17)),
        ("sm", 16, 256, 4, (7, 15)),
        ("m", 20, 324, 4, (9, 19)),
        ("ml", 18, 512, 8, (8, 17)),
        ("l", 22, 640, 8, (10, 21)),
    )
}

CONFORMER: Table = {
    "conformer_ctc_s": {"layers": 16, "width": 144, "heads": 4},
    "conformer_ctc_s_m_l_baseline": {"layers": 16, "width": 256, "heads": 4},
    "conformer_ctc_l": {"layers": 18, "width": 512, "heads": 8},
}

SMALL = {"frames": 32, "bins": 16, "width": 16, "heads": 4, "layers": 4, "vocabulary": 11}


@variants(SQUEEZEFORMER, {"squeezeformer_xs": {**SMALL, "reduced": (1, 3)}})
def squeezeformer(
    graph: Builder,
    batch: int,
    frames: int,
    bins: int,
    *,
    layers: int,
    width: int,
    heads: int,
    reduced: tuple[int, int],
    vocabulary: int = 129,
) -> None:
    """Log-mel features (batch, frames, bins) to logits (batch, frames / 4, vocabulary) of word pieces and a blank. The
    layers from the first of `reduced` to before the second run at half the rate."""
    if frames % 8:
        raise BadParameter(f"workload '{graph.name}': frames = {frames}; expected a multiple of 8")
    value = subsample(graph, graph.input("features", (batch, frames, bins)), width, True, "silu")
    value = layer_norm(graph, value, "embedding_norm", EPSILON)
    saved = value
    for index in range(layers):
        if index == reduced[0]:
            saved, value = value, _halved(graph, value)
        if index == reduced[1]:
            value = graph.add(saved, _doubled(graph, value), "recovered")
        with graph.scope(f"layer{index}"):
            branches: tuple[Branch, ...] = (
                partial(relative_attention, graph, heads=heads),
                partial(feed_forward, graph, hidden=4 * width, activation="silu", name="mlp1"),
                partial(convolution_module, graph, kernel=KERNEL, gated=False),
                partial(feed_forward, graph, hidden=4 * width, activation="silu", name="mlp2"),
            )
            for number, branch in enumerate(branches):
                value = _scaled_residual(graph, value, branch, number)
    graph.output(linear(graph, value, vocabulary, "head"), "logits")


def _scaled_residual(graph: Builder, value: Value, branch: Branch, number: int) -> Value:
    """norm(x + branch(scale x + bias)): normalised after the sum, scaled by learned numbers before the branch."""
    width = value.shape[-1]
    scaled = graph.multiply(value, graph.weight(f"scale{number}/weight", width), f"scale{number}")
    scaled = graph.add(scaled, graph.weight(f"scale{number}/bias", width), f"shift{number}")
    return layer_norm(graph, graph.add(value, branch(scaled), f"residual{number}"), f"norm{number}", EPSILON)


def _halved(graph: Builder, value: Value) -> Value:
    """Every second frame of a depthwise and a pointwise convolution."""
    width = value.shape[-1]
    with graph.scope("reduction"):
        channels = graph.transpose(value, (0, 2, 1), "channels")
        inner = temporal_convolution(graph, channels, width, 3, "depthwise", stride=2, padding=1, groups=width)
        return graph.transpose(temporal_convolution(graph, inner, width, 1, "pointwise"), (0, 2, 1), "frames")


def _doubled(graph: Builder, value: Value) -> Value:
    """Every frame twice, then a linear layer."""
    batch, frames, width = value.shape
    with graph.scope("recovery"):
        twice = graph.expand(graph.unsqueeze(value, [2], "pairs"), (batch, frames, 2, width), "twice")
        return linear(graph, graph.reshape(twice, (batch, 2 * frames, width), "frames"), width, "projection")


@variants(CONFORMER, {"conformer_ctc_s": SMALL})
def conformer(
    graph: Builder, batch: int, frames: int, bins: int, *, layers: int, width: int, heads: int, vocabulary: int = 129
) -> None:
    """Log-mel features (batch, frames, bins) to logits (batch, frames / 4, vocabulary)."""
    value = subsample(graph, graph.input("features", (batch, frames, bins)), width, False, "relu")
    norm = partial(layer_norm, epsilon=EPSILON)

    def half(name: str) -> Branch:
        def feed(inner: Value) -> Value:
            outer = feed_forward(graph, inner, 4 * width, name, "silu")
            return graph.multiply(outer, graph.scalar(f"{name}/half", 0.5), f"{name}/halved")

        return feed

    for index in range(layers):
        with graph.scope(f"layer{index}"):
            value = residual(graph, value, half("mlp1"), 1, norm)
            value = residual(graph, value, partial(relative_attention, graph, heads=heads), 2, norm)
            value = residual(graph, value, partial(convolution_module, graph, kernel=KERNEL, gated=True), 3, norm)
            value = norm(graph, residual(graph, value, half("mlp2"), 4, norm), "norm")
    graph.output(linear(graph, value, vocabulary, "head"), "logits")
