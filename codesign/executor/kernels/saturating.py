"""Products of unsigned and signed bytes as x86 processors without VNNI make them: pairs summed in 16 bits, saturating.

`vpmaddubsw` multiplies unsigned by signed bytes and adds neighbouring products into one signed 16-bit value, which
two large products exceed: 2 x 255 x 127 = 64,770 > 32,767 (Intel 64 and IA-32 Architectures Software Developer's
Manual, PMADDUBSW). ONNX Runtime's AVX2 and AVX-512 kernels use it for unsigned times signed bytes, along the axis that
is summed, and take the zero points off afterwards; signed times signed and unsigned times unsigned are exact, and so
is a depthwise convolution, which has a kernel of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numba import njit

from codesign.ops.window import Window

Array = np.ndarray[Any, Any]

_pairs_saturate: ContextVar[bool] = ContextVar("codesign_pairs_saturate", default=False)


@contextmanager
def saturating_pairs() -> Iterator[None]:
    """Let operators that compute inside the `with` block multiply bytes as processors without VNNI do."""
    token = _pairs_saturate.set(True)
    try:
        yield
    finally:
        _pairs_saturate.reset(token)


def any_pairs_saturate() -> bool:
    """True inside `saturating_pairs`."""
    return _pairs_saturate.get()


def pairs_saturate(left: Array, right: Array) -> bool:
    """True when a product of these arrays is to saturate: unsigned by signed bytes, inside `saturating_pairs`."""
    return _pairs_saturate.get() and left.dtype == np.uint8 and right.dtype == np.int8


def saturating_product(left: Array, right: Array, left_zero: Array | None, right_zero: Array | None) -> Array:
    """(left - left_zero) (right - right_zero) in int32, pairs along the sum saturated before the zero points go.

    left (..., m, k) uint8 with one zero point; right (..., k, n) int8 with one, or one a column.
    """
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    first = np.ascontiguousarray(np.broadcast_to(left, (*batch, *left.shape[-2:]))).reshape(-1, *left.shape[-2:])
    second = np.ascontiguousarray(np.broadcast_to(right, (*batch, *right.shape[-2:]))).reshape(-1, *right.shape[-2:])
    sums = np.zeros((first.shape[0], left.shape[-2], right.shape[-1]), np.int32)
    for number in range(len(sums)):
        _sum_pairs(first[number], second[number], sums[number])
    offset, other = (np.int32(0) if zero is None else zero.astype(np.int32) for zero in (left_zero, right_zero))
    sums -= offset * second.sum(axis=-2, keepdims=True, dtype=np.int32)
    sums -= other * first.sum(axis=-1, keepdims=True, dtype=np.int32)
    sums += offset * other * np.int32(left.shape[-1])
    return sums.reshape(*batch, *sums.shape[1:])


@njit(cache=True)
def _sum_pairs(left: Array, right: Array, sums: Array) -> None:
    rows, depth = left.shape
    for row in range(rows):
        for k in range(0, depth - depth % 2, 2):
            even, odd = np.int32(left[row, k]), np.int32(left[row, k + 1])
            for column in range(right.shape[1]):
                pair = even * np.int32(right[k, column]) + odd * np.int32(right[k + 1, column])
                sums[row, column] += min(max(pair, np.int32(-32768)), np.int32(32767))
        if depth % 2:
            last = np.int32(left[row, depth - 1])
            for column in range(right.shape[1]):
                sums[row, column] += last * np.int32(right[depth - 1, column])


def saturating_convolution(
    image: Array, weights: Array, image_zero: Array | None, weight_zero: Array | None, found: Window, groups: int
) -> Array:
    """The int32 convolution of a uint8 image with int8 weights in the order of onnxruntime's unfolding: positions of
    the kernel outside, channels of the group inside.

    image (batch, channels, *spatial), weights (outputs, channels / groups, *kernel); one zero point of the image, and
    one of all weights or of each output.
    """
    zero = np.zeros((), image.dtype) if image_zero is None else image_zero.reshape(())
    zeros = np.broadcast_to(0 if weight_zero is None else weight_zero.reshape(-1), weights.shape[:1])
    rank = len(found.kernel)
    spatial = found.outputs(image.shape[2:])
    padded = np.pad(
        image,
        [(0, 0), (0, 0), *zip(found.before, found.after, strict=True)],
        constant_values=zero,
    )
    taps = np.stack(
        [
            padded[
                (slice(None), slice(None), *(
                    slice(offset * dilation, offset * dilation + (count - 1) * stride + 1, stride)
                    for offset, dilation, count, stride in zip(
                        offsets, found.dilation, spatial, found.stride, strict=True
                    )
                ))
            ]
            for offsets in np.ndindex(*found.kernel)
        ],
        axis=1,
    )  # fmt: skip
    inner, outer = image.shape[1] // groups, weights.shape[0] // groups
    results = []
    for group in range(groups):
        columns = np.moveaxis(taps[:, :, group * inner : (group + 1) * inner], (1, 2), (-2, -1))
        filters = np.moveaxis(weights[group * outer : (group + 1) * outer].reshape(outer, inner, -1), 0, -1)
        matrix = filters.transpose(1, 0, 2).reshape(-1, outer)
        own = zeros[group * outer : (group + 1) * outer]
        product = saturating_product(columns.reshape(-1, matrix.shape[0]), matrix, zero, own)
        results.append(np.moveaxis(product.reshape(image.shape[0], *spatial, outer), 1 + rank, 1))
    return np.ascontiguousarray(np.concatenate(results, axis=1))
