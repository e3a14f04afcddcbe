"""Pooling of images and sequences in float32, in channels-last order."""

from __future__ import annotations

import numpy as np

from codesign.executor.epilogue import follow
from codesign.executor.prepared.images import channels_first, channels_last, pair
from codesign.executor.prepared.lanes import Slide, layout, slide
from codesign.executor.prepared.panels import Sliding
from codesign.executor.prepared.step import Prepared, Read
from codesign.executor.weights import WeightStore
from codesign.graph import Graph, Op
from codesign.ops.base import Array
from codesign.ops.pooling import pool_window

_WAYS = {"MaxPool": "largest", "AveragePool": "mean", "GlobalAveragePool": "mean", "GlobalMaxPool": "largest"}


def prepare(op: Op, graph: Graph, weights: WeightStore) -> Prepared | None:
    image = graph.tensors[op.inputs[0]]
    plain = image.dtype == "float32" and len(image.shape) in (3, 4) and len(op.outputs) == 1 and 0 not in image.shape
    # A mean over padding that hangs over the end counts in its own way.
    uneven = op.kind == "AveragePool" and op.attributes.get("ceil_mode", 0)
    if not plain or uneven or min(op.attributes.get("pads", ()), default=0) < 0:
        return None
    return _Pooling(op)


class _Pooling:
    def __init__(self, op: Op) -> None:
        self._op = op
        self._padded = bool(op.attributes.get("count_include_pad", 0))
        self._slides: dict[tuple[int, ...], Slide] = {}

    def __call__(self, read: Read) -> list[Array] | None:
        image = read(self._op.inputs[0])
        if image.dtype != np.float32:
            return None
        found = self._slides.get(image.shape)
        if found is None:
            batch, channels, *spatial = image.shape
            pixels = (batch, *pair(tuple(spatial)), channels)
            found = layout(pixels, self._sliding(image.shape), _WAYS[self._op.kind], padded=self._padded)
            self._slides[image.shape] = found
        result = slide(found, channels_last(image))
        outcome = channels_first(result, image.ndim - 2)
        return [follow(self._op.epilogue, outcome, [image], read)] if self._op.epilogue else [outcome]

    def _sliding(self, image: tuple[int, ...]) -> Sliding:
        if self._op.kind.startswith("Global"):
            return Sliding(kernel=pair(image[2:]))
        window, counts = pool_window(self._op, image)
        return Sliding(
            pair(window.kernel), pair(window.stride), pair(window.dilation), pair(window.before, 0), pair(counts)
        )
