"""Depthwise convolution: each input channel with filters of its own. BLAS has nothing to gain here, a loop nest has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]


@njit(cache=True)
def depthwise_2d(
    image: Array,
    weights: Array,
    bias: Array,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    before: tuple[int, int],
    padded: tuple[int, int],
    result: Array,
) -> None:
    """Write the correlation of `image` with `weights`, plus `bias`, into `result`.

    image (batch, channels, height, width); weights (channels * multiplier, kernel height, kernel width); bias
    (channels * multiplier); `before` zeros lead and `padded` are the extents with all zeros; result (batch,
    channels * multiplier, output height, output width).

    A padded channel is laid out in a buffer that stays in the first-level cache, split into one plane for each phase of
    the stride: then neighbouring results need neighbouring inputs whatever the stride, and a tap of the kernel is one
    long vector operation over the channel. The few results that straddle two rows are thrown away.
    """
    batch, outputs, rows, columns = result.shape
    multiplier = outputs // image.shape[1]
    height, width = -(-padded[0] // stride[0]), -(-padded[1] // stride[1])
    planes = np.zeros((stride[0], stride[1], height * width), image.dtype)
    sums = np.empty(max((rows - 1) * width + columns, 0), image.dtype)
    for n in range(batch):
        for channel in range(image.shape[1]):
            _lay_out(image[n, channel], before, width, planes)
            for output in range(channel * multiplier, (channel + 1) * multiplier):
                _correlate(planes, weights[output], bias[output], dilation, width, sums)
                for row in range(rows):
                    for column in range(columns):
                        result[n, output, row, column] = sums[row * width + column]


@njit(cache=True)
def _lay_out(channel: Array, before: tuple[int, int], width: int, planes: Array) -> None:
    """Copy a channel to where it stands in the padded one, whose zeros are there already."""
    step = planes.shape[1]
    for phase in range(step):
        first = (phase - before[1]) % step
        shift = (first + before[1]) // step
        count = (channel.shape[1] - first + step - 1) // step
        down, start = before[0] % planes.shape[0], before[0] // planes.shape[0] * width + shift
        for row in range(channel.shape[0]):
            target = planes[down, phase]
            # Steps that the compiler knows become vector copies and shuffles.
            if step == 1:
                for index in range(count):
                    target[start + index] = channel[row, index]
            elif step == 2:
                for index in range(count):
                    target[start + index] = channel[row, first + 2 * index]
            else:
                for index in range(count):
                    target[start + index] = channel[row, first + step * index]
            down += 1
            if down == planes.shape[0]:
                down, start = 0, start + width


@njit(cache=True, fastmath={"contract"})
def _correlate(planes: Array, kernel: Array, bias: Any, dilation: tuple[int, int], width: int, sums: Array) -> None:
    sums[:] = bias
    for i in range(kernel.shape[0]):
        down = i * dilation[0]
        for j in range(kernel.shape[1]):
            across = j * dilation[1]
            tap = kernel[i, j]
            plane = planes[down % planes.shape[0], across % planes.shape[1]]
            shifted = plane[down // planes.shape[0] * width + across // planes.shape[1] :]
            for position in range(sums.size):
                sums[position] += tap * shifted[position]
