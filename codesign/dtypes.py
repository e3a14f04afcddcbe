"""Element types: their width, their kind, and the numpy type that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from codesign.errors import BadParameter, nearest


@dataclass(frozen=True, slots=True)
class DType:
    """An element type. `bits` is its storage width; `kind` is float, int, uint, bool, string or complex."""

    name: str
    bits: int
    kind: str

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    def bytes_for(self, elements: int) -> int:
        """Bytes that hold `elements` of this type, sub-byte types packed."""
        return -(-elements * self.bits // 8)


_TABLE = (
    ("float64", 64, "float"), ("float32", 32, "float"), ("tfloat32", 32, "float"), ("float16", 16, "float"),
    ("bfloat16", 16, "float"), ("float8_e4m3fn", 8, "float"), ("float8_e4m3fnuz", 8, "float"),
    ("float8_e5m2", 8, "float"), ("float8_e5m2fnuz", 8, "float"), ("float8_e8m0fnu", 8, "float"),
    ("float4_e2m1fn", 4, "float"), ("int64", 64, "int"), ("int32", 32, "int"), ("int16", 16, "int"),
    ("int8", 8, "int"), ("int4", 4, "int"), ("int2", 2, "int"), ("uint64", 64, "uint"), ("uint32", 32, "uint"),
    ("uint16", 16, "uint"), ("uint8", 8, "uint"), ("uint4", 4, "uint"), ("uint2", 2, "uint"), ("bool", 8, "bool"),
    ("string", 64, "string"), ("complex64", 64, "complex"), ("complex128", 128, "complex"),
)  # fmt: skip
DTYPES: dict[str, DType] = {name: DType(name, bits, kind) for name, bits, kind in _TABLE}
_SHORT = {
    "fp64": "float64", "fp32": "float32", "tf32": "tfloat32", "fp16": "float16", "bf16": "bfloat16",
    "fp8": "float8_e4m3fn", "fp8-e4m3": "float8_e4m3fn", "fp8-e5m2": "float8_e5m2", "fp4": "float4_e2m1fn",
}  # fmt: skip


def dtype(name: str) -> DType:
    """The type called `name` (`float16`, or the short `fp16`). Raises BadParameter when there is none."""
    found = DTYPES.get(_SHORT.get(name, name))
    if found is None:
        raise BadParameter(f"unknown data type '{name}'{nearest(name, [*DTYPES, *_SHORT])}")
    return found


@cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy type that holds elements called `name`; narrow formats come from ml_dtypes."""
    if name == "string":
        return np.dtype(object)
    if name == "tfloat32":
        return np.dtype(np.float32)
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))


def name_of(array_dtype: np.dtype[Any]) -> str:
    """The element type name of a numpy dtype."""
    return "string" if array_dtype.kind in "OUS" else array_dtype.name
