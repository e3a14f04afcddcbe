"""Windows over each channel alone: depthwise convolution, of float32 and of bytes, and pooling."""

from __future__ import annotations

import math

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


def slide(
    pixels: Array,
    sliding: Sliding,
    way: str,
    packed: Packed | None = None,
    finish: Finish | None = None,
    padded: bool = False,
) -> Array:
    """What a window makes of each channel of `pixels` (batch, height, width, channels), channels last as in the result.

    "multiply" and "multiply bytes" take filters (*kernel, channels), a bias and, of bytes, factors from `packed`;
    "largest" and "mean" (`padded`: of the padding's zeros too) need none.
    """
    finish = finish or Finish()
    batch, height, width, channels = pixels.shape
    lines = batch * sliding.out[0]
    effort = lines * sliding.out[1] * math.prod(sliding.kernel) * -(-channels // lanes.LANES)
    tasks = max(min(lines, 4 * thread_count(), effort // TASK_ELEMENTS), 1)
    result = np.empty((batch, *sliding.out, channels), finish.kind)
    table = np.array(
        [
            batch, height, width, channels, *sliding.kernel, *sliding.stride, *sliding.dilation, *sliding.before,
            *sliding.out, tasks, _WAYS[way], padded, result.itemsize,
        ],
        np.int64,
    )  # fmt: skip
    batch_step, row_step, pixel_step, _ = pixels.strides
    filters, bias, factors = ([place for _, place in packed()] + [0] if packed else [0, 0, 0])[:3]
    share(
        lanes.slide_rows, tasks, address(table), address(pixels), batch_step, row_step, pixel_step, filters, bias,
        address(result), finish.low, finish.high, factors, float(finish.centre), float(finish.zero),
    )  # fmt: skip
    return result
