"""ONNX Runtime's operators on 8-bit values that are a standard operator between dequantising and quantising."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from codesign.dtypes import name_of
from codesign.graph import Op
from codesign.ops.arguments import normal_axis, optional, required, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, find, operator
from codesign.ops.layout import channels_first_value, computed_channels_first, own_shape
from codesign.ops.pooling import average_pool_in_order, pool_window
from codesign.ops.quantisation import DEQUANTISE_FLOPS, QUANTISE_FLOPS, integer_limits, saturated
from codesign.work import Work


@dataclass(frozen=True, slots=True)
class Form:
    """Where the inputs of an operator stand: quantised values with their scale and zero point from `first` on, every
    third input up to `last` (None: to the end), the result's scale at `scale` with its zero point after it. What comes
    before the values and is not the result's scale is handed on as it is. `opset` is the version `standard` follows;
    with `zero_first` the zero point is added before rounding, which moves halves."""

    standard: str
    first: int
    last: int | None
    scale: int
    opset: int


_FORMS = {
    "QLinearSigmoid": Form("Sigmoid", 0, 1, 3, 13),
    "QLinearLeakyRelu": Form("LeakyRelu", 0, 1, 3, 16),
    "QLinearSoftmax": Form("Softmax", 0, 1, 3, 13),
    "QLinearGlobalAveragePool": Form("GlobalAveragePool", 0, 1, 3, 1),
    "QLinearAveragePool": Form("AveragePool", 0, 1, 3, 11),
    "QLinearReduceMean": Form("ReduceMean", 0, 1, 3, 13),
    "QLinearConcat": Form("Concat", 2, None, 0, 13),
    "QLinearWhere": Form("Where", 1, 5, 7, 16),
}
_OWN_ATTRIBUTES = ("opset", "channels_last")


@operator(*_FORMS, domain="com.microsoft")
class QuantisedForm(Operator):
    """round(f(x) / scale) + zero point, for x dequantised and f a standard operator (contrib operators of
    onnxruntime, domain com.microsoft). Where its kernels compute otherwise (softmax, averages), ours follow them."""

    @staticmethod
    def _standard(op: Op) -> Op:
        """The operation in the middle, without the names of tensors."""
        form = _FORMS[op.kind]
        attributes = {name: value for name, value in op.attributes.items() if name not in _OWN_ATTRIBUTES}
        return Op(op.name, form.standard, (), op.outputs, attributes, "", int(op.attributes.get("opset", form.opset)))

    @staticmethod
    def _positions(op: Op, count: int) -> tuple[range, range]:
        """Positions of the inputs handed on as they are, and of the quantised ones."""
        form = _FORMS[op.kind]
        return range(0 if form.scale else form.first, form.first), range(form.first, form.last or count, 3)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        plain, quantised = self._positions(op, len(inputs))
        given = [required(op, inputs, index, "input") for index in (*plain, *quantised)]
        real = [channels_first_value(op, replace(value, dtype="float32")) for value in given[len(plain) :]]
        inner = self._standard(op)
        ((shape, _),) = find(inner).infer(inner, [*given[: len(plain)], *real])
        return [(own_shape(op, shape), given[len(plain)].dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        if op.kind in _OWN:
            return [computed_channels_first(op, inputs, _OWN[op.kind])]
        plain, quantised = self._positions(op, len(inputs))
        inner, form = self._standard(op), _FORMS[op.kind]
        arguments = [required(op, inputs, index, "input") for index in plain]
        arguments += [_dequantised(op, inputs, index) for index in quantised]
        result = find(inner).compute(inner, arguments)[0] / required(op, inputs, form.scale, "scale of the result")
        zero = optional(inputs, form.scale + 1)
        target = name_of(required(op, inputs, form.first, "values").dtype)
        return [saturated(result, 0 if zero is None else zero, target)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        plain, quantised = self._positions(op, len(inputs))
        inner = self._standard(op)
        given = [required(op, inputs, index, "input") for index in (*plain, *quantised)]
        work = find(inner).work(
            inner,
            [*given[: len(plain)], *(channels_first_value(op, value) for value in given[len(plain) :])],
            [channels_first_value(op, outputs[0])],
        )
        elements = sum(value.elements for value in given[len(plain) :])
        conversions = int(DEQUANTISE_FLOPS * elements + QUANTISE_FLOPS * outputs[0].elements)
        # Of the standard operator's kind: devices know its functions by that name.
        return replace(work, epilogue_flops=work.epilogue_flops + conversions, requantise_flops=conversions)


def _dequantised(op: Op, inputs: Sequence[Array | None], index: int) -> Array:
    """(x - zero point) scale for the values at `index`, the two after them."""
    values, scale = required(op, inputs, index, "values"), required(op, inputs, index + 1, "scale")
    zero = optional(inputs, index + 2)
    whole = widened(values).astype(np.int32)
    return np.asarray((whole if zero is None else whole - widened(zero).astype(np.int32)).astype(np.float32) * scale)


def _scale(op: Op, inputs: Sequence[Array | None], index: int) -> np.float32:
    return np.float32(required(op, inputs, index, "scale").reshape(()))


def _zero(inputs: Sequence[Array | None], index: int) -> int:
    zero = optional(inputs, index)
    return 0 if zero is None else int(zero.reshape(()))


def _average(op: Op, inputs: Sequence[Array | None]) -> Array:
    """The zero point is added before rounding, which moves halves (qlinear_pool.cc)."""
    values = _dequantised(op, inputs, 0)
    found, counts = pool_window(op, values.shape)
    real = average_pool_in_order(values, found, counts, bool(op.attributes.get("count_include_pad", 0)))
    real /= _scale(op, inputs, 3)
    real += np.float32(_zero(inputs, 4))
    return saturated(real, 0, name_of(required(op, inputs, 0, "X").dtype))


def _global_average(op: Op, inputs: Sequence[Array | None]) -> Array:
    """Whole sums, scaled once (qlgavgpool.cpp)."""
    values = required(op, inputs, 0, "X")
    axes = tuple(range(2, values.ndim))
    size = int(np.prod(values.shape[2:]))
    sums = values.sum(axis=axes, keepdims=True, dtype=np.int32) - np.int32(_zero(inputs, 2) * size)
    scale = _scale(op, inputs, 1) / (_scale(op, inputs, 3) * np.float32(size))
    return saturated(sums.astype(np.float32) * scale, _zero(inputs, 4), name_of(values.dtype))


_RESERVED_BITS = 5.0
"""How far, as an exponent of e, sums of the table stay below float32's largest value (qlinear_softmax.cc)."""


