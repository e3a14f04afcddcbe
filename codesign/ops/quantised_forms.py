"""ONNX Runtime's operators on 8-bit values that are a standard operator between dequantising and quantising."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from codesign.dtypes import name_of
from codesign.graph import Op
from codesign.ops.arguments import bad, optional, required, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, find, operator
from codesign.ops.quantisation import DEQUANTISE_FLOPS, QUANTISE_FLOPS, saturated
from codesign.work import Work


@dataclass(frozen=True, slots=True)
class Form:
    """Where the inputs of an operator stand: quantised values with their scale and zero point from `first` on, every
    third input up to `last` (None: to the end), the result's scale at `scale` with its zero point after it. What comes
    before the values and is not the result's scale is handed on as it is. `opset` is the version `standard` follows."""

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
    onnxruntime, domain com.microsoft)."""

    @staticmethod
    def _standard(op: Op) -> Op:
        """The operation in the middle, without the names of tensors."""
        form = _FORMS[op.kind]
        if op.attributes.get("channels_last", 0):
            raise bad(op, "attribute 'channels_last' is 1, expected channels in axis 1")
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
        real = [replace(value, dtype="float32") for value in given[len(plain) :]]
        inner = self._standard(op)
        ((shape, _),) = find(inner).infer(inner, [*given[: len(plain)], *real])
        return [(shape, given[len(plain)].dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
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
        work = find(inner).work(inner, given, outputs)
        elements = sum(value.elements for value in given[len(plain) :])
        conversions = int(DEQUANTISE_FLOPS * elements + QUANTISE_FLOPS * outputs[0].elements)
        return replace(work, kind=op.kind, epilogue_flops=work.epilogue_flops + conversions)


def _dequantised(op: Op, inputs: Sequence[Array | None], index: int) -> Array:
    """(x - zero point) scale for the values at `index`, the two after them."""
    values, scale = required(op, inputs, index, "values"), required(op, inputs, index + 1, "scale")
    zero = optional(inputs, index + 2)
    whole = widened(values).astype(np.int32)
    return np.asarray((whole if zero is None else whole - widened(zero).astype(np.int32)).astype(np.float32) * scale)
