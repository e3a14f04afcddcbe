"""Blocks of pixels against channels: DepthToSpace, SpaceToDepth, and Col2Im, which adds up overlapping blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, integers, normal_axis, required, text
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import copy_work, reduce_work
from codesign.ops.window import Window, padding, per_axis
from codesign.work import Work


def _image(op: Op, shape: tuple[int, ...]) -> tuple[int, int, int, int, int]:
    """Batch, channels, height, width and block size."""
    block = int(op.attributes.get("blocksize", 0))
    if len(shape) != 4 or block < 1:
        raise bad(op, f"expected an image of 4 dimensions and a positive 'blocksize', got {list(shape)} and {block}")
    batch, channels, height, width = shape
    return batch, channels, height, width, block


@operator("DepthToSpace")
class DepthToSpace(Operator):
    """Channels become blocks of pixels; `mode` says whether the block's or the image's channels come first."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "input")
        batch, channels, height, width, block = _image(op, source.shape)
        if channels % block**2:
            raise bad(op, f"{channels} channels are not a multiple of the block's {block**2} pixels")
        return [((batch, channels // block**2, height * block, width * block), source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "input")
        batch, channels, height, width, block = _image(op, source.shape)
        if text(op, "mode", "DCR") == "DCR":
            blocks = source.reshape(batch, block, block, -1, height, width).transpose(0, 3, 4, 1, 5, 2)
        else:
            blocks = source.reshape(batch, -1, block, block, height, width).transpose(0, 1, 4, 2, 5, 3)
        return [blocks.reshape(batch, channels // block**2, height * block, width * block)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return copy_work(op, (required(op, inputs, 0, "input"),), outputs, 1)


@operator("SpaceToDepth")
class SpaceToDepth(Operator):
    """Blocks of pixels become channels."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "input")
        batch, channels, height, width, block = _image(op, source.shape)
        if height % block or width % block:
            raise bad(op, f"an image of {height} x {width} is not made of blocks of {block} x {block}")
        return [((batch, channels * block**2, height // block, width // block), source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "input")
        batch, channels, height, width, block = _image(op, source.shape)
        blocks = source.reshape(batch, channels, height // block, block, width // block, block)
        order = (0, 3, 5, 1, 2, 4) if text(op, "mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
        return [blocks.transpose(order).reshape(batch, -1, height // block, width // block)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return copy_work(op, (required(op, inputs, 0, "input"),), outputs, 1)


@operator("Col2Im")
class Col2Im(Operator):
    """Columns (batch, channels * block, positions) added up into an image, the transpose of unfolding."""

    @staticmethod
    def _geometry(op: Op, inputs: Sequence[Any]) -> tuple[tuple[int, ...], Window]:
        image, block = integers(op, inputs, 1, "image_shape"), integers(op, inputs, 2, "block_shape")
        if image is None or block is None or len(image) != len(block):
            raise bad(op, f"'image_shape' {image} and 'block_shape' {block} disagree")
        rank = len(image)
        stride, dilation = per_axis(op, "strides", rank, 1), per_axis(op, "dilations", rank, 1)
        return image, Window(block, stride, dilation, *padding(op, rank))

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "input")
        image, window = self._geometry(op, inputs)
        positions = math.prod(window.outputs(image))
        if len(source.shape) != 3 or source.shape[1] % math.prod(window.kernel) or source.shape[2] != positions:
            raise bad(op, f"input {list(source.shape)}, expected (batch, channels x block, {positions} positions)")
        return [((source.shape[0], source.shape[1] // math.prod(window.kernel), *image), source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "input")
        image, window = self._geometry(op, inputs)
        positions = window.outputs(image)
        columns = source.reshape(source.shape[0], -1, *window.kernel, *positions)
        padded = [sum(extents) for extents in zip(window.before, image, window.after, strict=True)]
        result = np.zeros((*columns.shape[:2], *padded), source.dtype)
        for offsets in np.ndindex(*window.kernel):
            place: Any = tuple(
                slice(offset * dilation, offset * dilation + (count - 1) * stride + 1, stride)
                for offset, dilation, count, stride in zip(
                    offsets, window.dilation, positions, window.stride, strict=True
                )
            )
            result[(..., *place)] += columns[(slice(None), slice(None), *offsets)]
        crop: Any = tuple(slice(before, before + extent) for before, extent in zip(window.before, image, strict=True))
        return [np.ascontiguousarray(result[(..., *crop)])]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source = required(op, inputs, 0, "input")
        return reduce_work(op, (source,), outputs, max(1, -(-source.elements // max(outputs[0].elements, 1))), 1)


@operator("UnfoldTensor", domain="com.microsoft")
class UnfoldTensor(Operator):
    """All slices of `size` along axis `dim`, `step` apart, on a new last axis (torch.Tensor.unfold)."""

    @staticmethod
    def _slices(op: Op, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """The axis, how many slices there are, and their distance."""
        axis = normal_axis(op, int(op.attributes.get("dim", -1)), len(shape))
        size, step = int(op.attributes.get("size", 0)), int(op.attributes.get("step", 1))
        if not 0 < size <= shape[axis] or step < 1:
            raise bad(op, f"slices of {size}, {step} apart, of axis {axis} of shape {list(shape)}")
        return axis, (shape[axis] - size) // step + 1, step

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        value = required(op, inputs, 0, "input")
        axis, count, _ = self._slices(op, value.shape)
        shape = (*value.shape[:axis], count, *value.shape[axis + 1 :], int(op.attributes["size"]))
        return [(shape, value.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values = required(op, inputs, 0, "input")
        axis, _, step = self._slices(op, values.shape)
        windows = np.lib.stride_tricks.sliding_window_view(values, int(op.attributes["size"]), axis)
        return [np.ascontiguousarray(windows[(slice(None),) * axis + (slice(None, None, step),)])]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        value = required(op, inputs, 0, "input")
        axis, _, _ = self._slices(op, value.shape)
        run = int(op.attributes["size"]) if axis == len(value.shape) - 1 else 1
        return copy_work(op, [value], outputs, run)
