"""Losses over class scores: NegativeLogLikelihoodLoss, and SoftmaxCrossEntropyLoss with the log-softmax before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, narrowed, operands, optional, required, text, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.work import Reduce, Work

# Comparison, subtraction, exponential, addition, and the logarithm taken off: log-softmax of one score.
_LOG_SOFTMAX_FLOPS = 5.0


@operator("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
class ClassLoss(Operator):
    """Inputs: scores (N, C, d1, ...), class indices (N, d1, ...), weight of each class (C). The first output is the
    loss, reduced as `reduction` says; SoftmaxCrossEntropyLoss may give the log-probabilities as its second."""

    @staticmethod
    def _labels_shape(op: Op, inputs: Sequence[Any]) -> tuple[int, ...]:
        scores, labels = required(op, inputs, 0, "input").shape, required(op, inputs, 1, "target").shape
        if len(scores) < 2 or tuple(labels) != (scores[0], *scores[2:]):
            raise bad(op, f"expected scores [N, C, ...] and labels [N, ...], got {list(scores)} and {list(labels)}")
        if text(op, "reduction", "mean") not in ("none", "sum", "mean"):
            raise bad(op, f"attribute 'reduction' is '{text(op, 'reduction')}', expected none, sum or mean")
        return tuple(labels)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        scores, labels = required(op, inputs, 0, "input"), self._labels_shape(op, inputs)
        loss = labels if text(op, "reduction", "mean") == "none" else ()
        return [(loss, scores.dtype), (scores.shape, scores.dtype)][: len(op.outputs)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        from codesign.ops.softmax import log_softmax

        self._labels_shape(op, inputs)
        given, labels = required(op, inputs, 0, "input"), required(op, inputs, 1, "target")
        scores = widened(given)
        if op.kind == "SoftmaxCrossEntropyLoss":
            scores = log_softmax(scores, 1)
        class_weights = optional(inputs, 2)
        counted = labels != op.attributes.get("ignore_index", np.iinfo(np.int64).min)
        chosen = np.where(counted, labels, 0)
        if chosen.size and not (chosen.min() >= 0 and chosen.max() < scores.shape[1]):
            raise bad(op, f"a label is outside the {scores.shape[1]} classes")
        weights = counted.astype(scores.dtype)
        if class_weights is not None:
            weights *= widened(class_weights)[chosen]
        loss = -np.take_along_axis(scores, np.expand_dims(chosen, 1), 1).squeeze(1) * weights
        reduction = text(op, "reduction", "mean")
        if reduction != "none":
            loss = loss.sum() if reduction == "sum" else loss.sum() / weights.sum()
        return [narrowed(loss, given.dtype), narrowed(scores, given.dtype)][: len(op.outputs)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        scores, softmax = required(op, inputs, 0, "input"), op.kind == "SoftmaxCrossEntropyLoss"
        classes = scores.shape[1]
        rows = scores.elements // max(classes, 1)
        # Without a softmax only the score of the label is read, one a row.
        reads = operands(inputs) if softmax else (scores.operand(rows), *operands(inputs[1:]))
        return Reduce(
            kind=op.kind,
            reads=reads,
            writes=operands(outputs),
            rows=rows,
            columns=classes if softmax else 1,
            passes=3 if softmax else 1,
            flops_per_element=_LOG_SOFTMAX_FLOPS if softmax else 2.0,
            dtype=scores.dtype,
        )
