"""Convolution of images and sequences in float32, computed in channels-last order.

The result keeps the shape (batch, channels, ...) and says by its strides that channels lie closest together, so that
every other operator takes it as it takes any array, and the next convolution finds it in the order it wants.
"""

from __future__ import annotations

import numpy as np

from codesign.errors import BadModel
from codesign.executor.epilogue import follow
from codesign.executor.prepared.epilogue import Epilogue, is_vector, split
from codesign.executor.prepared.images import channels_first, channels_last, padded
from codesign.executor.prepared.lanes import Lanes
from codesign.executor.prepared.panels import Panels, Sliding
from codesign.executor.prepared.step import Prepared, Read, is_weight
from codesign.executor.weights import WeightStore
from codesign.graph import Graph, Op
from codesign.ops.base import Array
from codesign.ops.convolution import convolution_window
from codesign.ops.window import Window

FEW_CHANNELS = 16
"""An image with fewer is copied with its padding, so that a line of the kernel is one run of memory."""
LEAST_DEPTH = 8
"""Channels of a group, at the least, that are worth a product of their own."""


def prepare(op: Op, graph: Graph, weights: WeightStore) -> Prepared | None:
    image, kernel = graph.tensors[op.inputs[0]], op.inputs[1]
    rank = len(image.shape)
    if not is_weight(graph, kernel, rank) or rank not in (3, 4) or image.dtype != "float32":
        return None
    filters = graph.tensors[kernel].shape
    try:
        window, groups = convolution_window(op, image.shape, filters)
    except BadModel:
        return None
    bias = op.inputs[2] if len(op.inputs) > 2 else ""
    if min((*window.before, *window.after)) < 0 or (bias and not is_weight(graph, bias, 1)) or 0 in image.shape:
        return None
    separate = groups == image.shape[1] == filters[0] and groups > 1
    if not separate and groups > 1 and filters[1] < LEAST_DEPTH:
        return None
    epilogue = split(
        op, graph, lambda name: is_vector(graph, name, 1, rank, filters[0]), bias, activations=not separate
    )
    if separate:
        return None if epilogue.addend else _Depthwise(op, epilogue, weights)
    return _Convolution(op, graph, epilogue, weights, groups, window)


class _Convolution:
    """weights (outputs, depth, *kernel) as (groups, taps, depth, outputs of a group)."""

    def __init__(
        self, op: Op, graph: Graph, epilogue: Epilogue, weights: WeightStore, groups: int, window: Window
    ) -> None:
        self._op, self._epilogue = op, epilogue
        self._filters = graph.tensors[op.inputs[1]].shape
        depth, lines = self._filters[1], _pair(self._filters[2:])[0]
        self._merged = groups == 1 and depth < FEW_CHANNELS and window.dilation[-1] == 1

        def order(filters: Array) -> Array:
            kernel = filters.reshape(groups, filters.shape[0] // groups, depth, -1).transpose(0, 3, 2, 1)
            return kernel.reshape(groups, lines, -1, kernel.shape[3]) if self._merged else kernel

        self._panels = Panels(weights, op.inputs[1], epilogue, groups, order)

    def __call__(self, read: Read) -> list[Array] | None:
        image, found = read(self._op.inputs[0]), self._epilogue
        window, _ = convolution_window(self._op, image.shape, self._filters)
        spatial = window.outputs(image.shape[2:])
        addend = read(found.addend) if found.addend else None
        shape = (image.shape[0], self._filters[0], *spatial)
        if image.dtype != np.float32 or (addend is not None and addend.shape != shape):
            return None
        pixels = channels_last(image)
        sliding = Sliding(
            _pair(window.kernel), _pair(window.stride), _pair(window.dilation), _pair(window.before, 0), _pair(spatial)
        )
        if self._merged:
            pixels, sliding = _merged(pixels, sliding, _pair(window.after, 0))
        result = np.empty((shape[0], *sliding.out, shape[1]), np.float32)
        self._panels.multiply(pixels, sliding, result, None if addend is None else channels_last(addend))
        outcome = channels_first(result, len(spatial))
        return [follow(found.rest, outcome, [image], read)] if found.rest else [outcome]


def _merged(pixels: Array, sliding: Sliding, after: tuple[int, int]) -> tuple[Array, Sliding]:
    """A copy with the padding, seen so that one pixel holds all that a line of the kernel covers."""
    whole = padded(pixels, sliding.before, after)
    batch, height, _, channels = whole.shape
    width = sliding.kernel[1] * channels
    steps = whole.strides
    seen = np.lib.stride_tricks.as_strided(
        whole,
        (batch, height, sliding.out[1], width),
        (steps[0], steps[1], steps[2] * sliding.stride[1], steps[3]),
    )
    return seen, Sliding((sliding.kernel[0], 1), (sliding.stride[0], 1), (sliding.dilation[0], 1), (0, 0), sliding.out)


class _Depthwise:
    """weights (channels, 1, *kernel): each channel with one filter of its own."""

    def __init__(self, op: Op, epilogue: Epilogue, weights: WeightStore) -> None:
        self._op, self._epilogue = op, epilogue
        self._lanes = Lanes(weights, op.inputs[1], epilogue)

    def __call__(self, read: Read) -> list[Array] | None:
        image, found = read(self._op.inputs[0]), self._epilogue
        filters = (image.shape[1], 1, *self._lanes.kernel)
        window, _ = convolution_window(self._op, image.shape, filters)
        spatial = window.outputs(image.shape[2:])
        if image.dtype != np.float32:
            return None
        sliding = Sliding(
            _pair(window.kernel), _pair(window.stride), _pair(window.dilation), _pair(window.before, 0), _pair(spatial)
        )
        result = self._lanes.multiply(channels_last(image), sliding)
        outcome = channels_first(result, len(spatial))
        return [follow(found.rest, outcome, [image], read)] if found.rest else [outcome]


def _pair(values: tuple[int, ...], missing: int = 1) -> tuple[int, int]:
    """One or two extents as two, the leading one `missing`."""
    return (missing, *values)[-2], values[-1]
