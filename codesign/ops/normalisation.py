"""Normalisations: by stored statistics (BatchNormalization) or by those of a row, a group or a window of channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.activations import SIGMOID, sigmoid
from codesign.ops.arguments import bad, narrowed, normal_axis, operands, optional, required, text, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.work import Map, Reduce, Work

# Scalar operations an element: mean (1), variance (3), shift and scale (2), gain and bias (2).
MEAN_VARIANCE_FLOPS = 8.0
# Square and add (2), scale (1), gain (1).
_ROOT_MEAN_SQUARE_FLOPS = 4.0


def row_work(op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value], columns: int, flops: float) -> Reduce:
    value = required(op, inputs, 0, "X")
    return Reduce(
        kind=op.kind,
        reads=operands(inputs),
        writes=tuple(output.operand() for output in outputs),
        rows=value.elements // max(columns, 1),
        columns=columns,
        passes=2,
        flops_per_element=flops,
        dtype=value.dtype,
    )


def _per_channel(vector: Array, rank: int) -> Array:
    return vector.reshape(-1, *(1,) * (rank - 2))


def standardise(values: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    """(x - mean) / sqrt(variance + epsilon) over the last axes, with the mean and the reciprocal deviation (axes kept).

    Types narrower than float32 are computed, and returned, as that.
    """
    wide = widened(values)
    if wide.dtype == np.float32 and wide.size:
        from codesign.executor.kernels.rows import standardise_rows

        return _by_rows(standardise_rows, wide, axes, epsilon, 2)
    mean = wide.mean(axis=axes, keepdims=True)
    result = wide - mean
    variance = np.square(result).mean(axis=axes, keepdims=True)
    inverse = (1 / np.sqrt(variance + np.asarray(epsilon, wide.dtype))).astype(wide.dtype)
    result *= inverse
    return result, mean, inverse


def root_mean_square(values: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array]:
    """x / sqrt(mean(x^2) + epsilon) over the last axes, and the reciprocal root (axes kept), typed as `standardise`."""
    wide = widened(values)
    if wide.dtype == np.float32 and wide.size:
        from codesign.executor.kernels.rows import scale_rows_to_unit

        return _by_rows(scale_rows_to_unit, wide, axes, epsilon, 1)
    mean = np.square(wide).mean(axis=axes, keepdims=True)
    inverse = (1 / np.sqrt(mean + np.asarray(epsilon, wide.dtype))).astype(wide.dtype)
    return wide * inverse, inverse


def _by_rows(kernel: Callable[..., None], values: Array, axes: tuple[int, ...], epsilon: float, kept: int) -> Any:
    """The result and `kept` statistics of a kernel that works in place on rows."""
    rows = math.prod(values.shape[: values.ndim - len(axes)])
    result = np.array(values, order="C")
    statistics = [np.empty(rows, values.dtype) for _ in range(kept)]
    kernel(result.reshape(rows, -1), values.dtype.type(epsilon), *statistics)
    shape = (*values.shape[: values.ndim - len(axes)], *(1,) * len(axes))
    return result, *(statistic.reshape(shape) for statistic in statistics)


@operator("BatchNormalization")
class BatchNormalization(Operator):
    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        value = required(op, inputs, 0, "X")
        if len(value.shape) < 2:
            raise bad(op, f"expected (batch, channels, ...), got {list(value.shape)}")
        for index, what in enumerate(("scale", "B", "mean", "var"), start=1):
            vector = required(op, inputs, index, what)
            if vector.elements != value.shape[1]:
                raise bad(op, f"'{what}' has {vector.elements} elements for {value.shape[1]} channels")
        statistics = (value.shape[1:2], required(op, inputs, 3, "mean").dtype)
        return [(value.shape, value.dtype), *[statistics] * (len(op.outputs) - 1)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values = required(op, inputs, 0, "X")
        scale, shift, mean, variance = (required(op, inputs, index, "statistics") for index in range(1, 5))
        epsilon, momentum = op.attributes.get("epsilon", 1e-5), op.attributes.get("momentum", 0.9)
        running: list[Array] = []
        if op.attributes.get("training_mode", 0):
            axes = (0, *range(2, values.ndim))
            stored = (mean, variance)
            mean, variance = values.mean(axis=axes), values.var(axis=axes)
            running = [
                (old * momentum + new * (1 - momentum)).astype(old.dtype)
                for old, new in zip(stored, (mean, variance), strict=True)
            ]
        gain = scale / np.sqrt(variance + np.asarray(epsilon, variance.dtype))
        offset = shift - mean * gain
        result = values * _per_channel(gain, values.ndim).astype(values.dtype)
        result += _per_channel(offset, values.ndim).astype(values.dtype)
        return [result, *running][: len(op.outputs)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        value = required(op, inputs, 0, "X")
        return Map(
            kind=op.kind,
            reads=operands(inputs),
            writes=tuple(output.operand() for output in outputs),
            elements=value.elements,
            flops_per_element=2.0,
            dtype=value.dtype,
        )

    def flops_per_element(self, op: Op) -> float | None:
        return 2.0


class _RowNormalization(Operator):
    """Normalises all axes from `axis` on; gain and bias broadcast over them."""

    @staticmethod
    def _axes(op: Op, rank: int) -> tuple[int, ...]:
        return tuple(range(normal_axis(op, int(op.attributes.get("axis", -1)), rank), rank))

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        value = required(op, inputs, 0, "X")
        axes = self._axes(op, len(value.shape))
        required(op, inputs, 1, "Scale")
        kept = tuple(1 if index in axes else extent for index, extent in enumerate(value.shape))
        return [(value.shape, value.dtype), *[(kept, "float32")] * (len(op.outputs) - 1)]


@operator("LayerNormalization")
class LayerNormalization(_RowNormalization):
    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values, gain, bias = required(op, inputs, 0, "X"), required(op, inputs, 1, "Scale"), optional(inputs, 2)
        result, mean, inverse = standardise(values, self._axes(op, values.ndim), op.attributes.get("epsilon", 1e-5))
        result *= gain
        if bias is not None:
            result += bias
        return [narrowed(result, values.dtype), mean, inverse][: len(op.outputs)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        shape = required(op, inputs, 0, "X").shape
        columns = math.prod(shape[axis] for axis in self._axes(op, len(shape)))
        return row_work(op, inputs, outputs, columns, MEAN_VARIANCE_FLOPS)


@operator("RMSNormalization", "SimplifiedLayerNormalization")
@operator("SimplifiedLayerNormalization", domain="com.microsoft")
class RMSNormalization(_RowNormalization):
    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values, gain = required(op, inputs, 0, "X"), required(op, inputs, 1, "scale")
        result, inverse = root_mean_square(values, self._axes(op, values.ndim), op.attributes.get("epsilon", 1e-5))
        result *= gain
        return [narrowed(result, values.dtype), inverse][: len(op.outputs)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        shape = required(op, inputs, 0, "X").shape
        columns = math.prod(shape[axis] for axis in self._axes(op, len(shape)))
        return row_work(op, inputs, outputs, columns, _ROOT_MEAN_SQUARE_FLOPS)


@operator("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
class SkipLayerNormalization(Operator):
    """Sum of input, skip and bias, normalised over the last axis; the sum itself is the fourth output."""

    @staticmethod
    def _simplified(op: Op) -> bool:
        return op.kind == "SkipSimplifiedLayerNormalization"

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        value, _ = required(op, inputs, 0, "input"), required(op, inputs, 1, "skip")
        gain = required(op, inputs, 2, "gamma")
        if gain.elements != value.shape[-1]:
            raise bad(op, f"'gamma' has {gain.elements} elements for rows of {value.shape[-1]}")
        row = ((*value.shape[:-1], 1), "float32")
        return [(value.shape, value.dtype), row, row, (value.shape, value.dtype)][: len(op.outputs)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        total = required(op, inputs, 0, "input") + required(op, inputs, 1, "skip")
        gain = required(op, inputs, 2, "gamma")
        bias = optional(inputs, 3 if self._simplified(op) else 4)
        if bias is not None:
            total += bias
        epsilon = op.attributes.get("epsilon", 1e-5 if self._simplified(op) else 1e-12)
        axes = (total.ndim - 1,)
        if self._simplified(op):
            result, inverse = root_mean_square(total, axes, epsilon)
            mean = np.zeros_like(inverse)
        else:
            result, mean, inverse = standardise(total, axes, epsilon)
        result *= gain
        shift = None if self._simplified(op) else optional(inputs, 3)
        if shift is not None:
            result += shift
        return [narrowed(result, total.dtype), mean, inverse, total][: len(op.outputs)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        flops = _ROOT_MEAN_SQUARE_FLOPS if self._simplified(op) else MEAN_VARIANCE_FLOPS
        additions = 1 if optional(inputs, 3 if self._simplified(op) else 4) is None else 2
        return row_work(op, inputs, outputs, required(op, inputs, 0, "input").shape[-1], flops + additions)


@operator("GatedRMSNorm", "BranchwiseRMSNorm", domain="com.microsoft")
class GroupedRMSNormalization(Operator):
    """x / root mean square of each group of channels of the last axis, times a scale: of a group, or of each channel.
    GatedRMSNorm takes groups as long as its scale and multiplies by silu or sigmoid of a gate; BranchwiseRMSNorm takes
    `num_branches` groups, or the whole axis."""

    @staticmethod
    def _group(op: Op, inputs: Sequence[Any]) -> int:
        """Channels of a group."""
        width, scale = required(op, inputs, 0, "X").shape[-1], optional(inputs, 1)
        if op.kind == "GatedRMSNorm":
            group = required(op, inputs, 1, "scale").shape[0]
        else:
            group = width // max(int(op.attributes.get("num_branches", 0)), 1)
        if group < 1 or width % group or (scale is not None and math.prod(scale.shape) % group):
            raise bad(op, f"{width} channels do not split into groups of {group}")
        return group

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        self._group(op, inputs)
        value = required(op, inputs, 0, "X")
        return [(value.shape, value.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values, scale, gate = required(op, inputs, 0, "X"), optional(inputs, 1), optional(inputs, 2)
        group = self._group(op, inputs)
        rows = widened(values).reshape(*values.shape[:-1], -1, group)
        result = root_mean_square(rows, (rows.ndim - 1,), op.attributes.get("epsilon", 1e-5))[0]
        if scale is not None:
            if scale.size == group:
                result *= widened(scale).reshape(group)
            else:
                result = result.reshape(values.shape[0], -1, scale.size) * widened(scale).reshape(-1)
        result = result.reshape(values.shape)
        if gate is not None:
            opened = sigmoid(np.ascontiguousarray(widened(gate)))
            result *= opened if text(op, "activation", "silu") == "sigmoid" else opened * widened(gate)
        return [narrowed(result, values.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        gate = SIGMOID + 2 if optional(inputs, 2) is not None else 0
        work = row_work(op, inputs, outputs, self._group(op, inputs), _ROOT_MEAN_SQUARE_FLOPS + gate)
        return replace(work, kind="RMSNormalization")


@operator("InstanceNormalization", "GroupNormalization")
class GroupNormalization(Operator):
    """Normalises groups of channels with all their positions; an instance normalisation has one channel a group."""

    @staticmethod
    def _groups(op: Op, shape: tuple[int, ...]) -> int:
        groups = int(op.attributes.get("num_groups", shape[1])) if len(shape) > 1 else 0
        if groups < 1 or shape[1] % groups:
            raise bad(op, f"input {list(shape)} does not split into {groups} groups of channels")
        return groups

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        value = required(op, inputs, 0, "X")
        self._groups(op, value.shape)
        return [(value.shape, value.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values, gain, bias = (required(op, inputs, index, name) for index, name in enumerate(("X", "scale", "bias")))
        groups = self._groups(op, values.shape)
        grouped = values.reshape(values.shape[0], groups, -1)
        result = standardise(grouped, (2,), op.attributes.get("epsilon", 1e-5))[0].reshape(values.shape)
        channels = values.shape[1]
        # Before opset 21 the gain and bias were one a group, not one a channel.
        gain, bias = (np.repeat(vector, channels // vector.size) for vector in (gain, bias))
        result *= _per_channel(gain, values.ndim)
        result += _per_channel(bias, values.ndim)
        return [narrowed(result, values.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        value = required(op, inputs, 0, "X")
        rows = value.shape[0] * self._groups(op, value.shape)
        return row_work(op, inputs, outputs, value.elements // max(rows, 1), MEAN_VARIANCE_FLOPS)


@operator("LpNormalization")
class LpNormalization(Operator):
    """Divides by the sum of magnitudes (p = 1) or the Euclidean length (p = 2) along an axis; zero rows stay zero."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        value = required(op, inputs, 0, "input")
        normal_axis(op, int(op.attributes.get("axis", -1)), len(value.shape))
        if op.attributes.get("p", 2) not in (1, 2):
            raise bad(op, f"attribute 'p' is {op.attributes['p']}, expected 1 or 2")
        return [(value.shape, value.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values = required(op, inputs, 0, "input")
        length = np.linalg.norm(values, op.attributes.get("p", 2), int(op.attributes.get("axis", -1)), keepdims=True)
        return [values / np.where(length == 0, 1, length).astype(values.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        shape = required(op, inputs, 0, "input").shape
        return row_work(op, inputs, outputs, shape[int(op.attributes.get("axis", -1))], 3.0)


@operator("LRN")
class LocalResponseNormalization(Operator):
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels) ^ beta."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        value = required(op, inputs, 0, "X")
        if len(value.shape) < 2 or int(op.attributes.get("size", 0)) < 1:
            raise bad(op, f"expected (batch, channels, ...) and a positive 'size', got {list(value.shape)}")
        return [(value.shape, value.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values, size = required(op, inputs, 0, "X"), int(op.attributes["size"])
        before = (size - 1) // 2
        rest = [(0, 0)] * (values.ndim - 2)
        squares = np.pad(np.square(values), [(0, 0), (before, size - 1 - before), *rest])
        total = np.lib.stride_tricks.sliding_window_view(squares, size, axis=1).sum(axis=-1)
        alpha, beta, bias = (op.attributes.get(name, default) for name, default in _LRN_DEFAULTS)
        return [(values / (bias + alpha / size * total) ** beta).astype(values.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        value = required(op, inputs, 0, "X")
        return Map(
            kind=op.kind,
            reads=operands(inputs, 0),
            writes=(outputs[0].operand(),),
            elements=value.elements,
            # Square and add for each neighbour; then scale, shift, power and division.
            flops_per_element=2.0 * int(op.attributes["size"]) + 4.0,
            dtype=value.dtype,
        )


_LRN_DEFAULTS = (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))


@operator("MeanVarianceNormalization")
class MeanVarianceNormalization(Operator):
    """(x - mean) / deviation over `axes`, by default all but the channels."""

    @staticmethod
    def _axes(op: Op, rank: int) -> tuple[int, ...]:
        return tuple(normal_axis(op, int(axis), rank) for axis in op.attributes.get("axes", (0, 2, 3)))

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        value = required(op, inputs, 0, "X")
        self._axes(op, len(value.shape))
        return [(value.shape, value.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values = required(op, inputs, 0, "X")
        # The standard adds 1e-9 to the deviation, not to the variance.
        axes = self._axes(op, values.ndim)
        centred = values - values.mean(axis=axes, keepdims=True)
        deviation = np.sqrt(np.square(centred).mean(axis=axes, keepdims=True))
        return [centred / (deviation + values.dtype.type(1e-9))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        shape = required(op, inputs, 0, "X").shape
        columns = math.prod(shape[axis] for axis in self._axes(op, len(shape)))
        return row_work(op, inputs, outputs, columns, MEAN_VARIANCE_FLOPS - 2)
