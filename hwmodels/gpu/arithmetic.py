"""How fast and at what energy an SM computes in each element type."""

from __future__ import annotations

from dataclasses import dataclass

from codesign.dtypes import dtype as element_type
from hwmodels.gpu import instructions
from hwmodels.gpu.parameters import GpuParameters


@dataclass(frozen=True, slots=True)
class Unit:
    """One arithmetic path of an SM: MAC a clock at the peak and the fraction of it that is reached, joules an
    operation, element bytes in shared memory, and whether it is the tensor cores (else the SIMT units)."""

    macs_per_clock: float
    achieved: float
    joules: float
    element_bytes: float
    tensor: bool
    component: str


_TENSOR_TYPES = {
    "float64": "float64", "tfloat32": "tfloat32", "float16": "float16", "bfloat16": "float16", "int8": "int8",
    "uint8": "int8", "int4": "int8", "uint4": "int8", "int2": "int8", "uint2": "int8", "bool": "int8",
}  # fmt: skip
"""Which tensor-core rate serves a type. Types narrower than eight bits are widened to it before they are multiplied."""

_WIDER = {"float8": "float16", "int8": "float16"}
"""What a type is converted to where the tensor cores do not know it."""


def supported(name: str) -> bool:
    """Every numeric type runs, in the tensor cores or on the SIMT units."""
    return element_type(name).kind in ("float", "int", "uint", "bool", "complex")


def tensor_path(parameters: GpuParameters, name: str) -> str | None:
    """The tensor cores' rate that serves type `name`, None when only the SIMT units do."""
    kind = element_type(name)
    path = "float8" if kind.is_float and kind.bits <= 8 else _TENSOR_TYPES.get(kind.name)
    if kind.name == "bfloat16" and parameters.generation in ("volta", "turing"):
        return None
    while path is not None and getattr(parameters.tensor_core, path) == 0:
        path = _WIDER.get(path)
    return path


def _vector_lanes(parameters: GpuParameters, name: str) -> float:
    kind = element_type(name)
    if kind.is_float and kind.bits == 16:
        return parameters.vector.float16
    return parameters.vector.float64 if kind.bits == 64 else parameters.vector.float32


def peak_macs_per_clock(parameters: GpuParameters, name: str) -> float:
    """Multiply-accumulates a clock and SM in type `name` at the peak of the unit that runs its matrix products."""
    path = tensor_path(parameters, name)
    return _vector_lanes(parameters, name) if path is None else float(getattr(parameters.tensor_core, path))


def matrix_unit(parameters: GpuParameters, name: str) -> Unit:
    """The unit for matrix products in type `name`: tensor cores where they know it, else the SIMT units."""
    kind, path = element_type(name), tensor_path(parameters, name)
    if path is None:
        return vector_unit(parameters, name)
    return Unit(
        macs_per_clock=getattr(parameters.tensor_core, path),
        achieved=getattr(parameters.achieved, f"tensor_{path}", parameters.achieved.tensor_float16),
        joules=getattr(parameters.energy, f"tensor_{path}"),
        element_bytes=max(1.0, kind.bits / 8),
        tensor=True,
        component="tensor",
    )


def vector_unit(parameters: GpuParameters, name: str) -> Unit:
    """The SIMT units in type `name`; narrow types are computed as float32 except packed 16-bit floats."""
    kind = element_type(name)
    scale = max(1.0, kind.bits / 32) if kind.bits == 64 else 1.0
    lanes = _vector_lanes(parameters, name)
    packed = max(1.0, lanes / parameters.vector.float32)
    issued = packed * parameters.vector.issue / instructions.PRODUCT
    return Unit(
        macs_per_clock=lanes,
        achieved=min(1.0, issued / lanes),
        joules=parameters.energy.float32 * scale / packed,
        element_bytes=max(1.0, kind.bits / 8),
        tensor=False,
        component="vector",
    )
