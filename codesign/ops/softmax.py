"""Softmax, LogSoftmax and Hardmax: along one axis, or before opset 13 over all axes from `axis` on as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import before_opset, narrowed, normal_axis, operands, required, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.work import Reduce, Work


def softmax(scores: Array, axis: int = -1) -> Array:
    """exp(x) / sum exp(x) along `axis`, shifted by the maximum so that nothing overflows.

    A row that is -inf throughout (every key masked) gives zeros.
    """
    from codesign.executor.kernels.softmax import softmax_rows

    rows = np.moveaxis(scores, axis, -1)
    return np.moveaxis(softmax_rows(rows.copy()), -1, axis)


def log_softmax(scores: Array, axis: int) -> Array:
    """The logarithm of softmax along `axis`, shifted by the maximum so that nothing overflows."""
    shifted = scores - scores.max(axis=axis, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return np.asarray(shifted)


def _hardmax(scores: Array, axis: int) -> Array:
    result = np.zeros_like(scores)
    np.put_along_axis(result, np.expand_dims(scores.argmax(axis=axis), axis), 1, axis=axis)
    return result


_FORMULAS = {"Softmax": softmax, "LogSoftmax": log_softmax, "Hardmax": _hardmax}
# Comparison, subtraction, exponential, addition, division; the logarithm is one a row; Hardmax only compares.
_FLOPS_PER_ELEMENT = {"Softmax": 5.0, "LogSoftmax": 5.0, "Hardmax": 1.0}


@operator(*_FORMULAS)
class Softmax(Operator):
    @staticmethod
    def _row(op: Op, shape: tuple[int, ...]) -> tuple[int, int]:
        """The axis, and the number of elements that are normalised together."""
        old = before_opset(op, 13)
        axis = normal_axis(op, int(op.attributes.get("axis", 1 if old else -1)), len(shape))
        return axis, math.prod(shape[axis:]) if old else (shape[axis] if shape else 1)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        value = required(op, inputs, 0, "input")
        self._row(op, value.shape)
        return [(value.shape, value.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        scores = required(op, inputs, 0, "input")
        axis, _ = self._row(op, scores.shape)
        formula = _FORMULAS[op.kind]
        shape = scores.shape
        if scores.size == 0:
            return [scores]
        if before_opset(op, 13):
            rows = math.prod(scores.shape[:axis])
            axis, scores = -1, scores.reshape(rows, -1)
        return [narrowed(formula(widened(scores), axis).reshape(shape), scores.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        value = required(op, inputs, 0, "input")
        _, columns = self._row(op, value.shape)
        return Reduce(
            kind=op.kind,
            reads=operands(inputs, 0),
            writes=(outputs[0].operand(),),
            rows=value.elements // max(columns, 1),
            columns=columns,
            passes=1 if op.kind == "Hardmax" else 3,
            flops_per_element=_FLOPS_PER_ELEMENT[op.kind],
            dtype=value.dtype,
        )
