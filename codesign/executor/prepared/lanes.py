"""Windows over each channel alone: depthwise convolution, of float32 and of bytes, and pooling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from codesign.executor.kernels import lanes
from codesign.executor.kernels.threads import share, thread_count
from codesign.executor.prepared.panels import Finish, Sliding
from codesign.executor.prepared.step import Packed, address
from codesign.ops.base import Array

TASK_ELEMENTS = 20_000
"""Least work of a task in multiplications or comparisons of whole vectors, about 20 microseconds."""
_WAYS = {
    "multiply": lanes.MULTIPLY, "multiply bytes": lanes.MULTIPLY_BYTES, "largest": lanes.LARGEST, "mean": lanes.MEAN,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slide:
    """How one shape of image is gone over: the kernel's table, where it lies, its tasks, shape and type of the result,
    a pixel of padding."""

    table: Array
    place: int
    tasks: int
    result: tuple[int, ...]
    finish: Finish
    padding: Array


def layout(
    image: tuple[int, ...], sliding: Sliding, way: str, finish: Finish | None = None, padded: bool = False
) -> Slide:
    """How a window goes over an image of shape (batch, height, width, channels): "multiply" and "multiply bytes" by
    filters, "largest", or "mean", with `padded` of the padding's zeros too."""
    finish = finish or Finish()
    batch, height, width, channels = image
    lines = batch * sliding.out[0]
    effort = lines * sliding.out[1] * math.prod(sliding.kernel) * -(-channels // lanes.LANES)
    tasks = max(min(lines, 4 * thread_count(), effort // TASK_ELEMENTS), 1)
    kind = np.dtype(finish.kind)
    table = np.array(
        [
            batch, height, width, channels, *sliding.kernel, *sliding.stride, *sliding.dilation, *sliding.before,
            *sliding.out, tasks, _WAYS[way], padded, kind.itemsize,
        ],
        np.int64,
    )  # fmt: skip
    padding = np.full(channels, finish.centre, np.float32 if kind.itemsize > 1 else np.uint8)
    return Slide(table, address(table), tasks, (batch, *sliding.out, channels), finish, padding)


def slide(found: Slide, pixels: Array, packed: Packed | None = None) -> Array:
    """What the window makes of each channel of `pixels`, channels last as in the result. Products take filters
    (*kernel, channels), a bias and, of bytes, factors from `packed`."""
    finish = found.finish
    result = np.empty(found.result, finish.kind)
    batch_step, row_step, pixel_step, _ = pixels.strides
    filters, bias, factors = ([place for _, place in packed()] + [0] if packed else [0, 0, 0])[:3]
    share(
        lanes.slide_rows, found.tasks, found.place, address(pixels), batch_step, row_step, pixel_step, filters, bias,
        address(result), finish.low, finish.high, factors, float(finish.centre), float(finish.zero),
        address(found.padding),
    )  # fmt: skip
    return result
