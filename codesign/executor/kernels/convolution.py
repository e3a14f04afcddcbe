"""Convolution of any rank in channels-first layout: BLAS on the input itself, on unfolded blocks of it, or a loop nest.

Shapes: image (batch, channels, *spatial), weights (outputs, channels / groups, *kernel).
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from codesign.ops.window import Window

Array = np.ndarray[Any, Any]

# Unfolded block of the input, in bytes: about a second-level cache, which the product reads it back from.
BLOCK_BYTES = 1 << 20


def convolve(image: Array, weights: Array, window: Window, groups: int, bias: Array | None = None) -> Array:
    """The correlation ONNX calls convolution, plus `bias`, one value a channel of the result."""
    spatial = window.outputs(image.shape[2:])
    if groups == 1 and window.pointwise:
        result = _pointwise(image, weights, window)
    elif len(spatial) > 2 or min((*window.before, *window.after)) < 0:
        result = _unfolded(_padded(image, window), weights, window, groups, spatial)
    elif groups == image.shape[1] and groups > 1:
        return _depthwise(image, weights, window, spatial, bias)
    else:
        result = _unfolded_2d(image, weights, window, groups, spatial)
    if bias is not None:
        result += bias.reshape(-1, *(1,) * len(spatial))
    return result


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


def _plane(array: Array) -> Array:
    """(n, channels, *spatial) with two spatial axes, contiguous."""
    missing = (1,) * (4 - array.ndim)
    return np.ascontiguousarray(array).reshape(*array.shape[:2], *missing, *array.shape[2:])


def _depthwise(image: Array, weights: Array, window: Window, spatial: tuple[int, ...], bias: Array | None) -> Array:
    from codesign.executor.kernels.depthwise import depthwise_2d

    plane = _plane(image)
    before, after = _pair(window.before, 0), _pair(window.after, 0)
    result = np.empty((image.shape[0], weights.shape[0], *_pair(spatial)), image.dtype)
    depthwise_2d(
        plane,
        _plane(weights)[:, 0],
        np.zeros(weights.shape[0], image.dtype) if bias is None else np.ascontiguousarray(bias),
        _pair(window.stride),
        _pair(window.dilation),
        before,
        (plane.shape[2] + before[0] + after[0], plane.shape[3] + before[1] + after[1]),
        result,
    )
    return result.reshape(image.shape[0], -1, *spatial)


def _unfolded_2d(image: Array, weights: Array, window: Window, groups: int, spatial: tuple[int, ...]) -> Array:
    """Unfold rows of one image at a time into one buffer, and multiply."""
    from codesign.executor.kernels.unfold import unfold_2d

    plane, kernel, (height, width) = _plane(image), _pair(window.kernel), _pair(spatial)
    filters = weights.reshape(groups, weights.shape[0] // groups, -1)
    result = np.empty((image.shape[0], groups, weights.shape[0] // groups, height, width), image.dtype)
    depth = image.shape[1] * math.prod(kernel)
    rows = min(max(BLOCK_BYTES // max(depth * width * image.itemsize, 1), 1), max(height, 1))
    buffer = np.empty(depth * rows * width, image.dtype)
    for number in range(image.shape[0]):
        for top in range(0, height, rows):
            count = min(rows, height - top)
            columns = buffer[: depth * count * width].reshape(image.shape[1], *kernel, count, width)
            unfold_2d(
                plane[number],
                kernel,
                _pair(window.stride),
                _pair(window.dilation),
                _pair(window.before, 0),
                top,
                columns,
            )
            product = np.matmul(filters, columns.reshape(groups, depth // groups, count * width))
            result[number, :, :, top : top + count] = product.reshape(groups, -1, count, width)
    return result.reshape(image.shape[0], weights.shape[0], *spatial)


def _pair(values: tuple[int, ...], missing: int = 1) -> tuple[int, int]:
    """One or two extents as two, the leading one `missing`."""
    return (missing, *values)[-2], values[-1]


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
    """Any rank: copy blocks of whole images, or of rows of one image, into columns and multiply."""
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
