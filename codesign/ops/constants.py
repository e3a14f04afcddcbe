"""Operators without data of their own to read: Constant, ConstantOfShape, Range, and random numbers from a seed."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.dtypes import name_of, numpy_dtype
from codesign.graph import Op
from codesign.ops.arguments import bad, element_type, known, narrowed, optional, required, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import fill_work, map_work, view_work
from codesign.work import Work

_CONSTANT_TYPES = {
    "value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64,
    "value_string": object, "value_strings": object,
}  # fmt: skip


@operator("Constant")
class Constant(Operator):
    """The value in the one attribute it has."""

    @staticmethod
    def _value(op: Op) -> Array:
        if "value" in op.attributes:
            return np.asarray(op.attributes["value"])
        for name, kind in _CONSTANT_TYPES.items():
            if name in op.attributes:
                return np.asarray(op.attributes[name], dtype=kind)
        raise bad(op, f"has no value, expected one of the attributes value, {', '.join(_CONSTANT_TYPES)}")

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        value = self._value(op)
        return [(value.shape, name_of(value.dtype))]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        return [self._value(op)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return view_work(op, inputs, outputs)


@operator("ConstantOfShape")
class ConstantOfShape(Operator):
    """One value, float32 zero unless given, in the shape that is the input."""

    @staticmethod
    def _fill(op: Op) -> Array:
        return np.asarray(op.attributes.get("value", np.zeros(1, np.float32))).ravel()

    @staticmethod
    def _shape(op: Op, inputs: Sequence[Any]) -> tuple[int, ...]:
        return tuple(int(extent) for extent in known(op, required(op, inputs, 0, "input"), "input"))

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        return [(self._shape(op, inputs), name_of(self._fill(op).dtype))]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        fill = self._fill(op)
        return [np.full(self._shape(op, inputs), fill[0], fill.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return fill_work(op, (), outputs)


@operator("Range", domain="com.microsoft")
@operator("Range")
class Range(Operator):
    """start, start + delta, ... below limit."""

    @staticmethod
    def _bounds(op: Op, inputs: Sequence[Any]) -> tuple[Any, Any, Any]:
        names = ("start", "limit", "delta")
        start, limit, delta = (
            widened(known(op, required(op, inputs, index, name), name)).ravel()[0] for index, name in enumerate(names)
        )
        if delta == 0:
            raise bad(op, "'delta' is 0")
        return start, limit, delta

    @classmethod
    def _length(cls, op: Op, inputs: Sequence[Any]) -> int:
        start, limit, delta = (one.item() for one in cls._bounds(op, inputs))
        return max(math.ceil((limit - start) / delta), 0)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        return [((self._length(op, inputs),), required(op, inputs, 0, "start").dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        start, _, delta = self._bounds(op, inputs)
        steps = np.arange(self._length(op, inputs)).astype(start.dtype)
        return [narrowed(start + steps * delta, required(op, inputs, 0, "start").dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return map_work(op, inputs, outputs, 2)


# A counter-based generator (Philox4x32-10: Salmon et al., SC 2011) makes four words in ten rounds of two products of
# 32 bits (high and low half), four exclusive-ors and two additions: 25 operations a word; uniform numbers are a product
# and a sum more, normal ones (Box & Muller 1958) a logarithm, root, cosine and three products more.
_WORD = 25.0
_UNIFORM = _WORD + 2
_NORMAL = _UNIFORM + 6


def _generator(op: Op) -> np.random.Generator:
    """Numbers that depend on the seed in the node, or else on the node's name: a run can be repeated."""
    seed = op.attributes.get("seed")
    return np.random.default_rng(zlib.crc32(op.name.encode() if seed is None else np.float32(seed).tobytes()))


@operator("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike")
class Random(Operator):
    """Normal numbers of `mean` and `scale`, or uniform ones from `low` to `high`."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        if op.kind.endswith("Like"):
            like = required(op, inputs, 0, "input")
            return [(like.shape, element_type(op, "dtype", like.dtype))]
        return [(tuple(int(extent) for extent in op.attributes["shape"]), element_type(op, "dtype", "float32"))]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        like = optional(inputs, 0)
        known_like = () if like is None else (Value(like.shape, name_of(like.dtype)),)
        ((shape, kind),) = self.infer(op, known_like)
        generator, number = _generator(op), op.attributes.get
        if op.kind.startswith("RandomNormal"):
            values = generator.normal(number("mean", 0.0), number("scale", 1.0), shape)
        else:
            values = generator.uniform(number("low", 0.0), number("high", 1.0), shape)
        return [narrowed(values, numpy_dtype(kind))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return map_work(op, (), outputs, _NORMAL if op.kind.startswith("RandomNormal") else _UNIFORM)


@operator("Bernoulli")
class Bernoulli(Operator):
    """One with the probability that the input gives, else zero."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "input")
        return [(source.shape, element_type(op, "dtype", source.dtype))]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "input")
        drawn = _generator(op).uniform(0, 1, source.shape) < source
        return [narrowed(drawn, numpy_dtype(element_type(op, "dtype", name_of(source.dtype))))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return map_work(op, inputs, outputs, _UNIFORM + 1)


@operator("Multinomial")
class Multinomial(Operator):
    """`sample_size` class numbers for each row of unnormalised log probabilities."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "input")
        if len(source.shape) != 2:
            raise bad(op, f"expected rows of log probabilities, got shape {list(source.shape)}")
        return [((source.shape[0], int(op.attributes.get("sample_size", 1))), element_type(op, "dtype", "int32"))]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        """By the inverse of the distribution function."""
        scores = widened(required(op, inputs, 0, "input")).astype(np.float64)
        share = np.cumsum(np.exp(scores - scores.max(axis=1, keepdims=True)), axis=1)
        drawn = _generator(op).uniform(0, 1, (len(scores), int(op.attributes.get("sample_size", 1)))) * share[:, -1:]
        picked = [np.searchsorted(row, numbers, side="right") for row, numbers in zip(share, drawn, strict=True)]
        kind = numpy_dtype(element_type(op, "dtype", "int32"))
        return [np.array(picked, kind).reshape(drawn.shape)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """Exponent, comparison, sum and division a class; a number and a binary search a sample."""
        source, samples = required(op, inputs, 0, "input"), outputs[0].elements
        total = 4 * source.elements + samples * (_UNIFORM + max(1, source.shape[-1]).bit_length())
        return map_work(op, (source,), outputs, total / max(samples, 1))
