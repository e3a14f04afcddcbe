"""Support vector machines of ai.onnx.ml, as libsvm (Chang & Lin 2011) computes them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from codesign.dtypes import name_of
from codesign.graph import Op
from codesign.ops.arguments import bad, operands, required, text
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.labels import (
    DOMAIN,
    TRANSFORM_FLOPS,
    class_labels,
    listed,
    logistic,
    post_transform,
    rows_of,
    second_class,
    transformed,
)
from codesign.work import Contraction, Operand, Work

# Beside the products, for each support vector: squared distance and exponential; scale, addition and power or tanh.
_KERNEL_FLOPS = {"LINEAR": 0, "RBF": 4, "POLY": 4, "SIGMOID": 8}
_COUPLING_STEPS = 100
_SURE = np.float32(1e-7)
"""Probabilities of two classes stay this far from 0 and 1."""


class SupportVectors(Operator):
    """What classifier and regressor share: the kernel between the rows and the vectors that the node holds."""

    def _vectors(self, op: Op, inputs: Sequence[Any], count: int) -> Array:
        """The support vectors (count, features)."""
        _, features = rows_of(op, inputs)
        found = listed(op, "support_vectors")
        if found.size != count * features:
            raise bad(op, f"has {found.size} numbers of support vectors, expected {count} x {features}")
        return found.reshape(count, features)

    @staticmethod
    def _kernel_type(op: Op) -> str:
        kind = text(op, "kernel_type", "LINEAR")
        if kind not in _KERNEL_FLOPS:
            raise bad(op, f"attribute 'kernel_type' is '{kind}', expected one of {', '.join(_KERNEL_FLOPS)}")
        return kind

    def _kernel(self, op: Op, values: Array, vectors: Array) -> Array:
        """(rows, vectors)."""
        kind = self._kernel_type(op)
        gamma, offset, degree = (np.float32(one) for one in (*op.attributes.get("kernel_params", ()), 0, 0, 0)[:3])
        if kind == "RBF":
            squares = (values**2).sum(axis=1)[:, None] + (vectors**2).sum(axis=1)
            return np.asarray(np.exp(-gamma * np.maximum(squares - 2 * (values @ vectors.T), 0)))
        products = values @ vectors.T
        if kind == "POLY":
            return np.asarray((gamma * products + offset) ** degree)
        return np.asarray(np.tanh(gamma * products + offset)) if kind == "SIGMOID" else products

    def _work(
        self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value], vectors: int, machines: int
    ) -> Work:
        """The product of rows and vectors, whose kernel values go into each machine."""
        rows, features = rows_of(op, inputs)
        each = _KERNEL_FLOPS[self._kernel_type(op)] + 2 * machines
        return Contraction(
            kind=op.kind,
            reads=(
                *operands(inputs),
                Operand(vectors * features, "float32", "weight"),
                Operand(vectors * machines, "float32", "weight"),
            ),
            writes=operands(outputs),
            epilogue_flops=int(rows * (vectors * each + machines * TRANSFORM_FLOPS[post_transform(op)])),
            batch=1,
            m=rows,
            n=vectors,
            k=features,
            dtype="float32",
        )


def _rows(inputs: Sequence[Array | None], op: Op) -> Array:
    return np.atleast_2d(required(op, inputs, 0, "X").astype(np.float32, copy=False))


@operator("SVMRegressor", domain=DOMAIN)
class SVMRegressor(SupportVectors):
    """The kernel values weighed by `coefficients` plus `rho`; without support vectors a linear model. With `one_class`
    the sign."""

    @staticmethod
    def _count(op: Op) -> int:
        return int(op.attributes.get("n_supports", 0))

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        self._weights(op, inputs)
        return [((rows_of(op, inputs)[0], 1), "float32")]

    def _weights(self, op: Op, inputs: Sequence[Any]) -> tuple[Array | None, Array, Array]:
        """Support vectors or None, coefficients and the constant."""
        count, coefficients, constant = self._count(op), listed(op, "coefficients"), listed(op, "rho")
        vectors = self._vectors(op, inputs, count) if count else None
        expected = count or rows_of(op, inputs)[1]
        if coefficients.size != expected or constant.size < 1:
            raise bad(op, f"has {coefficients.size} coefficients and {constant.size} 'rho', expected {expected} and 1")
        return vectors, coefficients, constant[:1]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        vectors, coefficients, constant = self._weights(op, inputs)
        values = _rows(inputs, op)
        kernel = values if vectors is None else self._kernel(op, values, vectors)
        result = (kernel @ coefficients + constant)[:, None]
        if op.attributes.get("one_class", 0):
            return [np.where(result > 0, np.float32(1), np.float32(-1))]
        return [transformed(op, result)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return self._work(op, inputs, outputs, self._count(op) or 1, 1)


@operator("SVMClassifier", domain=DOMAIN)
class SVMClassifier(SupportVectors):
    """A machine for each pair of classes, whose votes choose, with its score or, given `prob_a` and `prob_b`,
    probabilities coupled from those of the pairs (Wu, Lin & Weng 2004, second approach). Without support vectors a
    linear score for each class."""

    @staticmethod
    def _counts(op: Op) -> list[int]:
        """Support vectors of each class; empty for a linear model."""
        return [int(one) for one in op.attributes.get("vectors_per_class", ())]

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        labels, rows = self._checked(op, inputs), rows_of(op, inputs)[0]
        pairs = len(labels) * (len(labels) - 1) // 2
        paired = bool(self._counts(op)) and "prob_a" not in op.attributes and len(labels) > 2
        return [((rows,), name_of(labels.dtype)), ((rows, pairs if paired else len(labels)), "float32")]

    def _checked(self, op: Op, inputs: Sequence[Any]) -> Array:
        """The classes. Raises BadModel when the machines do not fit them."""
        labels, counts = class_labels(op, "classlabels_ints"), self._counts(op)
        pairs = len(labels) * (len(labels) - 1) // 2
        coefficients, constants = listed(op, "coefficients").size, listed(op, "rho").size
        vectors = sum(counts)
        expected = (len(labels) - 1) * vectors if counts else len(labels) * rows_of(op, inputs)[1]
        given = {listed(op, name).size for name in ("prob_a", "prob_b")}
        if (counts and len(counts) != len(labels)) or coefficients != expected or given - {0, pairs} or len(given) > 1:
            raise bad(
                op,
                f"{len(labels)} classes, vectors of {len(counts)} of them, {coefficients} coefficients and "
                f"{sorted(given)} probabilities do not fit together",
            )
        if constants < (pairs if counts else 1):
            raise bad(op, f"has {constants} 'rho', expected {pairs if counts else 1}")
        if counts:
            self._vectors(op, inputs, vectors)
        return labels

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        labels, counts, values = self._checked(op, inputs), self._counts(op), _rows(inputs, op)
        if not counts:
            coefficients = listed(op, "coefficients").reshape(len(labels), -1)
            scores = values @ coefficients.T + listed(op, "rho")[0]
            return [self._linear_class(op, labels, scores), transformed(op, scores)]
        scores = self._pair_scores(op, inputs, counts, values)
        pairs = list(combinations(range(len(counts)), 2))
        votes = np.zeros((len(values), len(counts)), np.int64)
        for column, (first, second) in enumerate(pairs):
            winner = np.where(scores[:, column] > 0, first, second)
            votes[np.arange(len(votes)), winner] += 1
        chosen = labels[votes.argmax(axis=1)]
        if listed(op, "prob_a").size:
            return [chosen, transformed(op, self._probabilities(op, scores, len(counts)))]
        if len(counts) > 2:
            return [chosen, transformed(op, scores)]
        return [chosen, self._both(op, scores)]

    def _pair_scores(self, op: Op, inputs: Sequence[Array | None], counts: list[int], values: Array) -> Array:
        """The score of each pair of classes (rows, pairs). A row of coefficients is of a class against another one,
        itself left out."""
        kernel = self._kernel(op, values, self._vectors(op, inputs, sum(counts)))
        coefficients = listed(op, "coefficients").reshape(len(counts) - 1, -1)
        starts = np.concatenate(([0], np.cumsum(counts)))
        own = [slice(starts[index], starts[index + 1]) for index in range(len(counts))]
        columns = [
            kernel[:, own[first]] @ coefficients[second - 1, own[first]]
            + kernel[:, own[second]] @ coefficients[first, own[second]]
            for first, second in combinations(range(len(counts)), 2)
        ]
        return np.asarray(np.stack(columns, axis=1) + listed(op, "rho")[: len(columns)], np.float32)

    @staticmethod
    def _linear_class(op: Op, labels: Array, scores: Array) -> Array:
        """The class of the largest score; of two the second when that is large enough, as onnxruntime decides."""
        best = scores.argmax(axis=1)
        if len(labels) != 2:
            return np.asarray(labels[best])
        largest = scores.max(axis=1)
        enough = largest >= 0.5 if (listed(op, "coefficients") >= 0).all() else largest > 0
        return np.asarray(labels[np.where(enough, 1, best)])

    @staticmethod
    def _both(op: Op, scores: Array) -> Array:
        return second_class(op, scores, complement=post_transform(op) != "NONE")

    @staticmethod
    def _probabilities(op: Op, scores: Array, classes: int) -> Array:
        """(rows, classes) from the scores of the pairs."""
        slope, shift = listed(op, "prob_a"), listed(op, "prob_b")
        paired = np.clip(1 - logistic(scores * slope + shift), _SURE, 1 - _SURE)
        against = np.zeros((len(scores), classes, classes), np.float32)
        for column, (first, second) in enumerate(combinations(range(classes), 2)):
            against[:, first, second], against[:, second, first] = paired[:, column], 1 - paired[:, column]
        return coupled(against)

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        labels, counts = class_labels(op, "classlabels_ints"), self._counts(op)
        return self._work(op, inputs, outputs, sum(counts) or len(labels), max(len(labels) - 1, 1))


def coupled(against: Array) -> Array:
    """Probabilities (rows, classes) that fit best to those of each class against each other (rows, classes, classes):
    Wu, Lin & Weng (2004), JMLR 5, algorithm 2, in libsvm's number of steps and tolerance."""
    rows, classes, _ = against.shape
    turned = against.swapaxes(1, 2)
    matrix = -turned * against
    diagonal = np.arange(classes)
    matrix[:, diagonal, diagonal] = (turned**2).sum(axis=2) - turned[:, diagonal, diagonal] ** 2
    shares = np.full((rows, classes), 1 / classes, np.float32)
    open_rows = np.arange(rows)
    tolerance = np.float32(0.005 / classes)
    for _ in range(_COUPLING_STEPS):
        own = matrix[open_rows]
        share = shares[open_rows]
        products = np.einsum("rij,rj->ri", own, share)
        total = (share * products).sum(axis=1)
        open_now = np.abs(products - total[:, None]).max(axis=1, initial=0) >= tolerance
        open_rows, own, share = open_rows[open_now], own[open_now], share[open_now]
        products, total = products[open_now], total[open_now]
        if not open_rows.size:
            break
        for index in range(classes):
            change = (total - products[:, index]) / own[:, index, index]
            share[:, index] += change
            grown = 1 + change
            total = (total + change * (change * own[:, index, index] + 2 * products[:, index])) / grown**2
            products = (products + change[:, None] * own[:, index]) / grown[:, None]
            share /= grown[:, None]
        shares[open_rows] = share
    return shares
