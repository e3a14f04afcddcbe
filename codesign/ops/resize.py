"""Resize and Upsample: interpolation along one axis after another, each with its own taps and weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, before_opset, narrowed, normal_axis, required, setting, text, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import map_work
from codesign.work import Work

_TAPS = {"nearest": 1, "linear": 2, "cubic": 4}


@dataclass(frozen=True, slots=True)
class Axis:
    """One resized axis: extents, the factor between them, and the part of the input that is read (`crop`)."""

    place: int
    extent: int
    result: int
    scale: float
    crop: tuple[float, float] = (0.0, 1.0)


def coordinates(axis: Axis, transformation: str) -> Array:
    """Where each point of the result lies on the input's axis."""
    points = np.arange(axis.result, dtype=np.float64)
    span, length = axis.extent - 1, axis.scale * axis.extent
    if transformation == "asymmetric":
        return points / axis.scale
    if transformation == "align_corners":
        return points * span / (length - 1) if length != 1 else points * 0.0
    if transformation == "tf_crop_and_resize":
        start, end = axis.crop
        if axis.result > 1:
            return start * span + points * (end - start) * span / (axis.result - 1)
        return np.full(axis.result, 0.5 * (start + end) * span)
    if transformation == "pytorch_half_pixel" and axis.result == 1:
        return points * 0.0
    centred = (points + 0.5) / axis.scale - 0.5
    if transformation == "half_pixel_symmetric":
        return axis.extent / 2 * (1 - axis.result / length) + centred
    return centred


def nearest(axis: Axis, place: Array, mode: str) -> Array:
    """Index of the input that each coordinate takes."""
    if mode == "simple":  # Resize of opset 10, as ONNX Runtime defines what the standard left open
        chosen = np.ceil(place) if axis.scale < 1 else np.floor(place)
    elif mode in ("floor", "ceil"):
        chosen = np.floor(place) if mode == "floor" else np.ceil(place)
    else:
        chosen = np.floor(place + 0.5) if mode == "round_prefer_ceil" else np.ceil(place - 0.5)
    return np.clip(chosen, 0, axis.extent - 1).astype(np.int64)


def triangle(distance: Array) -> Array:
    """Weight of a neighbour in linear interpolation, by its distance."""
    return np.clip(1 - distance, 0, None)


