"""The integer quantiser: codes of 2 to 16 bits under a scale and a zero point, one of each a row.

value = (code - zero point) scale; code = saturate(round(value / scale) + zero point), as ONNX's QuantizeLinear.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from codesign.numerics.formats import IntegerFormat
from codesign.numerics.rounding import STOCHASTIC, Rounding, noise_bits, rounding_number, whole

Array = np.ndarray[Any, Any]


def code_dtype(form: IntegerFormat) -> np.dtype[Any]:
    """The integer type that holds the codes."""
    kinds = (np.int8, np.int16) if form.signed else (np.uint8, np.uint16)
    return np.dtype(kinds[form.bits > 8])


def scales_of(low: Array, high: Array, form: IntegerFormat, symmetric: bool) -> tuple[Array, Array]:
    """float32 scales and zero points that span `low` to `high`, zero always among the values.

    Symmetric: zero point 0 and the largest magnitude on the largest code. Otherwise the whole range of codes is used.
    A range of nothing but zero has scale 1.
    """
    low, high = (np.asarray(edge, np.float32) for edge in (low, high))
    low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    if symmetric:
        scale = np.maximum(-low if form.signed else np.float32(0), high) / np.float32(form.high)
        return _positive(scale), np.zeros_like(scale)
    scale = _positive((high - low) / np.float32(form.high - form.low))
    return scale, np.clip(np.rint(np.float32(form.low) - low / scale), form.low, form.high).astype(np.float32)


def _positive(scale: Array) -> Array:
    """Scales, those of nothing but zeros (or of values that vanish in float32) replaced by one."""
    return np.asarray(np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(1)), np.float32)


def encode_rows(
    values: Array,
    scales: Array,
    zeros: Array,
    form: IntegerFormat,
    rounding: Rounding = "nearest-even",
    seed: int = 0,
) -> Array:
    """Codes of float32 values (rows, columns) under the scale and zero point (rows,) of each row."""
    codes = np.empty(values.shape, code_dtype(form))
    low, high = np.float32(form.low), np.float32(form.high)
    _encode_loop(values, scales, zeros, codes, low, high, rounding_number(rounding), np.uint32(seed))
    return codes


def decode_rows(codes: Array, scales: Array, zeros: Array) -> Array:
    """The float32 values of codes (rows, columns)."""
    return np.asarray((codes.astype(np.float32) - zeros[:, None]) * scales[:, None], np.float32)


def quantise_rows(
    values: Array,
    scales: Array,
    zeros: Array,
    form: IntegerFormat,
    rounding: Rounding = "nearest-even",
    seed: int = 0,
    units: Array | None = None,
) -> Array:
    """What `decode_rows` makes of `encode_rows`, in one pass; `units` replace the scales in decoding.

    Units of one give the codes with the zero point taken off, which integer products multiply.
    """
    result = np.empty(values.shape, np.float32)
    low, high = np.float32(form.low), np.float32(form.high)
    back = scales if units is None else units
    _quantise_loop(values, scales, zeros, back, result, low, high, rounding_number(rounding), np.uint32(seed))
    return result


@njit(inline="always")
def _code(value: Any, scale: Any, zero: Any, low: Any, high: Any, mode: Any, noise: Any) -> Any:
    code = whole(value / scale, mode, noise) + zero
    code = low if code < low else high if code > high else code
    return code if code == code else zero


@njit(cache=True, error_model="numpy")
def _encode_loop(
    values: Array, scales: Array, zeros: Array, codes: Array, low: Any, high: Any, mode: int, seed: Any
) -> None:
    for row in range(values.shape[0]):
        scale, zero, first = scales[row], zeros[row], row * values.shape[1]
        for column in range(values.shape[1]):
            noise = noise_bits(first + column, seed) if mode == STOCHASTIC else types.uint32(0)
            codes[row, column] = types.int32(_code(values[row, column], scale, zero, low, high, mode, noise))


@njit(cache=True, error_model="numpy")
def _quantise_loop(
    values: Array, scales: Array, zeros: Array, units: Array, result: Array, low: Any, high: Any, mode: int, seed: Any
) -> None:
    for row in range(values.shape[0]):
        scale, zero, unit, first = scales[row], zeros[row], units[row], row * values.shape[1]
        for column in range(values.shape[1]):
            noise = noise_bits(first + column, seed) if mode == STOCHASTIC else types.uint32(0)
            result[row, column] = (_code(values[row, column], scale, zero, low, high, mode, noise) - zero) * unit
