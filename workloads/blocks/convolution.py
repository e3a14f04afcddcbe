"""Convolutions with their normalisation and activation, pooling, and the head that classifies an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from workloads.blocks.activation import Activation, activate
from workloads.blocks.dense import classifier, layer_norm
from workloads.builder import Builder, Value

Size = int | tuple[int, ...]
"""The same along every extent, or one for each."""

Padding = int | Literal["same"]


def convolution(
    graph: Builder,
    value: Value,
    channels: int,
    kernel: Size,
    name: str,
    stride: Size = 1,
    padding: Padding = 0,
    groups: int = 1,
    bias: bool = False,
) -> Value:
    """A convolution of (batch, channels, height, width), or of more or fewer extents.

    `padding` is a number of pixels on each side, or "same" as TensorFlow means it: the output is the input divided by
    the stride, rounded up, and an odd pixel of padding goes to the end.
    """
    kernel, stride = (_each(size, value.rank - 2) for size in (kernel, stride))
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


def transposed_convolution(
    graph: Builder, value: Value, channels: int, factor: int, name: str, bias: bool = False
) -> Value:
    """`factor` times the extents: each pixel becomes a block of its own, `factor` along each side."""
    extents = value.shape[2:]
    kernel = (factor,) * len(extents)
    with graph.scope(name):
        inputs = [value, graph.weight("weight", value.shape[1], channels, *kernel)]
        inputs += [graph.weight("bias", channels)] if bias else []
        shape = (value.shape[0], channels, *(factor * extent for extent in extents))
        [result] = graph.node("ConvTranspose", inputs, [shape], kernel_shape=kernel, strides=kernel)
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
    kernel: Size,
    name: str,
    stride: Size = 1,
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


def depthwise(graph: Builder, value: Value, kernel: int, name: str, stride: int = 1, bias: bool = True) -> Value:
    """Each channel convolved alone, the extents kept where the stride is one."""
    return convolution(graph, value, value.shape[1], kernel, name, stride, kernel // 2, value.shape[1], bias)


def group_norm(
    graph: Builder, value: Value, name: str, groups: int = 1, epsilon: float = 1e-5, bias: bool = True
) -> Value:
    """Normalised over each group of channels with height and width; one group unless stated. A bias that is not learned
    is zero, as the operator has to have one."""
    channels = value.shape[1]
    with graph.scope(name):
        weight = graph.weight("weight", channels)
        shift = graph.weight("bias", channels) if bias else graph.constant("bias", np.zeros(channels, np.float32))
        inputs = [value, weight, shift]
        [result] = graph.node("GroupNormalization", inputs, [value.shape], num_groups=groups, epsilon=epsilon)
        return result


def instance_norm(graph: Builder, value: Value, name: str, epsilon: float = 1e-5) -> Value:
    """Each channel of each image normalised alone, without learned values."""
    channels = value.shape[1]
    with graph.scope(name):
        ones, zeros = (graph.constant(part, np.full(channels, v, np.float32)) for part, v in (("one", 1), ("zero", 0)))
        [result] = graph.node("InstanceNormalization", [value, ones, zeros], [value.shape], epsilon=epsilon)
        return result


def channel_norm(graph: Builder, value: Value, name: str, epsilon: float = 1e-6, bias: bool = True) -> Value:
    """Layer norm over the channels of each pixel: channels moved last and back, as exporters write it."""
    with graph.scope(name):
        last = graph.transpose(value, (0, 2, 3, 1), "channels_last")
        return graph.transpose(layer_norm(graph, last, "norm", epsilon, bias), (0, 3, 1, 2), "channels_first")


def conv_feed_forward(
    graph: Builder,
    value: Value,
    hidden: int,
    name: str = "mlp",
    activation: Activation = "gelu",
    bias: bool = True,
    norm: bool = False,
) -> Value:
    """The feed-forward layers of transformers as 1x1 convolutions, each with a batch norm after it if `norm` says."""
    with graph.scope(name):
        inner = convolution(graph, value, hidden, 1, "up", bias=bias)
        inner = activate(graph, batch_norm(graph, inner, "norm1") if norm else inner, activation)
        inner = convolution(graph, inner, value.shape[1], 1, "down", bias=bias)
        return batch_norm(graph, inner, "norm2") if norm else inner


def squeeze_excite(
    graph: Builder,
    value: Value,
    hidden: int | None,
    name: str = "squeeze_excite",
    gate: Activation = "sigmoid",
) -> Value:
    """`value` scaled by a gate for each channel, computed from the channels' means by a perceptron of `hidden` channels
    (Hu et al. 2018, arXiv:1709.01507), or by one layer if `hidden` is None (effective SE, Lee & Park 2020,
    arXiv:1911.06667)."""
    batch, channels = value.shape[:2]
    with graph.scope(name):
        [inner] = graph.node("GlobalAveragePool", [value], [(batch, channels, 1, 1)], "squeeze")
        if hidden is not None:
            inner = activate(graph, convolution(graph, inner, hidden, 1, "reduce", bias=True), "relu")
        inner = convolution(graph, inner, channels, 1, "expand", bias=True)
        return graph.multiply(value, activate(graph, inner, gate, "gate"), "scaled")


def max_pool(
    graph: Builder,
    value: Value,
    kernel: int,
    stride: int,
    padding: int = 0,
    name: str = "pool",
    ceil: bool = False,
) -> Value:
    """The largest of each window; with `ceil` a last window that the extent only partly fills counts."""
    return _pool(graph, "MaxPool", value, kernel, stride, padding, name, ceil)


def adaptive_average_pool(graph: Builder, value: Value, extents: tuple[int, int], name: str = "pool") -> Value:
    """The means of `extents` windows that cover the image, the i-th of n along an extent from floor(i extent / n) to
    ceil((i + 1) extent / n); windows overlap where the division leaves a rest."""
    height, width = value.shape[2:]
    if height % extents[0] == 0 and width % extents[1] == 0:
        window = (height // extents[0], width // extents[1])
        return value if window == (1, 1) else _pool(graph, "AveragePool", value, window, window, 0, name)
    with graph.scope(name):
        for axis, count in ((2, extents[0]), (3, extents[1])):
            extent = value.shape[axis]
            bounds = [(i * extent // count, -(-(i + 1) * extent // count)) for i in range(count)]
            windows = [graph.slice(value, start, stop, axis, "window") for start, stop in bounds]
            means = [graph.reduce("ReduceMean", window, [axis], "mean", keepdims=True) for window in windows]
            value = graph.concat(means, axis, "means")
        return value


def average_pool(
    graph: Builder,
    value: Value,
    kernel: int,
    stride: int,
    padding: int = 0,
    name: str = "pool",
    ceil: bool = False,
) -> Value:
    """The mean of each window; padding is not counted, nor is what `ceil` adds to the extent."""
    return _pool(graph, "AveragePool", value, kernel, stride, padding, name, ceil, count_include_pad=0)


def pooled_classifier(graph: Builder, value: Value, classes: int, norm: bool = False) -> Value:
    """Global average pooling, a batch norm if `norm` says, then a linear classifier: (batch, classes)."""
    batch, channels = value.shape[:2]
    [pooled] = graph.node("GlobalAveragePool", [value], [(batch, channels, 1, 1)], "pool")
    [flat] = graph.node("Flatten", [pooled], [(batch, channels)], axis=1)
    return classifier(graph, batch_norm(graph, flat) if norm else flat, classes)


def _pool(
    graph: Builder,
    kind: str,
    value: Value,
    kernel: Size,
    stride: Size,
    padding: int,
    name: str,
    ceil: bool = False,
    **attributes: Any,
) -> Value:
    window, steps = (_each(size, value.rank - 2) for size in (kernel, stride))
    pads = [padding] * (2 * len(window))
    spare = [step - 1 if ceil else 0 for step in steps]
    extents = [extent + more for extent, more in zip(value.shape[2:], spare, strict=True)]
    shape = (*value.shape[:2], *_output_extents(extents, window, steps, pads))
    attributes |= {"ceil_mode": 1} if ceil else {}
    [result] = graph.node(kind, [value], [shape], name, kernel_shape=window, strides=steps, pads=pads, **attributes)
    return result


def _each(size: Size, extents: int) -> tuple[int, ...]:
    return (size,) * extents if isinstance(size, int) else size


def _pads(extents: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Padding) -> list[int]:
    """ONNX's pads: all begins, then all ends."""
    if padding != "same":
        return [padding] * (2 * len(extents))
    totals = [
        max((-(-extent // step) - 1) * step + size - extent, 0)
        for extent, size, step in zip(extents, kernel, stride, strict=True)
    ]
    return [total // 2 for total in totals] + [total - total // 2 for total in totals]


def _output_extents(
    extents: Sequence[int], kernel: Sequence[int], stride: Sequence[int], pads: Sequence[int]
) -> list[int]:
    padded = np.asarray(extents) + pads[: len(extents)] + pads[len(extents) :]
    return [int(extent) for extent in (padded - np.asarray(kernel)) // np.asarray(stride) + 1]
