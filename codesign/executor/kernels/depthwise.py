"""Depthwise convolution: each input channel with filters of its own. BLAS has nothing to gain here, a loop nest has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]


@njit(cache=True, fastmath=False, boundscheck=False)  # type: ignore[untyped-decorator]
def depthwise_2d(
    image: Array, weights: Array, stride: tuple[int, int], dilation: tuple[int, int], result: Array
) -> None:
    """Add to `result` the correlation of `image` with `weights`.

    image (batch, channels, height, width), padded; weights (channels * multiplier, kernel height, kernel width);
    result (batch, channels * multiplier, output height, output width).
    """
    batch, outputs, height, width = result.shape
    multiplier = outputs // image.shape[1]
    for n in range(batch):
        for channel in range(outputs):
            source = image[n, channel // multiplier]
            target = result[n, channel]
            for row in range(height):
                line = target[row]
                for i in range(weights.shape[1]):
                    pixels = source[row * stride[0] + i * dilation[0]]
                    for j in range(weights.shape[2]):
                        weight = weights[channel, i, j]
                        offset = j * dilation[1]
                        if stride[1] == 1:
                            for column in range(width):
                                line[column] += weight * pixels[column + offset]
                        else:
                            for column in range(width):
                                line[column] += weight * pixels[column * stride[1] + offset]
