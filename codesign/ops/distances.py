"""Distances between all rows of two matrices (CDist of ONNX Runtime, which converters of nearest neighbours write)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, operands, required, text
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.work import Contraction, Work

# Beside the product: two additions of squared lengths and a limit at zero; and a root.
_FLOPS = {"sqeuclidean": 3, "euclidean": 4}


@operator("CDist", domain="com.microsoft")
class Distances(Operator):
    """(rows of A, rows of B), by `metric` Euclidean or its square."""

    @staticmethod
    def _metric(op: Op) -> str:
        metric = text(op, "metric", "sqeuclidean")
        if metric not in _FLOPS:
            raise bad(op, f"attribute 'metric' is '{metric}', expected one of {', '.join(_FLOPS)}")
        return metric

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        self._metric(op)
        left, right = required(op, inputs, 0, "A"), required(op, inputs, 1, "B")
        if len(left.shape) != 2 or len(right.shape) != 2 or left.shape[1] != right.shape[1]:
            raise bad(op, f"expected two matrices with rows of one length, got {list(left.shape)}, {list(right.shape)}")
        return [((left.shape[0], right.shape[0]), left.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        left, right = required(op, inputs, 0, "A"), required(op, inputs, 1, "B")
        squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)
        squares -= 2 * (left @ right.T)
        np.maximum(squares, 0, out=squares)
        return [squares if self._metric(op) == "sqeuclidean" else np.sqrt(squares)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        left, right = required(op, inputs, 0, "A"), required(op, inputs, 1, "B")
        return Contraction(
            kind=op.kind,
            reads=operands(inputs),
            writes=operands(outputs),
            epilogue_flops=_FLOPS[self._metric(op)] * outputs[0].elements + 2 * (left.elements + right.elements),
            batch=1,
            m=left.shape[0],
            n=right.shape[0],
            k=left.shape[1],
            dtype=left.dtype,
        )
