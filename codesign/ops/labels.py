"""Classes of ai.onnx.ml: from scores to labels and probabilities, and LabelEncoder, which maps one label to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.dtypes import dtype, name_of
from codesign.graph import Op
from codesign.ops.arguments import bad, before_opset, operands, required, text
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.work import Gather, Work

DOMAIN = "ai.onnx.ml"
TRANSFORM_FLOPS = {"NONE": 0.0, "LOGISTIC": 4.0, "SOFTMAX": 5.0, "SOFTMAX_ZERO": 5.0, "PROBIT": 10.0}
"""Operations a score: exponential, addition and division as elsewhere; the probit is a rational approximation."""


def listed(op: Op, name: str, kind: Any = np.float32) -> Array:
    """Attribute `name`, a list, as an array; empty when it is not given."""
    return np.asarray(op.attributes.get(name, ()), kind)


def class_labels(op: Op, integers: str) -> Array:
    """The classes of a classifier, whole numbers in attribute `integers` or text. Raises BadModel without any."""
    strings = op.attributes.get("classlabels_strings", ())
    labels = np.asarray(strings, object) if len(strings) else listed(op, integers, np.int64)
    if not labels.size:
        raise bad(op, f"names no classes, expected attribute '{integers}' or 'classlabels_strings'")
    return labels


def post_transform(op: Op) -> str:
    """What is done to the scores. Raises BadModel for a word that the standard does not have."""
    name = text(op, "post_transform", "NONE")
    if name not in TRANSFORM_FLOPS:
        raise bad(op, f"attribute 'post_transform' is '{name}', expected one of {', '.join(TRANSFORM_FLOPS)}")
    return name


def transformed(op: Op, scores: Array) -> Array:
    """Scores (rows, classes) after the operator's post_transform. A single column is left alone but for PROBIT, as
    onnxruntime does."""
    name = post_transform(op)
    if name == "PROBIT":
        from scipy.special import ndtri

        return np.asarray(ndtri(scores), scores.dtype)
    if name == "NONE" or scores.shape[1] == 1:
        return scores
    if name == "LOGISTIC":
        return logistic(scores)
    from codesign.ops.softmax import softmax

    if name == "SOFTMAX":
        return softmax(scores)
    # A score of zero stands for a class without one, and stays.
    given = np.abs(scores) > 1e-7
    return np.where(given, softmax(np.where(given, scores, -np.inf).astype(scores.dtype)), scores)


def logistic(scores: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow at either end."""
    small = np.exp(-np.abs(scores))
    return np.where(scores >= 0, 1, small) / (1 + small)


def second_class(op: Op, scores: Array, complement: bool) -> Array:
    """Scores (rows, 2) of both classes from those (rows, 1) of the second: its counterpart for LOGISTIC, else the
    rest of one (`complement`) or the negative."""
    if post_transform(op) == "LOGISTIC":
        return np.concatenate([logistic(-scores), logistic(scores)], axis=1)
    return np.concatenate([1 - scores if complement else -scores, scores], axis=1)


def rows_of(op: Op, inputs: Sequence[Any]) -> tuple[int, int]:
    """Rows and features of the input: a vector is one row."""
    shape = required(op, inputs, 0, "X").shape
    if not 1 <= len(shape) <= 2:
        raise bad(op, f"expected rows of features, 1-D or 2-D, got {list(shape)}")
    return (shape[0], shape[1]) if len(shape) == 2 else (1, shape[0])


_FORMS = ("strings", "int64s", "floats")
_DEFAULTS: dict[str, tuple[str, Any]] = {
    "strings": ("default_string", "_Unused"), "int64s": ("default_int64", -1), "floats": ("default_float", -0.0),
}  # fmt: skip
_TYPES: dict[str, Any] = {"strings": object, "int64s": np.int64, "floats": np.float32}


@operator("LabelEncoder", domain=DOMAIN)
class LabelEncoder(Operator):
    """Each label replaced by the value that stands beside it among the keys, or by a default."""

    @staticmethod
    def _table(op: Op, kind: str) -> tuple[Array, Array, Any]:
        """Keys, values, and the value of what is no key. Version 1 numbers a list of strings, in either direction."""
        if "classes_strings" in op.attributes:
            names = np.asarray(op.attributes["classes_strings"], object)
            numbers = np.arange(len(names), dtype=np.int64)
            to_numbers = kind == "string"
            keys, values, form = (names, numbers, "int64s") if to_numbers else (numbers, names, "strings")
        else:
            keys, _ = LabelEncoder._side(op, "keys")
            values, form = LabelEncoder._side(op, "values")
        if len(keys) != len(values):
            raise bad(op, f"has {len(keys)} keys and {len(values)} values")
        if form == "tensor":
            default = np.asarray(op.attributes.get("default_tensor", np.zeros(1))).ravel()[0]
            return keys, values, "_Unused" if values.dtype == object else default
        name, fallback = _DEFAULTS[form]
        return keys, values, op.attributes.get(name, fallback)

    @staticmethod
    def _side(op: Op, side: str) -> tuple[Array, str]:
        if f"{side}_tensor" in op.attributes:
            return np.asarray(op.attributes[f"{side}_tensor"]).ravel(), "tensor"
        for form in _FORMS:
            if f"{side}_{form}" in op.attributes:
                return listed(op, f"{side}_{form}", _TYPES[form]), form
        raise bad(op, f"has no {side}, expected attribute '{side}_tensor' or one of {side}_{{strings,int64s,floats}}")

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        labels = required(op, inputs, 0, "X")
        return [(labels.shape, name_of(self._table(op, labels.dtype)[1].dtype))]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        labels = required(op, inputs, 0, "X")
        keys, values, default = self._table(op, name_of(labels.dtype))
        lookup = {_key(key): value for key, value in zip(keys.tolist(), values.tolist(), strict=True)}
        if before_opset(op, 4):
            lookup.pop(None, None)
        found = [lookup.get(_key(label), default) for label in labels.ravel().tolist()]
        return [np.asarray(found, values.dtype).reshape(labels.shape)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        width = dtype(outputs[0].dtype).bytes_for(1)
        return Gather(
            kind=op.kind,
            reads=operands(inputs),
            writes=operands(outputs),
            lookups=outputs[0].elements,
            run_bytes=width,
        )


def _key(label: Any) -> Any:
    """`label` as a key; None for what is no number, which equals itself since version 4 of LabelEncoder."""
    return None if label != label else label
