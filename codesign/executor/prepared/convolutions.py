"""Convolution of images and sequences in float32, computed in channels-last order.

The result keeps the shape (batch, channels, ...) and says by its strides that channels lie closest together, so that
every other operator takes it as it takes any array, and the next convolution finds it in the order it wants.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from codesign.errors import BadModel
from codesign.executor.epilogue import follow
from codesign.executor.prepared.epilogue import Epilogue, is_vector, split
from codesign.executor.prepared.images import channels_first, channels_last, padded, pair
from codesign.executor.prepared.lanes import Lanes
from codesign.executor.prepared.panels import Layout, Panels, Sliding
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
        return None if epilogue.addend else _Depthwise(op, graph, epilogue, weights)
    return _Convolution(op, graph, epilogue, weights, groups, window)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the shape of an image decides: the window, zeros to add around a small image, how the product is done."""

    sliding: Sliding
    spatial: tuple[int, ...]
    shape: tuple[int, ...]
    around: tuple[tuple[int, int], tuple[int, int]] | None = None
    layout: Layout | None = None


class _Windowed:
    """A convolution of one kernel: plans by the shape of the image."""

    def __init__(self, op: Op, graph: Graph, epilogue: Epilogue) -> None:
        self._op, self._epilogue = op, epilogue
        self._filters = graph.tensors[op.inputs[1]].shape
        self._plans: dict[tuple[int, ...], _Plan] = {}

    def _plan(self, image: tuple[int, ...]) -> _Plan:
        window, _ = convolution_window(self._op, image, self._filters)
        spatial = window.outputs(image[2:])
        sliding = Sliding(
            pair(window.kernel), pair(window.stride), pair(window.dilation), pair(window.before, 0), pair(spatial)
        )
        return self._completed(image, window, _Plan(sliding, spatial, (image[0], self._filters[0], *spatial)))

    def _completed(self, image: tuple[int, ...], window: Window, plan: _Plan) -> _Plan:
        return plan

    def _result(self, plan: _Plan, pixels: Array, addend: Array | None) -> Array:
        raise NotImplementedError

    def __call__(self, read: Read) -> list[Array] | None:
        image, found = read(self._op.inputs[0]), self._epilogue
        plan = self._plans.get(image.shape)
        if plan is None:
            plan = self._plans[image.shape] = self._plan(image.shape)
        addend = read(found.addend) if found.addend else None
        if image.dtype != np.float32 or (addend is not None and addend.shape != plan.shape):
            return None
        result = self._result(plan, channels_last(image), None if addend is None else channels_last(addend))
        outcome = channels_first(result, len(plan.spatial))
        return [follow(found.rest, outcome, [image], read)] if found.rest else [outcome]


class _Convolution(_Windowed):
    """weights (outputs, depth, *kernel) as (groups, taps, depth, outputs of a group)."""

    def __init__(
        self, op: Op, graph: Graph, epilogue: Epilogue, weights: WeightStore, groups: int, window: Window
    ) -> None:
        super().__init__(op, graph, epilogue)
        outputs, depth, *kernel = self._filters
        # Then a pixel is all that a line of the kernel covers.
        self._merged = groups == 1 and depth < FEW_CHANNELS and window.dilation[-1] == 1
        taps = (pair(tuple(kernel))[0], -1) if self._merged else (-1, depth)

        def order(filters: Array) -> Array:
            last = np.moveaxis(filters.reshape(groups, outputs // groups, depth, -1), (1, 2), (3, 2))
            return last.reshape(groups, *taps, outputs // groups)

        self._panels = Panels(weights, op.inputs[1], epilogue, groups, outputs // groups, order)

    def _completed(self, image: tuple[int, ...], window: Window, plan: _Plan) -> _Plan:
        channels, height, width = image[1], *pair(image[2:])
        sliding = plan.sliding
        if not self._merged:
            return replace(plan, layout=self._panels.layout((image[0], height, width, channels), sliding))
        before, after = sliding.before, pair(window.after, 0)
        seen = Sliding((sliding.kernel[0], 1), (sliding.stride[0], 1), (sliding.dilation[0], 1), (0, 0), sliding.out)
        merged = (image[0], height + before[0] + after[0], sliding.out[1], sliding.kernel[1] * channels)
        return replace(plan, around=(before, after), layout=self._panels.layout(merged, seen))

    def _result(self, plan: _Plan, pixels: Array, addend: Array | None) -> Array:
        assert plan.layout is not None
        if plan.around is not None:
            whole = padded(pixels, *plan.around)
            batch_step, row_step, pixel_step, channel_step = whole.strides
            pixels = np.lib.stride_tricks.as_strided(
                whole,
                (*whole.shape[:2], plan.sliding.out[1], plan.sliding.kernel[1] * whole.shape[3]),
                (batch_step, row_step, pixel_step * plan.sliding.stride[1], channel_step),
            )
        return self._panels.multiply(plan.layout, pixels, addend)


class _Depthwise(_Windowed):
    """weights (channels, 1, *kernel): each channel with one filter of its own."""

    def __init__(self, op: Op, graph: Graph, epilogue: Epilogue, weights: WeightStore) -> None:
        super().__init__(op, graph, epilogue)
        self._lanes = Lanes(weights, op.inputs[1], epilogue)

    def _result(self, plan: _Plan, pixels: Array, addend: Array | None) -> Array:
        return self._lanes.multiply(pixels, plan.sliding)
