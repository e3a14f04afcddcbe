"""The four MLPerf Tiny reference networks as int8 work, layer by layer, for the classes that are validated on them.

Shapes: Banbury et al., "MLPerf Tiny Benchmark", NeurIPS 2021 Datasets and Benchmarks, and its reference models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from codesign.work import Contraction, Convolution, Map, Operand, Reduce, Work


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer by its kind, and the work it is."""

    kind: str
    work: Work


@cache
def networks() -> dict[str, tuple[Layer, ...]]:
    """Layers of `ic` (ResNet-8), `kws` (DS-CNN), `vww` (MobileNetV1 0.25) and `ad` (autoencoder), in order."""
    builders: dict[str, Callable[[], Iterator[Layer]]] = {
        "ic": _image_classification,
        "kws": _keyword_spotting,
        "vww": _visual_wake_words,
        "ad": _anomaly_detection,
    }
    return {name: tuple(build()) for name, build in builders.items()}


def _image_classification() -> Iterator[Layer]:
    yield _convolution((32, 32), 3, 16)
    size, channels = 32, 16
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        yield _convolution((size, size), channels, outputs, stride=stride)
        yield _convolution((size // stride, size // stride), outputs, outputs)
        if stride > 1:
            yield _convolution((size, size), channels, outputs, kernel=(1, 1), stride=stride, activation=False)
        size, channels = size // stride, outputs
        yield _add(size * size * channels)
    yield _average_pool(size * size, channels)
    yield _dense(channels, 10, activation=False)
    yield _softmax(10)


def _keyword_spotting() -> Iterator[Layer]:
    yield _convolution((49, 10), 1, 64, kernel=(10, 4), stride=2)
    for _ in range(4):
        yield _depthwise((25, 5), 64)
        yield _convolution((25, 5), 64, 64, kernel=(1, 1))
    yield _average_pool(25 * 5, 64)
    yield _dense(64, 12, activation=False)
    yield _softmax(12)


def _visual_wake_words() -> Iterator[Layer]:
    yield _convolution((96, 96), 3, 8, stride=2)
    size, channels = 48, 8
    stages = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *((128, 1),) * 5, (256, 2), (256, 1))
    for outputs, stride in stages:
        yield _depthwise((size, size), channels, stride)
        size //= stride
        yield _convolution((size, size), channels, outputs, kernel=(1, 1))
        channels = outputs
    yield _average_pool(size * size, channels)
    yield _dense(channels, 2, activation=False)
    yield _softmax(2)


def _anomaly_detection() -> Iterator[Layer]:
    widths = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)
    for position, (inputs, outputs) in enumerate(pairwise(widths)):
        yield _dense(inputs, outputs, activation=position < len(widths) - 2)


def _convolution(
    size: tuple[int, int],
    channels: int,
    outputs: int,
    kernel: tuple[int, int] = (3, 3),
    stride: int = 1,
    activation: bool = True,
) -> Layer:
    return Layer("Conv", _windowed(size, channels, outputs, kernel, stride, 1, activation))


def _depthwise(size: tuple[int, int], channels: int, stride: int = 1) -> Layer:
    return Layer("DepthwiseConv", _windowed(size, channels, channels, (3, 3), stride, channels, True))


def _windowed(
    size: tuple[int, int],
    channels: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: int,
    groups: int,
    activation: bool,
) -> Contraction:
    """A convolution with as much padding as keeps ceil(size / stride) outputs."""
    out = (-(-size[0] // stride), -(-size[1] // stride))
    positions, taps = out[0] * out[1], kernel[0] * kernel[1]
    geometry = Convolution(size, out, kernel, (stride, stride), (1, 1), groups, channels, outputs)
    return Contraction(
        kind="Conv",
        reads=(
            Operand(size[0] * size[1] * channels, "int8"),
            Operand(outputs * channels // groups * taps, "int8", "weight"),
            Operand(outputs, "int32", "weight"),
        ),
        writes=(Operand(positions * outputs, "int8"),),
        epilogue_flops=positions * outputs if activation else 0,
        batch=groups,
        m=positions,
        n=outputs // groups,
        k=taps * channels // groups,
        dtype="int8",
        convolution=geometry,
    )


def _dense(inputs: int, outputs: int, activation: bool) -> Layer:
    reads = (Operand(inputs, "int8"), Operand(inputs * outputs, "int8", "weight"), Operand(outputs, "int32", "weight"))
    work = Contraction(
        kind="Gemm",
        reads=reads,
        writes=(Operand(outputs, "int8"),),
        epilogue_flops=outputs if activation else 0,
        batch=1,
        m=1,
        n=outputs,
        k=inputs,
        dtype="int8",
    )
    return Layer("FullyConnected", work)


def _add(elements: int) -> Layer:
    side = Operand(elements, "int8")
    return Layer("Add", Map(kind="Add", reads=(side, side), writes=(side,), elements=elements, dtype="int8"))


def _average_pool(positions: int, channels: int) -> Layer:
    work = Reduce(
        kind="GlobalAveragePool",
        reads=(Operand(positions * channels, "int8"),),
        writes=(Operand(channels, "int8"),),
        rows=channels,
        columns=positions,
        dtype="int8",
    )
    return Layer("AvgPool", work)


def _softmax(classes: int) -> Layer:
    row = Operand(classes, "int8")
    work = Reduce(
        kind="Softmax", reads=(row,), writes=(row,), rows=1, columns=classes, passes=3, flops_per_element=5.0,
        dtype="int8",
    )  # fmt: skip
    return Layer("Softmax", work)
