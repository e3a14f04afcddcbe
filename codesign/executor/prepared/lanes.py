"""Windows over each channel alone: depthwise convolution with its weights, and pooling without any."""

from __future__ import annotations

import math

import numpy as np

from codesign.executor.kernels import lanes
from codesign.executor.kernels.threads import share, thread_count
from codesign.executor.prepared.epilogue import Epilogue
from codesign.executor.prepared.panels import Sliding
from codesign.executor.prepared.step import Packed, address
from codesign.executor.weights import WeightStore
from codesign.ops.base import Array

TASK_ELEMENTS = 20_000
"""Least work of a task in multiplications or comparisons of whole vectors, about 20 microseconds."""


class Lanes:
    """Filters (channels, 1, *kernel) as (*kernel, channels)."""

    def __init__(self, weights: WeightStore, name: str, epilogue: Epilogue) -> None:
        self._epilogue = epilogue

        def order(filters: Array, bias: Array | None = None) -> tuple[Array, ...]:
            moved = np.ascontiguousarray(np.moveaxis(filters[:, 0], 0, -1))
            return moved, np.zeros(filters.shape[0], np.float32) if bias is None else bias.ravel()

        self._packed = Packed(weights, (name, epilogue.bias) if epilogue.bias else (name,), order)

    def multiply(self, pixels: Array, sliding: Sliding) -> Array:
        """The correlation of `pixels` (batch, height, width, channels), channels last as in the result."""
        (_, filters), (_, bias) = self._packed()
        return slide(pixels, sliding, "multiply", filters, bias, self._epilogue.low, self._epilogue.high)


def slide(
    pixels: Array,
    sliding: Sliding,
    way: str,
    filters: int = 0,
    bias: int = 0,
    low: float = -math.inf,
    high: float = math.inf,
    padded: bool = False,
) -> Array:
    """What the window makes of each channel: "multiply" by filters from a bias on (addresses), "largest", or "mean",
    with `padded` of the padding's zeros too."""
    batch, height, width, channels = pixels.shape
    lines = batch * sliding.out[0]
    effort = lines * sliding.out[1] * math.prod(sliding.kernel) * -(-channels // lanes.LANES)
    tasks = max(min(lines, 4 * thread_count(), effort // TASK_ELEMENTS), 1)
    table = np.array(
        [
            batch, height, width, channels, *sliding.kernel, *sliding.stride, *sliding.dilation, *sliding.before,
            *sliding.out, tasks, {"multiply": lanes.MULTIPLY, "largest": lanes.LARGEST, "mean": lanes.MEAN}[way],
            padded,
        ],
        np.int64,
    )  # fmt: skip
    result = np.empty((batch, *sliding.out, channels), np.float32)
    batch_step, row_step, pixel_step, _ = pixels.strides
    share(
        lanes.slide_rows, tasks, address(table), address(pixels), batch_step, row_step, pixel_step,
        filters, bias, address(result), low, high,
    )  # fmt: skip
    return result
