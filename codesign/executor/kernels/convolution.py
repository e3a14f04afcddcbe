"""Convolution of any rank in channels-first layout: BLAS on the input itself, on unfolded blocks of it, or a loop nest.

Shapes: image (batch, channels, *spatial), weights (outputs, channels / groups, *kernel).
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from codesign.ops.window import Window

Array = np.ndarray[Any, Any]

# Unfolded block of the input, in bytes: small enough to stay in a last-level cache share, large enough for BLAS.
BLOCK_BYTES = 8 << 20


def convolve(image: Array, weights: Array, window: Window, groups: int) -> Array:
    """The correlation ONNX calls convolution, without bias."""
    if groups == 1 and window.pointwise:
        return _pointwise(image, weights, window)
    padded = _padded(image, window)
    spatial = window.outputs(image.shape[2:])
    if groups == image.shape[1] and image.shape[1] > 1 and len(spatial) <= 2:
        return _depthwise(padded, weights, window, spatial)
    return _unfolded(padded, weights, window, groups, spatial)


def _padded(image: Array, window: Window) -> Array:
    if not any((*window.before, *window.after)):
        return image
    spatial = tuple(
        slice(max(-before, 0), extent - max(-after, 0))
        for before, after, extent in zip(window.before, window.after, image.shape[2:], strict=True)
    )
    added = [(max(before, 0), max(after, 0)) for before, after in zip(window.before, window.after, strict=True)]
    return np.pad(_on_spatial(image, spatial), [(0, 0), (0, 0), *added])


def _on_spatial(array: Array, slices: tuple[slice, ...]) -> Array:
    """`array` with its last axes sliced."""
    index: Any = (..., *slices)
    return cast(Array, array[index])


def _pointwise(image: Array, weights: Array, window: Window) -> Array:
    image = _on_spatial(image, tuple(slice(None, None, step) for step in window.stride))
    batch, channels, *spatial = image.shape
    columns = image.reshape(batch, channels, math.prod(spatial))
    return np.matmul(weights.reshape(weights.shape[0], channels), columns).reshape(batch, -1, *spatial)


def _depthwise(padded: Array, weights: Array, window: Window, spatial: tuple[int, ...]) -> Array:
    from codesign.executor.kernels.depthwise import depthwise_2d

    batch, channels = padded.shape[:2]
    missing = (1,) * (2 - len(spatial))
    result = np.zeros((batch, weights.shape[0], *missing, *spatial), padded.dtype)
    depthwise_2d(
        np.ascontiguousarray(padded).reshape(batch, channels, *missing, *padded.shape[2:]),
        np.ascontiguousarray(weights).reshape(weights.shape[0], *missing, *weights.shape[2:]),
        _pair(window.stride),
        _pair(window.dilation),
        result,
    )
    return result.reshape(batch, -1, *spatial)


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    """One or two extents as two, the leading one 1."""
    return (1, *values)[-2], values[-1]


def _views(padded: Array, window: Window, spatial: tuple[int, ...]) -> Array:
    """(channels, *kernel, batch, *output) without copying: each output position's inputs by strides."""
    steps = padded.strides[2:]
    return np.lib.stride_tricks.as_strided(
        padded,
        (padded.shape[1], *window.kernel, padded.shape[0], *spatial),
        (
            padded.strides[1],
            *(step * dilation for step, dilation in zip(steps, window.dilation, strict=True)),
            padded.strides[0],
            *(step * stride for step, stride in zip(steps, window.stride, strict=True)),
        ),
        writeable=False,
    )


def _unfolded(padded: Array, weights: Array, window: Window, groups: int, spatial: tuple[int, ...]) -> Array:
    """Copy blocks of whole images, or of rows of one image, into columns and multiply."""
    batch, channels = padded.shape[0], padded.shape[1]
    rank = len(spatial)
    views = _views(padded, window, spatial)
    filters = weights.reshape(groups, weights.shape[0] // groups, -1)
    result = np.empty((batch, weights.shape[0], *spatial), padded.dtype)
    depth = channels * math.prod(window.kernel)
    row_bytes = max(depth * math.prod(spatial[1:]) * padded.itemsize, 1)
    rows = min(max(BLOCK_BYTES // row_bytes, 1), max(spatial[0], 1))
    images = min(max(BLOCK_BYTES // (row_bytes * max(spatial[0], 1)), 1), max(batch, 1))
    for first in range(0, batch, images):
        for top in range(0, spatial[0], rows):
            block = (slice(first, first + images), slice(top, top + rows))
            columns = views[(slice(None),) * (1 + rank) + block]
            inner = columns.shape[1 + rank :]
            product = np.matmul(filters, columns.reshape(groups, depth // groups, math.prod(inner)))
            product = product.reshape(weights.shape[0], *inner)
            result[block[0], :, block[1]] = np.moveaxis(product, 0, 1)
    return result


def convolve_transposed(image: Array, weights: Array, window: Window, groups: int, spatial: tuple[int, ...]) -> Array:
    """The gradient of `convolve` by its input: each input position adds a kernel's worth of outputs.

    weights (channels, outputs / groups, *kernel); `spatial` are the extents of the cropped result.
    """
    batch, channels, *extents = image.shape
    outputs = weights.shape[1] * groups
    filters = weights.reshape(groups, channels // groups, -1).transpose(0, 2, 1)
    columns = np.matmul(filters, image.reshape(batch, groups, channels // groups, -1))
    columns = columns.reshape(batch, outputs, *window.kernel, *extents)
    last = [before + extent for before, extent in zip(window.before, spatial, strict=True)]
    swept = [
        (extent - 1) * step + reach for extent, step, reach in zip(extents, window.stride, window.reach, strict=True)
    ]
    full = [max(pair) for pair in zip(last, swept, strict=True)]
    result = np.zeros((batch, outputs, *full), image.dtype)
    for offsets in np.ndindex(*window.kernel):
        place = tuple(
            slice(offset * dilation, offset * dilation + (extent - 1) * step + 1, step)
            for offset, dilation, extent, step in zip(offsets, window.dilation, extents, window.stride, strict=True)
        )
        _on_spatial(result, place)[...] += columns[(slice(None), slice(None), *offsets)]
    crop = tuple(slice(before, end) for before, end in zip(window.before, last, strict=True))
    return np.ascontiguousarray(_on_spatial(result, crop))