def cubic(distance: Array, a: float) -> Array:
    """The same in cubic convolution: Keys, IEEE Trans. ASSP 29(6), 1981, equation 4."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def taps(op: Op, axis: Axis, place: Array, mode: str) -> tuple[Array, Array]:
    """Indices and weights, (result, taps), of the interpolation at coordinates `place`."""
    stretch = min(axis.scale, 1.0) if op.attributes.get("antialias", 0) else 1.0
    reach = math.ceil(_TAPS[mode] / 2 / stretch)
    index = np.floor(place).astype(np.int64)[:, None] + np.arange(1 - reach, reach + 1)
    distance = np.abs(index - place[:, None]) * stretch
    weight = triangle(distance) if mode == "linear" else cubic(distance, op.attributes.get("cubic_coeff_a", -0.75))
    if op.attributes.get("exclude_outside", 0):
        weight = np.where((index >= 0) & (index < axis.extent), weight, 0)
    weight = weight / weight.sum(axis=1, keepdims=True)
    return np.clip(index, 0, axis.extent - 1), weight


def interpolate(values: Array, axis: Axis, index: Array, weight: Array) -> Array:
    """The weighted sum of the taps, one tap for all points at a time."""
    shape = [-1 if place == axis.place else 1 for place in range(values.ndim)]
    kind = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
    result = np.zeros([axis.result if place == axis.place else one for place, one in enumerate(values.shape)], kind)
    for tap in range(index.shape[1]):
        result += np.take(values, index[:, tap], axis.place) * weight[:, tap].reshape(shape).astype(kind)
    return result


@operator("Resize", "Upsample")
class Resize(Operator):
    """Upsample, and Resize of opset 10, know scales only, and lay the points from the first on (asymmetric)."""

    @staticmethod
    def _plain(op: Op) -> bool:
        return op.kind == "Upsample" or before_opset(op, 11)

    @classmethod
    def _transformation(cls, op: Op) -> str:
        return "asymmetric" if cls._plain(op) else text(op, "coordinate_transformation_mode", "half_pixel")

    @classmethod
    def _axes(cls, op: Op, shape: tuple[int, ...], inputs: Sequence[Any]) -> list[Axis]:
        """The axes that may change."""
        places = [normal_axis(op, one, len(shape)) for one in op.attributes.get("axes", range(len(shape)))]
        crops = [(0.0, 1.0)] * len(places)
        if cls._transformation(op) == "tf_crop_and_resize":
            region = setting(op, inputs, 1, "roi")
            if region is None or region.size != 2 * len(places):
                raise bad(op, f"'roi' must hold {2 * len(places)} numbers")
            crops = [(float(start), float(end)) for start, end in region.reshape(2, -1).T]
        scales = setting(op, inputs, 1 if cls._plain(op) else 2, "scales")
        if scales is not None and scales.size:
            if scales.size != len(places) or scales.min() <= 0:
                raise bad(op, f"'scales' is {scales.tolist()}, expected {len(places)} positive numbers")
            return [
                Axis(place, shape[place], math.floor(shape[place] * (end - start) * scale), float(scale), (start, end))
                for place, scale, (start, end) in zip(places, scales.ravel(), crops, strict=True)
            ]
        return cls._to_sizes(op, shape, places, crops, setting(op, () if cls._plain(op) else inputs, 3, "sizes"))

    @staticmethod
    def _to_sizes(
        op: Op, shape: tuple[int, ...], places: list[int], crops: list[tuple[float, float]], sizes: Array | None
    ) -> list[Axis]:
        if sizes is None or sizes.size != len(places):
            raise bad(op, f"expected 'scales' or 'sizes', one number for each of {len(places)} axes")
        factors = [int(size) / shape[place] for place, size in zip(places, sizes.ravel(), strict=True)]
        policy = text(op, "keep_aspect_ratio_policy", "stretch")
        if policy == "stretch":
            return [
                Axis(place, shape[place], int(size), factor, crop)
                for place, size, factor, crop in zip(places, sizes.ravel(), factors, crops, strict=True)
            ]
        factor = min(factors) if policy == "not_larger" else max(factors)
        return [
            Axis(place, shape[place], math.floor(factor * shape[place] + 0.5), factor, crop)
            for place, crop in zip(places, crops, strict=True)
        ]

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "X")
        shape = list(source.shape)
        for axis in self._axes(op, source.shape, inputs):
            shape[axis.place] = axis.result
        return [(tuple(shape), source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "X")
        mode, transformation = self._mode(op), self._transformation(op)
        values, outside = widened(source), np.zeros((1,) * source.ndim, np.bool_)
        for axis in self._axes(op, source.shape, inputs):
            if axis.extent == axis.result and axis.scale == 1 and axis.crop == (0.0, 1.0):
                continue
            place = coordinates(axis, transformation)
            if transformation == "tf_crop_and_resize":
                beyond = (place < 0) | (place > axis.extent - 1)
                outside = outside | beyond.reshape([-1 if one == axis.place else 1 for one in range(source.ndim)])
            if mode == "nearest":
                default = "simple" if self._plain(op) else "round_prefer_floor"
                values = np.take(values, nearest(axis, place, text(op, "nearest_mode", default)), axis.place)
            else:
                values = interpolate(values, axis, *taps(op, axis, place, mode))
        if outside.any():
            values = np.where(outside, values.dtype.type(op.attributes.get("extrapolation_value", 0.0)), values)
        return [self._rounded(values, source.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """A product and a sum a tap, on every axis that changes; the nearest is a selection."""
        source, result = required(op, inputs, 0, "X"), outputs[0]
        mode, flops = self._mode(op), 0.0
        for extent, length in zip(source.shape, result.shape, strict=True):
            stretch = max(extent / max(length, 1), 1.0) if op.attributes.get("antialias", 0) else 1.0
            flops += 2 * _TAPS[mode] * stretch if extent != length else 0.0
        return map_work(op, (source,), outputs, 1.0 if mode == "nearest" else max(flops, 1.0))

    @staticmethod
    def _mode(op: Op) -> str:
        mode = text(op, "mode", "nearest")
        mode = {"bilinear": "linear"}.get(mode, mode)
        if mode not in _TAPS:
            raise bad(op, f"mode '{mode}' is unknown; expected {', '.join(_TAPS)}")
        return mode

    @staticmethod
    def _rounded(values: Array, kind: np.dtype[Any]) -> Array:
        if kind.kind in "iu" and values.dtype.kind == "f":
            limits = np.iinfo(kind)
            values = np.clip(np.rint(values), limits.min, limits.max)
        return narrowed(values, kind)
