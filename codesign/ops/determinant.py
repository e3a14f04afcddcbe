"""Determinants and inverses of square matrices, by elimination."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from codesign.dtypes import dtype as element_type
from codesign.graph import Op
from codesign.ops.arguments import bad, narrowed, operands, required, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.work import Scan, Work


@operator("Det")
class Determinant(Operator):
    """One determinant for each of the trailing two axes' matrices."""

    @staticmethod
    def _matrices(op: Op, inputs: Sequence[Any]) -> tuple[int, ...]:
        shape = tuple(required(op, inputs, 0, "X").shape)
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise bad(op, f"expected square matrices [..., M, M], got {list(shape)}")
        return shape

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        return [(self._matrices(op, inputs)[:-2], required(op, inputs, 0, "X").dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        self._matrices(op, inputs)
        matrices = required(op, inputs, 0, "X")
        return [narrowed(np.linalg.det(widened(matrices)), matrices.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """LU factorisation: a step a column, which updates the part of the matrix below and right of its pivot."""
        *batch, size, _ = self._matrices(op, inputs)
        count, kind = math.prod(batch), required(op, inputs, 0, "X").dtype
        macs = size * (size - 1) * (2 * size - 1) // 6
        return Scan(
            kind=op.kind,
            reads=operands(inputs),
            writes=operands(outputs),
            steps=size,
            step_macs=count * -(-macs // max(size, 1)),
            # Divisions by the pivot, half a column on average, and the product of the diagonal.
            step_flops=count * (size // 2 + 1),
            state_bytes=element_type(kind).bytes_for(count * size * size),
            lanes=count,
            dtype=kind,
        )


@operator("Inverse", domain="com.microsoft")
class Inverse(Determinant):
    """The inverse of each matrix."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        return [(self._matrices(op, inputs), required(op, inputs, 0, "X").dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        self._matrices(op, inputs)
        matrices = required(op, inputs, 0, "X")
        return [narrowed(np.linalg.inv(widened(matrices)), matrices.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """The factorisation, then a triangular solve of each side for every column of the identity."""
        *batch, size, _ = self._matrices(op, inputs)
        factorised = super().work(op, inputs, outputs)
        assert isinstance(factorised, Scan)
        return replace(factorised, step_macs=factorised.step_macs + math.prod(batch) * size * size)
