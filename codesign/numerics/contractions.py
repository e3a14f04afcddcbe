"""Contractions as plain products: which operands of an operation are multiplied, along which axes, and the operation
as batches of matrices, so that a device's way of summing stands in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.numerics.holding import Layout, row_layout
from codesign.ops.convolution import ConvTranspose, convolution_window
from codesign.ops.window import Window

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Product:
    """left (b, m, k) times right (b, k, n), and what makes the operation's result of the (b, m, n) product."""

    left: Array
    right: Array
    result: Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Contractor:
    """How one kind of operation contracts its inputs 0 and 1; input 2, where given, is added.

    `layouts(op, left shape, right shape)` are those of the operands; `product` writes the operation without addend as
    a Product; `right_scale(op, scale)` shapes a scale of kept right axes so that it broadcasts to the result;
    `add(op, result, addend)` adds.
    """

    layouts: Callable[[Op, tuple[int, ...], tuple[int, ...]], tuple[Layout, Layout]]
    product: Callable[[Op, Array, Array], Product]
    left_scale: Callable[[Op, Array], Array] = lambda op, scale: scale
    right_scale: Callable[[Op, Array], Array] = lambda op, scale: scale
    add: Callable[[Op, Array, Array], Array] = lambda op, result, addend: result + addend


def column_layout(rank: int) -> Layout:
    """The last axis but one runs, as for the right side of a matrix product."""
    if rank < 2:
        return Layout((), tuple(range(rank)))
    return Layout((*range(rank - 2), rank - 1), (rank - 2,))


def _matmul_layouts(op: Op, left: tuple[int, ...], right: tuple[int, ...]) -> tuple[Layout, Layout]:
    return row_layout(len(left)), column_layout(len(right))


def _matmul(op: Op, left: Array, right: Array) -> Product:
    rows = left if left.ndim > 1 else left[None]
    columns = right if right.ndim > 1 else right[:, None]
    shape = (*np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2]), rows.shape[-2], columns.shape[-1])
    kept = (*shape[:-2], *shape[-2:-1] * (left.ndim > 1), *shape[-1:] * (right.ndim > 1))
    if columns.ndim == 2:
        return Product(rows.reshape(1, -1, rows.shape[-1]), columns[None], lambda sums: sums.reshape(kept))
    stacked = [
        np.broadcast_to(side, (*shape[:-2], *side.shape[-2:])).reshape(-1, *side.shape[-2:])
        for side in (rows, columns)
    ]  # fmt: skip
    return Product(stacked[0], stacked[1], lambda sums: sums.reshape(kept))


def _transposed(op: Op, side: str) -> bool:
    return bool(op.attributes.get(f"trans{side}", 0))


def _gemm_layouts(op: Op, left: tuple[int, ...], right: tuple[int, ...]) -> tuple[Layout, Layout]:
    rows, columns = Layout((0,), (1,)), Layout((1,), (0,))
    return columns if _transposed(op, "A") else rows, rows if _transposed(op, "B") else columns


def _gemm(op: Op, left: Array, right: Array) -> Product:
    left, right = left.T if _transposed(op, "A") else left, right.T if _transposed(op, "B") else right
    alpha = np.float32(op.attributes.get("alpha", 1.0))
    return Product(left[None], right[None], lambda sums: sums[0] if alpha == 1 else sums[0] * alpha)


def _gemm_add(op: Op, result: Array, addend: Array) -> Array:
    beta = np.float32(op.attributes.get("beta", 1.0))
    return result + (addend if beta == 1 else addend * beta)


def _convolution_layouts(op: Op, image: tuple[int, ...], weights: tuple[int, ...]) -> tuple[Layout, Layout]:
    """Each image is a row; blocks of an image lie along its channels, groups of weights along a whole filter."""
    return Layout((0,), (1,)), Layout((0,), tuple(range(1, len(weights))))


def _unfolded(image: Array, found: Window) -> Array:
    """(batch, channels, *output, *kernel): the inputs under the kernel at each place of the result."""
    spatial = range(2, image.ndim)
    added = [(max(a, 0), max(b, 0)) for a, b in zip(found.before, found.after, strict=True)]
    padded = np.pad(image, [(0, 0), (0, 0), *added])
    cropped: Any = (
        ...,
        *(
            slice(max(-before, 0), extent - max(-after, 0))
            for before, after, extent in zip(found.before, found.after, padded.shape[2:], strict=True)
        ),
    )
    windows = np.lib.stride_tricks.sliding_window_view(padded[cropped], found.reach, tuple(spatial))
    steps: Any = (..., *(slice(None, None, s) for s in found.stride), *(slice(None, None, d) for d in found.dilation))
    return np.asarray(windows[steps])


