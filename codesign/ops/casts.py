"""Conversions of element type: Cast, CastLike, BitCast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codesign.dtypes import dtype, name_of, numpy_dtype
from codesign.graph import Op
from codesign.ops.arguments import bad, element_type, required, text, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import map_work, view_work
from codesign.work import Work


def convert(values: Array, target: str, saturate: bool = True, round_mode: str = "up") -> Array:
    """`values` as element type `target`, as ONNX's Cast defines it.

    `saturate` holds for 8-bit floats: too large values become the largest, not infinity. `round_mode` holds for
    float8_e8m0fnu: `up`, `down` or `nearest` power of two.
    """
    with np.errstate(all="ignore"):
        if target == "string":
            return _strings(values)
        if values.dtype.kind in "OUS":
            return _parsed(values, target)
        if values.dtype == numpy_dtype(target):
            return values
        if target == "float8_e8m0fnu":
            return _powers_of_two(widened(values).astype(np.float32), saturate, round_mode)
        if target.startswith("float8"):
            return _small_floats(widened(values), target, saturate)
        if target in ("int2", "int4", "uint2", "uint4"):
            return _small_integers(values, target)
        return widened(values).astype(numpy_dtype(target), copy=False)


def _strings(values: Array) -> Array:
    if values.dtype.kind in "OUS":
        return values.astype(object)
    return np.array([str(one) for one in widened(values).ravel()], dtype=object).reshape(values.shape)


def _parsed(values: Array, target: str) -> Array:
    texts = [one.decode() if isinstance(one, bytes) else str(one) for one in values.ravel()]
    whole = dtype(target).kind in ("int", "uint")
    numbers = np.array([int(float(one)) if whole else float(one) for one in texts], np.int64 if whole else np.float64)
    return numbers.reshape(values.shape).astype(numpy_dtype(target))


def _small_floats(values: Array, target: str, saturate: bool) -> Array:
    import ml_dtypes

    kind = numpy_dtype(target)
    if saturate:
        limit = float(ml_dtypes.finfo(kind).max)
        values = np.clip(values, -limit, limit)
    return values.astype(kind)


def _small_integers(values: Array, target: str) -> Array:
    """Rounds towards zero and keeps the low bits, as wider integer types do."""
    import ml_dtypes

    limits = ml_dtypes.iinfo(numpy_dtype(target))
    span = int(limits.max) - int(limits.min) + 1
    whole = widened(values).astype(np.int64)
    return ((whole - int(limits.min)) % span + int(limits.min)).astype(np.int8).astype(numpy_dtype(target))


def _powers_of_two(values: Array, saturate: bool, round_mode: str) -> Array:
    """The exponent of each value, OCP Microscaling Formats v1.0: no sign, no zero, bias 127, 255 is NaN."""
    bits = np.abs(values).view(np.uint32).astype(np.int64)
    exponent, fraction = bits >> 23, bits & 0x7FFFFF
    if round_mode == "up":
        exponent = exponent + (fraction > 0)
    elif round_mode == "nearest":
        exponent = exponent + (fraction >= 0x400000)
    overflow = (exponent >= 255) & ~np.isnan(values)
    exponent = np.where(overflow, 254 if saturate else 255, np.where(np.isnan(values), 255, exponent))
    return np.clip(exponent, 0, 255).astype(np.uint8).view(numpy_dtype("float8_e8m0fnu"))


@operator("Cast", "CastLike")
class Cast(Operator):
    """To the type in attribute `to`, or of the second input. One operation an element; none when the type stays."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "input")
        if op.kind == "CastLike":
            return [(source.shape, required(op, inputs, 1, "target_type").dtype)]
        return [(source.shape, element_type(op, "to", "float32"))]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        if op.kind == "CastLike":
            target = name_of(required(op, inputs, 1, "target_type").dtype)
        else:
            target = element_type(op, "to", "float32")
        saturate = bool(op.attributes.get("saturate", 1))
        return [convert(required(op, inputs, 0, "input"), target, saturate, text(op, "round_mode", "up"))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source = required(op, inputs, 0, "input")
        if source.dtype == outputs[0].dtype:
            return view_work(op, (source,), outputs)
        return map_work(op, (source,), outputs, 1)


@operator("BitCast")
class BitCast(Operator):
    """The same bits as another type of the same width."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source, target = required(op, inputs, 0, "input"), element_type(op, "to", "float32")
        if dtype(source.dtype).bits != dtype(target).bits:
            raise bad(op, f"'{source.dtype}' and '{target}' differ in width")
        return [(source.shape, target)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        return [required(op, inputs, 0, "input").view(numpy_dtype(element_type(op, "to", "float32")))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return view_work(op, inputs, outputs)
