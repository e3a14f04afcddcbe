"""Convolutions with their normalisation and activation, pooling, and the head that classifies an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from workloads.blocks.activation import Activation, activate
from workloads.blocks.dense import classifier
from workloads.builder import Builder, Value

Padding = int | Literal["same"]


def convolution(
    graph: Builder,
    value: Value,
    channels: int,
    kernel: int | tuple[int, int],
    name: str,
    stride: int | tuple[int, int] = 1,
    padding: Padding = 0,
    groups: int = 1,
    bias: bool = False,
) -> Value:
    """A 2-D convolution of (batch, channels, height, width).

    `padding` is a number of pixels on each side, or "same" as TensorFlow means it: the output is the input divided by
    the stride, rounded up, and an odd pixel of padding goes to the end.
    """
    kernel, stride = _pair(kernel), _pair(stride)
    pads = _pads(value.shape[2:], kernel, stride, padding)
    spatial = _output_extents(value.shape[2:], kernel, stride, pads)
    with graph.scope(name):
        inputs = [value, graph.weight("weight", channels, value.shape[1] // groups, *kernel)]
        inputs += [graph.weight("bias", channels)] if bias else []
        [result] = graph.node(
            "Conv",
            inputs,
            [(value.shape[0], channels, *spatial)],
            kernel_shape=kernel,
            strides=stride,
            pads=pads,
            group=groups,
        )
        return result


def batch_norm(graph: Builder, value: Value, name: str = "norm", epsilon: float = 1e-5) -> Value:
    with graph.scope(name):
        parameters = [graph.weight(part, value.shape[1]) for part in ("weight", "bias", "mean", "variance")]
        [result] = graph.node("BatchNormalization", [value, *parameters], [value.shape], epsilon=epsilon)
        return result


def conv_norm(
    graph: Builder,
    value: Value,
    channels: int,
    kernel: int | tuple[int, int],
    name: str,
    stride: int | tuple[int, int] = 1,
    padding: Padding = 0,
    groups: int = 1,
    bias: bool = False,
    activation: Activation = "relu",
    epsilon: float = 1e-5,
) -> Value:
    """Convolution, batch norm, activation: three nodes, left for a transform to fuse."""
    with graph.scope(name):
        value = convolution(graph, value, channels, kernel, "convolution", stride, padding, groups, bias)
        return activate(graph, batch_norm(graph, value, epsilon=epsilon), activation)


def max_pool(graph: Builder, value: Value, kernel: int, stride: int, padding: int = 0, name: str = "pool") -> Value:
    return _pool(graph, "MaxPool", value, kernel, stride, padding, name)


def average_pool(graph: Builder, value: Value, kernel: int, stride: int, padding: int = 0, name: str = "pool") -> Value:
    """The mean of each window; padding is not counted."""
    return _pool(graph, "AveragePool", value, kernel, stride, padding, name, count_include_pad=0)


def pooled_classifier(graph: Builder, value: Value, classes: int) -> Value:
    """Global average pooling, then a linear classifier: (batch, classes)."""
    batch, channels = value.shape[:2]
    [pooled] = graph.node("GlobalAveragePool", [value], [(batch, channels, 1, 1)], "pool")
    [flat] = graph.node("Flatten", [pooled], [(batch, channels)], axis=1)
    return classifier(graph, flat, classes)


def _pool(
    graph: Builder, kind: str, value: Value, kernel: int, stride: int, padding: int, name: str, **attributes: Any
) -> Value:
    window, steps, pads = (kernel, kernel), (stride, stride), [padding] * 4
    shape = (*value.shape[:2], *_output_extents(value.shape[2:], window, steps, pads))
    [result] = graph.node(kind, [value], [shape], name, kernel_shape=window, strides=steps, pads=pads, **attributes)
    return result


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _pads(extents: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Padding) -> list[int]:
    """ONNX's pads: all begins, then all ends."""
    if padding != "same":
        return [padding] * 4
    totals = [
        max((-(-extent // step) - 1) * step + size - extent, 0)
        for extent, size, step in zip(extents, kernel, stride, strict=True)
    ]
    return [total // 2 for total in totals] + [total - total // 2 for total in totals]


def _output_extents(
    extents: Sequence[int], kernel: Sequence[int], stride: Sequence[int], pads: Sequence[int]
) -> list[int]:
    padded = np.asarray(extents) + pads[:2] + pads[2:]
    return [int(extent) for extent in (padded - np.asarray(kernel)) // np.asarray(stride) + 1]
