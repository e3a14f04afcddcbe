"""Linear models of ai.onnx.ml: one matrix product of the features with coefficients that the node itself holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.dtypes import name_of
from codesign.graph import Op
from codesign.ops.arguments import bad, operands, required
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.labels import (
    DOMAIN,
    TRANSFORM_FLOPS,
    class_labels,
    listed,
    post_transform,
    rows_of,
    second_class,
    transformed,
)
from codesign.work import Contraction, Operand, Work


class LinearModel(Operator):
    """Scores X W + b of float32, W (targets, features) stored row by row in attribute `coefficients`."""

    def _targets(self, op: Op) -> int:
        raise bad(op, "is no linear model")

    def _coefficients(self, op: Op, inputs: Sequence[Any]) -> tuple[Array, Array]:
        _, features = rows_of(op, inputs)
        targets, found = self._targets(op), listed(op, "coefficients")
        intercepts = listed(op, "intercepts") if "intercepts" in op.attributes else np.zeros(targets, np.float32)
        if found.size != targets * features or intercepts.size != targets:
            raise bad(
                op,
                f"has {found.size} coefficients and {intercepts.size} intercepts, "
                f"expected {targets} x {features} and {targets}",
            )
        return found.reshape(targets, features), intercepts

    def _scores(self, op: Op, inputs: Sequence[Array | None]) -> Array:
        coefficients, intercepts = self._coefficients(op, inputs)
        values = required(op, inputs, 0, "X").astype(np.float32, copy=False)
        return np.atleast_2d(values) @ coefficients.T + intercepts

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        rows, features = rows_of(op, inputs)
        targets = self._targets(op)
        return Contraction(
            kind=op.kind,
            reads=(
                *operands(inputs),
                Operand(targets * features, "float32", "weight"),
                Operand(targets, "float32", "weight"),
            ),
            writes=operands(outputs),
            epilogue_flops=int(rows * targets * (1 + TRANSFORM_FLOPS[post_transform(op)])),
            batch=1,
            m=rows,
            n=targets,
            k=features,
            dtype="float32",
        )


@operator("LinearRegressor", domain=DOMAIN)
class LinearRegressor(LinearModel):
    def _targets(self, op: Op) -> int:
        return int(op.attributes.get("targets", 1))

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        self._coefficients(op, inputs)
        return [((rows_of(op, inputs)[0], self._targets(op)), "float32")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        return [transformed(op, self._scores(op, inputs))]


@operator("LinearClassifier", domain=DOMAIN)
class LinearClassifier(LinearModel):
    """The class of the highest score, and the scores. Of two classes one score, the second's, may be stored."""

    def _targets(self, op: Op) -> int:
        labels, given = class_labels(op, "classlabels_ints"), len(op.attributes.get("intercepts", ()))
        return 1 if len(labels) == 2 and given == 1 else len(labels)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        self._coefficients(op, inputs)
        (rows, _), labels = rows_of(op, inputs), class_labels(op, "classlabels_ints")
        return [((rows,), name_of(labels.dtype)), ((rows, len(labels)), "float32")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        scores, labels = self._scores(op, inputs), class_labels(op, "classlabels_ints")
        if scores.shape[1] == 1 < len(labels):
            return [labels[(scores[:, 0] > 0).astype(np.int64)], second_class(op, scores, complement=True)]
        return [labels[scores.argmax(axis=1)], transformed(op, scores)]
