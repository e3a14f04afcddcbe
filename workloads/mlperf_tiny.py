"""The four reference networks of MLPerf Tiny: Banbury et al., NeurIPS 2021 Datasets and Benchmarks (arXiv:2106.07597).

As in the benchmark's training scripts: TensorFlow's "same" padding, convolutions with a bias before each batch norm.
"""

from __future__ import annotations

from collections.abc import Sequence

from workloads.blocks.convolution import (
    Activation,
    Padding,
    activate,
    batch_norm,
    conv_norm,
    convolution,
    pooled_classifier,
)
from workloads.blocks.dense import linear
from workloads.builder import Builder, Value
from workloads.registry import variants

EPSILON = 1e-3
SAME: Padding = "same"

SEPARABLE = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *((128, 1),) * 5, (256, 2), (256, 1))
"""Output channels and stride of each separable convolution of MobileNetV1 at a quarter of its width."""


@variants({"mlperf_tiny_ic": {"channels": (16, 32, 64)}}, {"mlperf_tiny_ic": {"channels": (8, 16, 24)}})
def image_classification(graph: Builder, batch: int, image: int, *, channels: Sequence[int]) -> None:
    """ResNet-8 on CIFAR-10: pixels (batch, 3, image, image) to probabilities (batch, 10)."""
    value = graph.input("pixels", (batch, 3, image, image))
    value = _layer(graph, value, channels[0], 3, "stem")
    for stage, width in enumerate(channels):
        with graph.scope(f"stage{stage}"):
            stride = 1 if not stage else 2
            inner = _layer(graph, value, width, 3, "first", stride)
            inner = _layer(graph, inner, width, 3, "second", activation="none")
            if stage:
                value = convolution(graph, value, width, 1, "shortcut", stride, SAME, bias=True)
            value = graph.unary("Relu", graph.add(value, inner, "residual"))
    _probabilities(graph, value, 10)


@variants({"mlperf_tiny_kws": {"channels": 64, "blocks": 4}}, {"mlperf_tiny_kws": {"channels": 16, "blocks": 2}})
def keyword_spotting(graph: Builder, batch: int, *, channels: int, blocks: int) -> None:
    """DS-CNN on Speech Commands: 49 frames of 10 cepstral features (batch, 1, 49, 10) to probabilities (batch, 12)."""
    value = graph.input("features", (batch, 1, 49, 10))
    value = _layer(graph, value, channels, (10, 4), "stem", stride=2)
    for block in range(blocks):
        value = _separable(graph, value, channels, 1, f"block{block}")
    _probabilities(graph, value, 12)


@variants({"mlperf_tiny_vww": {"stem": 8, "blocks": SEPARABLE}}, {"mlperf_tiny_vww": {"blocks": SEPARABLE[:4]}})
def visual_wake_words(graph: Builder, batch: int, image: int, *, stem: int, blocks: Sequence[tuple[int, int]]) -> None:
    """MobileNetV1 at a quarter of its width: pixels (batch, 3, image, image) to probabilities (batch, 2).

    `blocks` holds output channels and stride of each separable convolution.
    """
    value = graph.input("pixels", (batch, 3, image, image))
    value = _layer(graph, value, stem, 3, "stem", stride=2)
    for block, (channels, stride) in enumerate(blocks):
        value = _separable(graph, value, channels, stride, f"block{block}")
    _probabilities(graph, value, 2)


@variants(
    {"mlperf_tiny_ad": {"hidden": (128, 128, 128, 128, 8, 128, 128, 128, 128)}},
    {"mlperf_tiny_ad": {"features": 64, "hidden": (32, 8, 32)}},
)
def anomaly_detection(graph: Builder, batch: int, features: int, *, hidden: Sequence[int]) -> None:
    """Autoencoder on machine sounds: log-mel features (batch, features) to their reconstruction."""
    value = graph.input("features", (batch, features))
    for layer, width in enumerate(hidden):
        with graph.scope(f"layer{layer}"):
            normed = batch_norm(graph, linear(graph, value, width, "dense"), epsilon=EPSILON)
            value = activate(graph, normed, "relu")
    graph.output(linear(graph, value, features, "reconstruction"), "reconstructed")


def _layer(
    graph: Builder,
    value: Value,
    channels: int,
    kernel: int | tuple[int, int],
    name: str,
    stride: int = 1,
    groups: int = 1,
    activation: Activation = "relu",
) -> Value:
    return conv_norm(
        graph,
        value,
        channels,
        kernel,
        name,
        stride,
        SAME,
        groups,
        bias=True,
        activation=activation,
        epsilon=EPSILON,
    )


def _separable(graph: Builder, value: Value, channels: int, stride: int, name: str) -> Value:
    """A 3x3 convolution of each channel, then a 1x1 convolution across channels."""
    with graph.scope(name):
        value = _layer(graph, value, value.shape[1], 3, "depthwise", stride, groups=value.shape[1])
        return _layer(graph, value, channels, 1, "pointwise")


def _probabilities(graph: Builder, value: Value, classes: int) -> None:
    graph.output(graph.unary("Softmax", pooled_classifier(graph, value, classes), axis=-1), "probabilities")
