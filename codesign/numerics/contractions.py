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
from codesign.ops.arguments import text
from codesign.ops.convolution import ConvTranspose, convolution_window
from codesign.ops.einsum import parse
from codesign.ops.window import Window

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


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
    a Product; `scale(op, left scale, right scale)` is the product of scales that have one value for each index of kept
    axes, shaped so that it broadcasts to the result; `add(op, result, addend)` adds; `applies(op, left shape, right
    shape)` says whether the operation is a single product at all.
    """

    layouts: Callable[[Op, Shape, Shape], tuple[Layout, Layout]]
    product: Callable[[Op, Array, Array], Product]
    scale: Callable[[Op, Array, Array], Array] = lambda op, left, right: left * right
    add: Callable[[Op, Array, Array], Array] = lambda op, result, addend: result + addend
    applies: Callable[[Op, Shape, Shape], bool] = lambda op, left, right: True


def column_layout(rank: int) -> Layout:
    """The last axis but one runs, as for the right side of a matrix product."""
    if rank < 2:
        return Layout((), tuple(range(rank)))
    return Layout((*range(rank - 2), rank - 1), (rank - 2,))


def _matmul_layouts(op: Op, left: Shape, right: Shape) -> tuple[Layout, Layout]:
    return row_layout(len(left)), column_layout(len(right))


def _matmul_scale(op: Op, left: Array, right: Array) -> Array:
    """A vector's axis is missing in the result."""
    rows = left if right.ndim > 1 else left[..., 0]
    columns = right if left.ndim > 1 or right.ndim < 2 else right[..., 0, :]
    return np.asarray(rows * (columns if right.ndim > 1 else columns[0]))


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


def _gemm_layouts(op: Op, left: Shape, right: Shape) -> tuple[Layout, Layout]:
    rows, columns = Layout((0,), (1,)), Layout((1,), (0,))
    return columns if _transposed(op, "A") else rows, rows if _transposed(op, "B") else columns


def _gemm(op: Op, left: Array, right: Array) -> Product:
    left, right = left.T if _transposed(op, "A") else left, right.T if _transposed(op, "B") else right
    alpha = np.float32(op.attributes.get("alpha", 1.0))
    return Product(left[None], right[None], lambda sums: sums[0] if alpha == 1 else sums[0] * alpha)


def _gemm_scale(op: Op, left: Array, right: Array) -> Array:
    return np.asarray((left.T if _transposed(op, "A") else left) * (right.T if _transposed(op, "B") else right))


def _gemm_add(op: Op, result: Array, addend: Array) -> Array:
    beta = np.float32(op.attributes.get("beta", 1.0))
    return result + (addend if beta == 1 else addend * beta)


def _convolution_layouts(op: Op, image: Shape, weights: Shape) -> tuple[Layout, Layout]:
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


def _filter_scale(op: Op, image: Array, filters: Array) -> Array:
    return np.asarray(image * filters.reshape(1, -1, *(1,) * (filters.ndim - 2)))


def _transposed_layouts(op: Op, image: Shape, weights: Shape) -> tuple[Layout, Layout]:
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


def _transposed_scale(op: Op, image: Array, filters: Array) -> Array:
    groups = int(op.attributes.get("group", 1)) if filters.size > 1 else 1
    return np.asarray(image * np.tile(filters.reshape(-1), groups).reshape(1, -1, *(1,) * (filters.ndim - 2)))


@dataclass(frozen=True, slots=True)
class _Labels:
    """The labels of an einsum of two operands, sorted by where they stand."""

    left: tuple[str, ...]
    right: tuple[str, ...]
    output: tuple[str, ...]

    @property
    def batch(self) -> list[str]:
        return [label for label in self.left if label in self.right and label in self.output]

    @property
    def summed(self) -> list[str]:
        return [label for label in self.left if label in self.right and label not in self.output]

    def alone(self, term: tuple[str, ...]) -> list[str]:
        """Labels of one operand that the other lacks."""
        return [label for label in term if label not in self.left or label not in self.right]


def _labels(op: Op, left: Shape, right: Shape) -> _Labels:
    plan = parse(text(op, "equation"), [left, right])
    first, second = plan.written
    return _Labels(first, second, plan.output)


def _is_product(op: Op, left: Shape, right: Shape) -> bool:
    """Two operands, no diagonal, nothing repeated to fit, and nothing summed over in one operand alone."""
    if len(op.inputs) != 2:
        return False
    plan = parse(text(op, "equation"), [left, right])
    return all(
        len(set(term)) == len(term) and shape == tuple(plan.extents[label] for label in term)
        for term, shape in zip(plan.written, (left, right), strict=True)
    ) and all(label in plan.output for label in set(plan.written[0]) ^ set(plan.written[1]))


def _einsum_layouts(op: Op, left: Shape, right: Shape) -> tuple[Layout, Layout]:
    found = _labels(op, left, right)
    first, second = (
        Layout(
            tuple(axis for axis, label in enumerate(term) if label not in found.summed),
            tuple(term.index(label) for label in found.summed),
        )
        for term in (found.left, found.right)
    )
    return first, second


def _einsum(op: Op, left: Array, right: Array) -> Product:
    found = _labels(op, left.shape, right.shape)
    extents = {**dict(zip(found.left, left.shape, strict=True)), **dict(zip(found.right, right.shape, strict=True))}
    rows, columns = found.alone(found.left), found.alone(found.right)

    def stacked(array: Array, term: tuple[str, ...], *groups: list[str]) -> Array:
        ordered = array.transpose([term.index(label) for group in groups for label in group])
        return ordered.reshape([math.prod(extents[label] for label in group) for group in groups])

    def result(sums: Array) -> Array:
        labels = [*found.batch, *rows, *columns]
        placed = sums.reshape([extents[label] for label in labels])
        return placed.transpose([labels.index(label) for label in found.output])

    return Product(
        stacked(left, found.left, found.batch, rows, found.summed),
        stacked(right, found.right, found.batch, found.summed, columns),
        result,
    )


def _einsum_scale(op: Op, left: Array, right: Array) -> Array:
    found = _labels(op, left.shape, right.shape)

    def aligned(scale: Array, term: tuple[str, ...]) -> Array:
        kept = [term.index(label) for label in found.output if label in term]
        ordered = scale.transpose([*kept, *(axis for axis in range(scale.ndim) if axis not in kept)])
        return ordered.reshape([scale.shape[term.index(label)] if label in term else 1 for label in found.output])

    return np.asarray(aligned(left, found.left) * aligned(right, found.right))


CONTRACTORS: Mapping[tuple[str, str], Contractor] = {
    ("", "MatMul"): Contractor(_matmul_layouts, _matmul, _matmul_scale),
    ("", "Gemm"): Contractor(_gemm_layouts, _gemm, _gemm_scale, _gemm_add),
    ("", "Conv"): Contractor(_convolution_layouts, _convolution, _filter_scale, _per_channel),
    ("", "ConvTranspose"): Contractor(_transposed_layouts, _transposed_convolution, _transposed_scale, _per_channel),
    ("", "Einsum"): Contractor(_einsum_layouts, _einsum, _einsum_scale, applies=_is_product),
}
"""By domain and kind."""


def contractor_of(op: Op, left: Shape, right: Shape) -> Contractor | None:
    """How the operation contracts operands of these shapes; None when it is no single product that is known here."""
    found = CONTRACTORS.get((op.domain, op.kind))
    return found if found is not None and found.applies(op, left, right) else None
