"""What operator rules share in reading their inputs and attributes, and in saying what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from codesign.dtypes import dtype
from codesign.errors import BadModel, UnboundDimension
from codesign.graph import Op
from codesign.ops.base import Array, Value

Item = TypeVar("Item", Value, Array)

# TensorProto.DataType of onnx.proto.
ELEMENT_TYPES: dict[int, str] = dict(enumerate((
    "float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16", "float64", "uint32",
    "uint64", "complex64", "complex128", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
    "float8_e5m2fnuz", "uint4", "int4", "float4_e2m1fn", "float8_e8m0fnu", "uint2", "int2",
), start=1))  # fmt: skip


def bad(op: Op, message: str) -> BadModel:
    """The error to raise when `op` cannot be meant; the message names the node and its operator."""
    return BadModel(f"node '{op.name}' ({op.kind}): {message}")


def required(op: Op, inputs: Sequence[Item | None], index: int, what: str) -> Item:
    """Input `index`, called `what` in the standard. Raises BadModel when it is absent."""
    found = optional(inputs, index)
    if found is None:
        raise bad(op, f"input {index} ('{what}') is missing")
    return found


def optional(inputs: Sequence[Item | None], index: int) -> Item | None:
    """Input `index`, or None when the node does not give it."""
    return inputs[index] if index < len(inputs) else None


def operands(inputs: Sequence[Value | None], *indices: int) -> tuple[Any, ...]:
    """The operands of the inputs at `indices` that are given; of all given inputs when no index is named."""
    chosen = indices or range(len(inputs))
    return tuple(value.operand() for index in chosen if (value := optional(inputs, index)) is not None)


def normal_axis(op: Op, axis: int, rank: int) -> int:
    """`axis` counted from the front. Raises BadModel when it is outside -rank..rank-1."""
    if not -rank <= axis < max(rank, 1):
        raise bad(op, f"axis {axis} is outside the {rank} dimensions of the input")
    return axis % rank if rank else 0


def before_opset(op: Op, version: int) -> bool:
    """True when the node follows a version of the standard older than `version`; an unnamed version is the newest."""
    return 0 < op.opset < version


def present(inputs: Sequence[Item | None]) -> tuple[Item, ...]:
    """The inputs that are given."""
    return tuple(found for found in inputs if found is not None)


def known(op: Op, found: Value | Array, what: str) -> Array:
    """The values of `found`, called `what` in the standard: a shape cannot be told without them.

    Raises UnboundDimension when they are not constant.
    """
    if not isinstance(found, Value):
        return np.asarray(found)
    if found.constant is None:
        raise UnboundDimension(
            f"node '{op.name}' ({op.kind}): the result's shape depends on '{what}', which the model computes; "
            "expected a constant: fix it before loading"
        )
    return found.constant


def setting(op: Op, inputs: Sequence[Any], index: int, name: str) -> Array | None:
    """What newer versions of the standard take as input `index` and older ones as attribute `name`; None if neither."""
    found = optional(inputs, index)
    if found is not None:
        return known(op, found, name)
    return np.asarray(op.attributes[name]) if name in op.attributes else None


def integers(op: Op, inputs: Sequence[Any], index: int, name: str) -> tuple[int, ...] | None:
    """`setting` as integers."""
    found = setting(op, inputs, index, name)
    return None if found is None else tuple(int(one) for one in found.ravel())


def text(op: Op, name: str, default: str = "") -> str:
    """Attribute `name` as text."""
    found = op.attributes.get(name, default)
    return found.decode() if isinstance(found, bytes) else str(found)


def element_type(op: Op, name: str, default: str) -> str:
    """Attribute `name`, an element type by its number in onnx.proto's TensorProto.DataType or by our name."""
    found = op.attributes.get(name)
    if found is None or isinstance(found, str):
        return dtype(found or default).name
    if int(found) not in ELEMENT_TYPES:
        raise bad(op, f"attribute '{name}' is {found}, expected the number of an element type")
    return ELEMENT_TYPES[int(found)]


def widened(array: Array) -> Array:
    """Floats narrower than 32 bits as float32, integers narrower than 8 as int8: types that numpy computes in."""
    if array.dtype.char in "fdilq":
        return array
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind == "V" or array.dtype.name not in np.sctypeDict:
        kind = dtype(array.dtype.name).kind
        return array.astype(np.float32 if kind == "float" else kind + "8")
    return array


def narrowed(array: Any, target: Any) -> Array:
    """A result in the numpy type `target`, copied only when it differs."""
    return np.asarray(array).astype(target, copy=False)
