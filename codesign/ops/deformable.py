"""Deformable convolution of any spatial rank (Dai et al. 2017, arXiv:1703.06211; Zhu et al. 2018, arXiv:1811.11168)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, narrowed, optional, required, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.convolution import convolution_shape, convolution_window, convolution_work
from codesign.ops.window import Window
from codesign.work import Work


@operator("DeformConv")
class DeformConv(Operator):
    """A convolution whose kernel positions are moved by `offset`, between pixels by linear interpolation."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        image, weights = required(op, inputs, 0, "X"), required(op, inputs, 1, "W")
        return [(convolution_shape(op, image.shape, weights.shape), image.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        image, weights = widened(required(op, inputs, 0, "X")), widened(required(op, inputs, 1, "W"))
        offset, bias, mask = widened(required(op, inputs, 2, "offset")), optional(inputs, 3), optional(inputs, 4)
        found, groups = convolution_window(op, image.shape, weights.shape)
        spatial = found.outputs(image.shape[2:])
        kernel, places, rank = math.prod(found.kernel), math.prod(spatial), len(spatial)
        owners = int(op.attributes.get("offset_group", 1))
        wanted = (len(image), owners * kernel * rank, *spatial)
        if offset.shape != wanted or image.shape[1] % owners:
            raise bad(op, f"offset {list(offset.shape)}, expected {list(wanted)} for {owners} groups of offsets")
        base = _positions(found, spatial)
        result = np.empty((len(image), len(weights), places), image.dtype)
        for sample in range(len(image)):
            moved = base + offset[sample].reshape(owners, kernel, rank, places)
            columns = interpolated(image[sample].reshape(owners, -1, *image.shape[2:]), moved)
            if mask is not None:
                columns *= widened(mask)[sample].reshape(owners, 1, kernel, places)
            columns = columns.reshape(groups, -1, places)
            result[sample] = np.matmul(weights.reshape(groups, len(weights) // groups, -1), columns).reshape(-1, places)
        if bias is not None:
            result += widened(bias)[:, None]
        return [narrowed(result.reshape(len(image), len(weights), *spatial), required(op, inputs, 0, "X").dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """The products of a convolution; and for each element of the columns a corner's weight and product each."""
        image, weights = required(op, inputs, 0, "X"), required(op, inputs, 1, "W")
        work = convolution_work(op, inputs, outputs)
        rank = len(image.shape) - 2
        columns = work.m * weights.shape[1] * int(op.attributes.get("group", 1)) * math.prod(weights.shape[2:])
        return replace(work, epilogue_flops=columns * 2**rank * (rank + 1))


def _positions(found: Window, spatial: Sequence[int]) -> Array:
    """(kernel, rank, places): where each kernel element lies for each output, counted in the input without padding."""
    rank = len(spatial)
    result = np.empty((*found.kernel, rank, *spatial))
    for axis in range(rank):
        steps = np.arange(found.kernel[axis]) * found.dilation[axis] - found.before[axis]
        starts = np.arange(spatial[axis]) * found.stride[axis]
        line = (steps[:, None] + starts).reshape([
            *(found.kernel[axis] if one == axis else 1 for one in range(rank)),
            *(spatial[axis] if one == axis else 1 for one in range(rank)),
        ])  # fmt: skip
        np.moveaxis(result, rank, 0)[axis] = line
    return result.reshape(math.prod(found.kernel), rank, -1)


def interpolated(image: Array, points: Array) -> Array:
    """Linear interpolation of `image` (groups, channels, spatial...) at `points` (groups, kernel, rank, places), zero
    outside: (groups, channels, kernel, places)."""
    groups, channels, *spatial = image.shape
    kernel, places = points.shape[1], points.shape[3]
    flat = image.reshape(groups, channels, -1)
    low = np.floor(points)
    rest = points - low
    extents = np.array(spatial)[:, None]
    result = np.zeros((groups, channels, kernel, places), image.dtype)
    for corner in itertools.product((0, 1), repeat=len(spatial)):
        side = np.array(corner)[:, None]
        at = low + side
        weight = np.where((at >= 0) & (at < extents), np.where(side, rest, 1 - rest), 0).prod(axis=2)
        index = np.ravel_multi_index(
            tuple(np.moveaxis(np.clip(at, 0, extents - 1).astype(np.int64), 2, 0)), tuple(spatial)
        )
        taken = np.take_along_axis(flat, index.reshape(groups, 1, -1), axis=2).reshape(result.shape)
        result += taken * weight[:, None].astype(image.dtype)
    return result
