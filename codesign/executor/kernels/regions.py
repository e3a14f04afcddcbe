"""Regions of an image: pooling under boxes of any place and size, and the choice among overlapping boxes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _corners(y: float, x: float, height: int, width: int) -> tuple[int, int, int, int, float, float]:
    """The four pixels about a point and its distance from the first of them."""
    y, x = max(y, 0.0), max(x, 0.0)
    low_y, low_x = min(int(y), height - 1), min(int(x), width - 1)
    high_y, high_x = min(low_y + 1, height - 1), min(low_x + 1, width - 1)
    rest_y = y - low_y if high_y > low_y else 0.0
    rest_x = x - low_x if high_x > low_x else 0.0
    return low_y, low_x, high_y, high_x, rest_y, rest_x


@njit(cache=True)  # type: ignore[untyped-decorator]
def roi_align(
    image: Array, boxes: Array, images: Array, samples: int, offset: float, at_least_one: bool, maximum: bool,
    result: Array,
) -> None:  # fmt: skip
    """Fill `result` (boxes, channels, rows, columns) with the mean or maximum of bilinear samples in each bin.

    image (batch, channels, height, width); boxes (boxes, 4) as x1, y1, x2, y2 in pixels; `samples` points a side of a
    bin, 0 for as many as the bin has pixels. Of a sample the maximum sees its four weighted corners, as the standard's
    reference does.
    """
    count, channels, rows, columns = result.shape
    height, width = image.shape[2], image.shape[3]
    for box in range(count):
        left, top = boxes[box, 0] - offset, boxes[box, 1] - offset
        wide, high = boxes[box, 2] - offset - left, boxes[box, 3] - offset - top
        if at_least_one:
            wide, high = max(wide, 1.0), max(high, 1.0)
        bin_high, bin_wide = high / rows, wide / columns
        down = samples if samples > 0 else max(math.ceil(bin_high), 0)
        across = samples if samples > 0 else max(math.ceil(bin_wide), 0)
        for channel in range(channels):
            plane = image[images[box], channel]
            for row in range(rows):
                for column in range(columns):
                    total, best = 0.0, -np.inf
                    for i in range(down):
                        y = top + row * bin_high + (i + 0.5) * bin_high / down
                        for j in range(across):
                            x = left + column * bin_wide + (j + 0.5) * bin_wide / across
                            if y < -1.0 or y > height or x < -1.0 or x > width:
                                best = max(best, 0.0)
                                continue
                            y0, x0, y1, x1, dy, dx = _corners(y, x, height, width)
                            a, b = (1 - dy) * (1 - dx) * plane[y0, x0], (1 - dy) * dx * plane[y0, x1]
                            c, d = dy * (1 - dx) * plane[y1, x0], dy * dx * plane[y1, x1]
                            total += a + b + c + d
                            best = max(best, a, b, c, d)
                    points = down * across
                    if points:
                        result[box, channel, row, column] = best if maximum else total / points


@njit(cache=True)  # type: ignore[untyped-decorator]
def max_roi_pool(image: Array, regions: Array, scale: float, result: Array) -> None:
    """Fill `result` (regions, channels, rows, columns) with the maximum of each bin's pixels; empty bins stay.

    regions (regions, 5): image, x1, y1, x2, y2, rounded to pixels after scaling (Girshick, Fast R-CNN, 2015).
    """
    count, channels, rows, columns = result.shape
    height, width = image.shape[2], image.shape[3]
    for region in range(count):
        left, top = math.floor(regions[region, 1] * scale + 0.5), math.floor(regions[region, 2] * scale + 0.5)
        right, bottom = math.floor(regions[region, 3] * scale + 0.5), math.floor(regions[region, 4] * scale + 0.5)
        bin_high, bin_wide = max(bottom - top + 1, 1) / rows, max(right - left + 1, 1) / columns
        for channel in range(channels):
            plane = image[int(regions[region, 0]), channel]
            for row in range(rows):
                first_y = min(max(math.floor(row * bin_high) + top, 0), height)
                last_y = min(max(math.ceil((row + 1) * bin_high) + top, 0), height)
                for column in range(columns):
                    first_x = min(max(math.floor(column * bin_wide) + left, 0), width)
                    last_x = min(max(math.ceil((column + 1) * bin_wide) + left, 0), width)
                    if last_y > first_y and last_x > first_x:
                        result[region, channel, row, column] = plane[first_y:last_y, first_x:last_x].max()


@njit(cache=True)  # type: ignore[untyped-decorator]
def suppress(corners: Array, order: Array, limit: int, threshold: float) -> Array:
    """Of the boxes in `order` (best first) the first `limit` that overlap no better one by more than `threshold`.

    corners (boxes, 4): y1, x1, y2, x2 with y1 <= y2 and x1 <= x2. Overlap is intersection over union.
    """
    kept = np.empty(min(limit, len(order)), np.int64)
    count = 0
    for candidate in order:
        if count == len(kept):
            break
        y1, x1, y2, x2 = corners[candidate]
        area = (y2 - y1) * (x2 - x1)
        free = True
        for index in range(count):
            other = corners[kept[index]]
            common = max(min(y2, other[2]) - max(y1, other[0]), 0.0) * max(min(x2, other[3]) - max(x1, other[1]), 0.0)
            union = area + (other[2] - other[0]) * (other[3] - other[1]) - common
            if union > 0 and common / union > threshold:
                free = False
                break
        if free:
            kept[count] = candidate
            count += 1
    return kept[:count]
