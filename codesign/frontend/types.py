"""ONNX element types and tensors as ours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx

from codesign.dtypes import dtype, numpy_dtype
from codesign.errors import BadModel, UnsupportedOperator
from codesign.ops.arguments import ELEMENT_TYPES
from codesign.ops.base import Array

ENUM_OF: dict[str, int] = {name: number for number, name in ELEMENT_TYPES.items()}
LARGEST_TENSOR = 2**48
"""Elements; a larger shape is malformed, not a model that anyone stores."""


def element_type_name(number: int, what: str) -> str:
    """Our name of ONNX element type `number`; `what` says whose it is. Raises UnsupportedOperator."""
    name = ELEMENT_TYPES.get(number)
    if name is None:
        raise UnsupportedOperator(f"{what}: unknown element type {number}")
    return name


def checked_shape(dims: Sequence[int], what: str) -> tuple[int, ...]:
    """`dims` as a shape. Raises BadModel when one is negative or the whole is absurdly large."""
    shape = tuple(int(extent) for extent in dims)
    if any(extent < 0 for extent in shape):
        raise BadModel(f"{what}: negative dimension in shape {list(shape)}")
    if math.prod(shape) > LARGEST_TENSOR:
        raise BadModel(f"{what}: shape {list(shape)} has more than {LARGEST_TENSOR} elements")
    return shape


def stored_entries(tensor: onnx.TensorProto) -> int:
    """Entries in the typed field of a tensor that is not stored as raw bytes."""
    fields = ("float_data", "int32_data", "int64_data", "string_data", "double_data", "uint64_data")
    return max(len(getattr(tensor, name)) for name in fields)


def has_data(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.raw_data) or stored_entries(tensor) > 0


def check_size(tensor: onnx.TensorProto, shape: tuple[int, ...], type_name: str) -> None:
    """Raises BadModel when the data stored in the file is not what the shape needs."""
    elements = math.prod(shape)
    if tensor.raw_data:
        stored, expected, unit = len(tensor.raw_data), dtype(type_name).bytes_for(elements), "bytes"
    else:
        stored, expected, unit = stored_entries(tensor), _expected_entries(type_name, elements), "values"
    if stored != expected:
        raise BadModel(
            f"initialiser '{tensor.name}' holds {stored} {unit}, "
            f"its shape {list(shape)} of {type_name} needs {expected}"
        )


def _expected_entries(type_name: str, elements: int) -> int:
    kind = dtype(type_name)
    if kind.kind == "complex":
        return 2 * elements
    return -(-elements * kind.bits // 8) if kind.bits < 8 else elements


def to_array(tensor: onnx.TensorProto, shape: tuple[int, ...], type_name: str) -> Array:
    """The values stored in the tensor itself, of a size already checked."""
    kind = dtype(type_name)
    if tensor.raw_data and kind.bits >= 8 and kind.kind != "string":
        return np.frombuffer(tensor.raw_data, dtype=numpy_dtype(type_name)).reshape(shape)
    try:
        values = np.asarray(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as error:
        raise BadModel(f"tensor '{tensor.name}': its values cannot be read ({error})") from error
    if kind.kind == "string":
        return values.astype(object).reshape(shape)
    return values.astype(numpy_dtype(type_name), copy=False).reshape(shape)


def read_tensor(tensor: onnx.TensorProto, what: str) -> Array:
    """A small tensor held in an attribute. Raises BadModel when its values are missing or of the wrong size."""
    type_name = element_type_name(tensor.data_type, what)
    shape = checked_shape(tensor.dims, what)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise BadModel(f"{what}: a tensor attribute cannot be external data")
    check_size(tensor, shape, type_name)
    return to_array(tensor, shape, type_name)