def _grouped(image: Array, filters: Array, found: Window, groups: int) -> Product:
    """A convolution by `filters` (groups, outputs / groups, inputs / groups, *kernel), one product a group."""
    rank = image.ndim - 2
    windows = _unfolded(image, found)
    batch, spatial = image.shape[0], windows.shape[2 : 2 + rank]
    split = windows.reshape(batch, groups, -1, *windows.shape[2:])
    places = (0, *range(3, 3 + rank))
    left = split.transpose(1, *places, 2, *range(3 + rank, 3 + 2 * rank))
    left = left.reshape(groups, batch * math.prod(spatial), -1)
    right = filters.reshape(groups, filters.shape[1], -1).swapaxes(1, 2)

    def result(sums: Array) -> Array:
        placed = sums.reshape(groups, batch, *spatial, -1)
        ordered = placed.transpose(1, 0, 2 + rank, *range(2, 2 + rank))
        return ordered.reshape(batch, -1, *spatial)

    return Product(left, right, result)


def _convolution(op: Op, image: Array, weights: Array) -> Product:
    found, groups = convolution_window(op, image.shape, weights.shape)
    return _grouped(image, weights.reshape(groups, -1, *weights.shape[1:]), found, groups)


def _per_channel(op: Op, result: Array, bias: Array) -> Array:
    return result + bias.reshape(-1, *(1,) * (result.ndim - 2))


def _filter_scale(op: Op, scale: Array) -> Array:
    return scale.reshape(1, -1, *(1,) * (scale.ndim - 2))


def _transposed_layouts(op: Op, image: tuple[int, ...], weights: tuple[int, ...]) -> tuple[Layout, Layout]:
    return Layout((0,), (1,)), Layout((1,), (0, *range(2, len(weights))))


def _transposed_convolution(op: Op, image: Array, weights: Array) -> Product:
    """The convolution of the image, spread out by its strides, with the turned kernel."""
    found, groups, spatial = ConvTranspose._window(op, image.shape, weights.shape)
    extents = [(extent - 1) * step + 1 for extent, step in zip(image.shape[2:], found.stride, strict=True)]
    spread = np.zeros((*image.shape[:2], *extents), image.dtype)
    steps: Any = (..., *(slice(None, None, step) for step in found.stride))
    spread[steps] = image
    before = tuple(reach - 1 - pad for reach, pad in zip(found.reach, found.before, strict=True))
    after = tuple(
        size + reach - 1 - extent - first
        for size, reach, extent, first in zip(spatial, found.reach, extents, before, strict=True)
    )
    ones = (1,) * len(spatial)
    grouped = weights.reshape(groups, -1, *weights.shape[1:]).swapaxes(1, 2)
    turned = np.flip(grouped, tuple(range(3, grouped.ndim)))
    return _grouped(spread, turned, Window(found.kernel, ones, found.dilation, before, after), groups)


def _transposed_scale(op: Op, scale: Array) -> Array:
    groups = int(op.attributes.get("group", 1))
    return np.tile(scale.reshape(-1), groups if scale.size > 1 else 1).reshape(1, -1, *(1,) * (scale.ndim - 2))


CONTRACTORS: Mapping[tuple[str, str], Contractor] = {
    ("", "MatMul"): Contractor(_matmul_layouts, _matmul),
    ("", "Gemm"): Contractor(
        _gemm_layouts,
        _gemm,
        left_scale=lambda op, scale: scale.T if _transposed(op, "A") else scale,
        right_scale=lambda op, scale: scale.T if _transposed(op, "B") else scale,
        add=_gemm_add,
    ),
    ("", "Conv"): Contractor(_convolution_layouts, _convolution, right_scale=_filter_scale, add=_per_channel),
    ("", "ConvTranspose"): Contractor(
        _transposed_layouts, _transposed_convolution, right_scale=_transposed_scale, add=_per_channel
    ),
}
"""By domain and kind."""
