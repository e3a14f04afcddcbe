"""Unfolding of images into columns (im2col), so that a convolution becomes a matrix product."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]


@njit(cache=True)
def unfold_2d(
    image: Array,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    before: tuple[int, int],
    top: int,
    columns: Array,
) -> None:
    """Write the inputs under the kernel for the output rows from `top` on; zeros stand where the padding is.

    image (channels, height, width); columns (channels, kernel height, kernel width, output rows, output columns).
    """
    channels, height, width = image.shape
    rows, extent = columns.shape[3], columns.shape[4]
    for channel in range(channels):
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                shift = j * dilation[1] - before[1]
                first = min(max(0, -(shift // stride[1])), extent)
                last = max(min(extent, (width - 1 - shift) // stride[1] + 1), first)
                for row in range(rows):
                    source = (top + row) * stride[0] + i * dilation[0] - before[0]
                    inside = 0 <= source < height
                    for column in range(first if inside else extent):
                        columns[channel, i, j, row, column] = 0
                    if not inside:
                        continue
                    if stride[1] == 1:
                        for column in range(first, last):
                            columns[channel, i, j, row, column] = image[channel, source, column + shift]
                    elif stride[1] == 2:
                        # A step that the compiler knows becomes a vector shuffle.
                        for column in range(first, last):
                            columns[channel, i, j, row, column] = image[channel, source, column * 2 + shift]
                    else:
                        for column in range(first, last):
                            columns[channel, i, j, row, column] = image[channel, source, column * stride[1] + shift]
                    for column in range(last, extent):
                        columns[channel, i, j, row, column] = 0