def _softmax(op: Op, inputs: Sequence[Array | None]) -> Array:
    """Exponentials by a table of 256, summed in float32; steps of the result are a whole number in one."""
    from codesign.executor.kernels.requantise import softmax_rows_by_table

    values = required(op, inputs, 0, "X")
    flat = int(op.attributes.get("opset", 13)) < 13
    axis = normal_axis(op, int(op.attributes.get("axis", 1 if flat else -1)), values.ndim)
    moved = values if flat else np.moveaxis(values, axis, -1)
    columns = int(np.prod(values.shape[axis:])) if flat else values.shape[axis]
    low, high = integer_limits(name_of(values.dtype))
    rows = (moved.reshape(-1, columns).astype(np.int32) - low).astype(np.uint8)
    scale = np.float64(_scale(op, inputs, 1))
    shift = max(0.0, math.log(np.float32(np.finfo(np.float32).max) / np.float32(columns)) - _RESERVED_BITS) / scale
    table = np.exp((np.arange(256) - 255 + shift) * scale).astype(np.float32)
    table *= np.float32(2.0**-16)  # changes no rounding, and a single column stays finite times the steps
    out = np.empty(rows.shape, values.dtype)
    steps = np.floor(np.float32(1) / _scale(op, inputs, 3))
    zero = np.float32(_zero(inputs, 4))
    softmax_rows_by_table(rows, table, steps, zero, np.float32(low), np.float32(high), out)
    result = out.reshape(moved.shape)
    return result if flat else np.ascontiguousarray(np.moveaxis(result, -1, axis))


_OWN: dict[str, Callable[[Op, Sequence[Array | None]], Array]] = {
    "QLinearAveragePool": _average,
    "QLinearGlobalAveragePool": _global_average,
    "QLinearSoftmax": _softmax,
}
