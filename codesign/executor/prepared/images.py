"""Images in channels-last order: the same values, (batch, height, width, channels), contiguous."""

from __future__ import annotations

import math

import numpy as np

from codesign.ops.base import Array

FEW_CHANNELS = 16
"""An image with fewer is copied with its padding, so that a line of the kernel is one run of memory."""


def channels_last(image: Array) -> Array:
    """(batch, channels, width) or (batch, channels, height, width) as (batch, height, width, channels), contiguous;
    copied only when channels do not lie closest together yet."""
    return np.ascontiguousarray(as_pixels(image))


def as_pixels(image: Array) -> Array:
    """The same as a view, whatever the order in memory."""
    plane = image[:, :, None] if image.ndim == 3 else image
    return plane.transpose(0, 2, 3, 1)


def channels_first(pixels: Array, rank: int) -> Array:
    """A view of (batch, height, width, channels) with channels second and `rank` spatial axes."""
    plane = pixels.transpose(0, 3, 1, 2)
    return plane[:, :, 0] if rank == 1 else plane


def padded(pixels: Array, before: tuple[int, int], after: tuple[int, int], value: int) -> Array:
    """A copy with `value` around the two middle axes. Three elements behind its end may be read."""
    batch, height, width, channels = pixels.shape
    shape = (batch, height + before[0] + after[0], width + before[1] + after[1], channels)
    whole = np.full(math.prod(shape) + 3, value, pixels.dtype)[:-3].reshape(shape)
    inner = whole[:, before[0] : before[0] + height, before[1] : before[1] + width]
    if channels < FEW_CHANNELS:  # Then long runs lie along the width, or nowhere.
        for channel in range(channels):
            inner[..., channel] = pixels[..., channel]
    else:
        inner[...] = pixels
    return whole


def pair(values: tuple[int, ...], missing: int = 1) -> tuple[int, int]:
    """One or two extents as two, the leading one `missing`."""
    return (missing, *values)[-2], values[-1]
