"""Preparation of features of ai.onnx.ml: scaling, normalising, thresholds, missing values, choice and joining."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, present, required, text
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import copy_work, gather_work, map_work, reduce_work
from codesign.ops.labels import DOMAIN, listed
from codesign.work import Work


@operator("Scaler", domain=DOMAIN)
class Scaler(Operator):
    """(x - offset) * scale, of one value or one for each feature; the result is float32."""

    @staticmethod
    def _factors(op: Op, columns: int) -> tuple[Array, Array]:
        offset, scale = listed(op, "offset"), listed(op, "scale")
        for name, values in (("offset", offset), ("scale", scale)):
            if values.size not in (1, columns):
                raise bad(op, f"attribute '{name}' has {values.size} values, expected 1 or {columns}")
        return offset, scale

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        shape = required(op, inputs, 0, "X").shape
        self._factors(op, shape[-1])
        return [(shape, "float32")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values = required(op, inputs, 0, "X")
        offset, scale = self._factors(op, values.shape[-1])
        return [((values - offset) * scale).astype(np.float32, copy=False)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return map_work(op, inputs, outputs, 2.0)


def _largest(values: Array) -> Array:
    return np.asarray(values.max(axis=-1, keepdims=True))


def _sum_of_magnitudes(values: Array) -> Array:
    return np.asarray(np.abs(values).sum(axis=-1, keepdims=True))


def _length(values: Array) -> Array:
    return np.asarray(np.sqrt((values * values).sum(axis=-1, keepdims=True)))


_NORMS = {"MAX": _largest, "L1": _sum_of_magnitudes, "L2": _length}


@operator("Normalizer", domain=DOMAIN)
class Normalizer(Operator):
    """Each row divided by its norm; a row of norm zero stays. MAX divides by the largest value, its sign kept."""

    @staticmethod
    def _norm(op: Op) -> Any:
        name = text(op, "norm", "MAX")
        if name not in _NORMS:
            raise bad(op, f"attribute 'norm' is '{name}', expected one of {', '.join(_NORMS)}")
        return _NORMS[name]

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        self._norm(op)
        return [(required(op, inputs, 0, "X").shape, "float32")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values = required(op, inputs, 0, "X").astype(np.float32, copy=False)
        norms = self._norm(op)(values)
        return [values / np.where(norms == 0, np.float32(1), norms)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """Two passes over a row; of each element a product or magnitude, an addition, and a division."""
        columns = max(outputs[0].shape[-1], 1)
        work = reduce_work(op, inputs, outputs, columns, 3.0)
        return replace(work, rows=outputs[0].elements // columns, passes=2)


@operator("Binarizer", domain=DOMAIN)
class Binarizer(Operator):
    """One where the value is above the threshold, else zero."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        values = required(op, inputs, 0, "X")
        return [(values.shape, values.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values = required(op, inputs, 0, "X")
        return [(values > np.float32(op.attributes.get("threshold", 0.0))).astype(values.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return map_work(op, inputs, outputs, 1.0)


@operator("Imputer", domain=DOMAIN)
class Imputer(Operator):
    """A value put in the place of each missing one, which is a stated value or no number at all."""

    @staticmethod
    def _values(op: Op, kind: Any, columns: int) -> tuple[Array, Any]:
        """What to put in, and what it replaces, in the input's type."""
        form, missing = ("floats", "float") if np.dtype(kind).kind == "f" else ("int64s", "int64")
        values = listed(op, f"imputed_value_{form}", kind)
        if values.size not in (1, columns):
            raise bad(op, f"attribute 'imputed_value_{form}' has {values.size} values, expected 1 or {columns}")
        return values, op.attributes.get(f"replaced_value_{missing}", 0)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        values = required(op, inputs, 0, "X")
        return [(values.shape, values.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values = required(op, inputs, 0, "X")
        imputed, missing = self._values(op, values.dtype, values.shape[-1])
        absent = np.isnan(values) if math.isnan(missing) else values == np.asarray(missing, values.dtype)
        return [np.where(absent, imputed, values)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return map_work(op, inputs, outputs, 1.0)


@operator("ArrayFeatureExtractor", domain=DOMAIN)
class ArrayFeatureExtractor(Operator):
    """The features of each row at the positions that the second input lists; a vector is one row."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        values, positions = required(op, inputs, 0, "X"), required(op, inputs, 1, "Y")
        return [((values.shape[:-1] or (1,)) + (positions.elements,), values.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values, positions = required(op, inputs, 0, "X"), required(op, inputs, 1, "Y").ravel()
        if positions.size and not (positions.min() >= 0 and positions.max() < values.shape[-1]):
            raise bad(op, f"a position is outside the {values.shape[-1]} features")
        return [np.atleast_2d(values[..., positions])]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        values, positions = required(op, inputs, 0, "X"), required(op, inputs, 1, "Y")
        return gather_work(op, values, [positions], outputs, 1)


@operator("FeatureVectorizer", domain=DOMAIN)
class FeatureVectorizer(Operator):
    """Inputs side by side in each row, each cut or filled with zeros to its entry of `inputdimensions`; float32."""

    @staticmethod
    def _extents(op: Op, inputs: Sequence[Any]) -> tuple[int, list[int]]:
        shapes = [tuple(found.shape) for found in present(inputs)]
        widths = [int(one) for one in op.attributes.get("inputdimensions", ())] or [shape[-1] for shape in shapes]
        if not shapes or len(widths) != len(shapes):
            raise bad(op, f"has {len(shapes)} inputs and {len(widths)} 'inputdimensions'")
        rows = {shape[0] if len(shape) > 1 else 1 for shape in shapes}
        if len(rows) > 1:
            raise bad(op, f"inputs have different numbers of rows: {sorted(rows)}")
        return rows.pop(), widths

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        rows, widths = self._extents(op, inputs)
        return [((rows, sum(widths)), "float32")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        rows, widths = self._extents(op, inputs)
        result = np.zeros((rows, sum(widths)), np.float32)
        start = 0
        for values, width in zip(present(inputs), widths, strict=True):
            columns = values.reshape(rows, -1)[:, :width]
            result[:, start : start + columns.shape[1]] = columns
            start += width
        return [result]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return copy_work(op, present(inputs), outputs, min(self._extents(op, inputs)[1]))


@operator("OneHotEncoder", domain=DOMAIN)
class OneHotEncoder(Operator):
    """A new last axis with one at the category that the value is; zeros, or an error, for any other value."""

    @staticmethod
    def _categories(op: Op) -> Array:
        strings = op.attributes.get("cats_strings", ())
        return np.asarray(strings, object) if len(strings) else listed(op, "cats_int64s", np.int64)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        return [((*required(op, inputs, 0, "X").shape, len(self._categories(op))), "float32")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values, categories = required(op, inputs, 0, "X"), self._categories(op)
        whole = values if categories.dtype == object else values.astype(np.int64)
        result = (whole[..., None] == categories).astype(np.float32)
        if not op.attributes.get("zeros", 1) and not result.any(axis=-1).all():
            raise bad(op, "a value is none of the categories, and attribute 'zeros' is 0")
        return [result]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return map_work(op, inputs, outputs, 1.0)
