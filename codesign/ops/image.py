"""Sampling an image at computed places: GridSample and the grid of an affine map."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, integers, narrowed, operands, required, text, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import map_work
from codesign.ops.resize import cubic, triangle
from codesign.work import Map, Work

_MODES = {
    "nearest": "nearest", "linear": "linear", "bilinear": "linear", "cubic": "cubic", "bicubic": "cubic",
}  # fmt: skip
_TAPS = {"nearest": 1, "linear": 2, "cubic": 4}
# The coefficient of cubic convolution that the standard takes for GridSample, PyTorch's.
_CUBIC = -0.75


def _placed(index: Array, extent: int, padding: str, align: bool) -> tuple[Array, Array]:
    """Indices inside the axis, and where they were inside before."""
    inside = (index >= 0) & (index < extent)
    if padding == "reflection":
        if align:
            period = max(2 * (extent - 1), 1)
            index = np.mod(index, period)
            index = np.where(index >= extent, period - index, index)
        else:
            index = np.mod(index, 2 * extent)
            index = np.where(index >= extent, 2 * extent - 1 - index, index)
    return np.clip(index, 0, extent - 1).astype(np.int64), inside


def _weighted_taps(place: Array, mode: str) -> list[tuple[Array, Array]]:
    """(index, weight) of each tap at the coordinates `place`."""
    if mode == "nearest":
        return [(np.rint(place), np.ones_like(place))]
    reach = _TAPS[mode] // 2
    found = []
    for step in range(1 - reach, reach + 1):
        index = np.floor(place) + step
        distance = np.abs(index - place)
        found.append((index, triangle(distance) if mode == "linear" else cubic(distance, _CUBIC)))
    return found


def grid_sample(image: Array, grid: Array, mode: str, padding: str, align: bool) -> Array:
    """image (batch, channels, *spatial) at grid (batch, *result, axes), whose numbers from -1 to 1 span the image and
    name the last axis first."""
    spatial = image.shape[2:]
    flat = image.reshape(*image.shape[:2], -1)
    points = grid.reshape(grid.shape[0], -1, len(spatial))
    axes = []
    for axis, extent in enumerate(spatial):
        place = points[..., len(spatial) - 1 - axis].astype(np.float64)
        place = (place + 1) / 2 * (extent - 1) if align else ((place + 1) * extent - 1) / 2
        axes.append(_weighted_taps(place, mode))
    result = np.zeros((*image.shape[:2], points.shape[1]), np.float64)
    for combination in itertools.product(*axes):
        address, weight = np.zeros(points.shape[:2], np.int64), np.ones(points.shape[:2])
        for extent, (index, share) in zip(spatial, combination, strict=True):
            index, inside = _placed(index, extent, padding, align)
            address = address * extent + index
            weight = weight * (np.where(inside, share, 0) if padding == "zeros" else share)
        result += np.take_along_axis(flat, address[:, None], 2) * weight[:, None]
    return result.reshape(*image.shape[:2], *grid.shape[1:-1])


@operator("GridSample", domain="com.microsoft")
@operator("GridSample")
class GridSample(Operator):
    @staticmethod
    def _mode(op: Op) -> str:
        mode = text(op, "mode", "linear")
        if mode not in _MODES:
            raise bad(op, f"mode '{mode}' is unknown; expected {', '.join(_MODES)}")
        return _MODES[mode]

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        image, grid = required(op, inputs, 0, "X"), required(op, inputs, 1, "grid")
        if len(image.shape) < 3 or grid.shape[-1:] != (len(image.shape) - 2,) or grid.shape[0] != image.shape[0]:
            raise bad(op, f"a grid of shape {list(grid.shape)} does not address an image of {list(image.shape)}")
        return [((*image.shape[:2], *grid.shape[1:-1]), image.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        image, grid = required(op, inputs, 0, "X"), required(op, inputs, 1, "grid")
        padding, align = text(op, "padding_mode", "zeros"), bool(op.attributes.get("align_corners", 0))
        sampled = grid_sample(widened(image), widened(grid), self._mode(op), padding, align)
        return [narrowed(sampled, image.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """A product and a sum a tap, in the box that the taps of all axes make."""
        taps = _TAPS[self._mode(op)] ** (len(outputs[0].shape) - 2)
        return map_work(op, inputs, outputs, 2.0 * taps if taps > 1 else 1.0)


@operator("AffineGrid")
class AffineGrid(Operator):
    """theta (batch, axes, axes + 1) applied to the evenly spaced points of an image of `size`."""

    @staticmethod
    def _size(op: Op, inputs: Sequence[Any]) -> tuple[int, ...]:
        size = integers(op, inputs, 1, "size")
        theta = required(op, inputs, 0, "theta").shape
        if size is None or len(theta) != 3 or theta[1] != len(size) - 2 or theta[2] != len(size) - 1:
            raise bad(op, f"theta {list(theta)} does not map the points of an image of size {size}")
        return size

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        size = self._size(op, inputs)
        return [((size[0], *size[2:], len(size) - 2), required(op, inputs, 0, "theta").dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        theta, spatial = required(op, inputs, 0, "theta"), self._size(op, inputs)[2:]
        matrix = widened(theta)
        lines = [
            np.linspace(-1, 1, extent)
            if op.attributes.get("align_corners", 0)
            else (2 * np.arange(extent) + 1) / extent - 1
            for extent in spatial
        ]
        points = np.stack([*reversed(np.meshgrid(*lines, indexing="ij")), np.ones(spatial)], axis=-1)
        grid = points.reshape(1, math.prod(spatial), -1) @ matrix.transpose(0, 2, 1)
        return [narrowed(grid.reshape(len(theta), *spatial, len(spatial)), theta.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """A product and a sum for each axis, and the shift."""
        return Map(
            kind=op.kind, reads=operands(inputs, 0), writes=operands(outputs), elements=outputs[0].elements,
            flops_per_element=2.0 * outputs[0].shape[-1] + 1, dtype=outputs[0].dtype,
        )  # fmt: skip
