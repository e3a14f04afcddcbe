"""One codec for every floating-point format that float32 contains: codes, values, and both roundings at once.

A value's code is its sign and a magnitude that counts the format's values from zero, so that rounding is a shift of
bits and a carry into the exponent needs no care. Formats with float32's own 8 exponent bits keep float32's coding,
subnormals included, and lose only the last bits of it; the others find their place by the exponent.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit, types

from codesign.numerics.formats import FloatFormat
from codesign.numerics.rounding import DOWN, STOCHASTIC, TOWARD_ZERO, UP, Rounding, noise_bits, rounding_number, shifted

Array = np.ndarray[Any, Any]

_MAGNITUDE, _INFINITY, _FRACTION, _HIDDEN = (np.uint32(x) for x in (0x7FFFFFFF, 0x7F800000, 0x7FFFFF, 0x800000))
_SIGN = np.uint32(31)


def code_dtype(bits: int) -> np.dtype[Any]:
    """The unsigned type that holds codes of `bits` bits."""
    return np.dtype(np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32)


def encode(
    values: Array, form: FloatFormat, rounding: Rounding = "nearest-even", saturate: bool | None = None, seed: int = 0
) -> Array:
    """Codes of float32 `values`, of their shape, in the narrowest unsigned type.

    `saturate` makes values beyond the largest that one, None does as the format says; `seed` is of stochastic rounding.
    A NaN where the format has none becomes zero.
    """
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    codes = np.empty(flat.size, code_dtype(form.bits))
    limits, mode = _limits(form, rounding, saturate), rounding_number(rounding)
    wide = form.exponent_bits == 8
    loop: Any = _encode_wide_loop if wide else _encode_loop
    geometry = (form.mantissa_bits, form.bits - 1) if wide else _geometry(form)
    loop(flat.view(np.uint32), codes, *geometry, *limits, mode, np.uint32(seed))
    return codes.reshape(np.shape(values))


def quantise(
    values: Array, form: FloatFormat, rounding: Rounding = "nearest-even", saturate: bool | None = None, seed: int = 0
) -> Array:
    """float32 `values` as the format holds them: what `decode` makes of `encode`, in one pass."""
    flat = np.ascontiguousarray(values, np.float32).reshape(1, -1)
    return quantise_rows(flat, np.ones(1, np.float32), form, rounding, saturate, seed).reshape(np.shape(values))


def quantise_rows(
    values: Array,
    scales: Array,
    form: FloatFormat,
    rounding: Rounding = "nearest-even",
    saturate: bool | None = None,
    seed: int = 0,
    units: Array | None = None,
) -> Array:
    """`quantise` of each row divided by its scale, then multiplied by its unit (None: by the scale again).

    values (rows, columns) float32, scales and units (rows,) float32.
    """
    result = np.empty(values.shape, np.float32)
    back = scales if units is None else units
    mode = rounding_number(rounding)
    limits: Any = [_value(form, code) for code in _limits(form, rounding, saturate)]
    wide = form.exponent_bits == 8
    loop: Any = _wide_loop if wide else _narrow_loop
    geometry = (form.mantissa_bits,) if wide else _geometry(form)
    loop(values, scales, back, result, *geometry, *limits, mode, np.uint32(seed))
    return result


def decode(codes: Array, form: FloatFormat) -> Array:
    """The float32 values of codes."""
    if form.bits <= 16:
        return np.asarray(_decoded(form)[codes])
    drop = 23 - form.mantissa_bits
    wide = codes.astype(np.uint32)
    sign = (wide >> np.uint32(form.bits - 1)) << np.uint32(31)
    return (sign | (wide & np.uint32((1 << form.bits - 1) - 1)) << np.uint32(drop)).view(np.float32)


@cache
def _decoded(form: FloatFormat) -> Array:
    """Value of each code, straight from the definition."""
    codes = np.arange(1 << form.bits)
    exponent = codes >> form.mantissa_bits & (1 << form.exponent_bits) - 1
    fraction = codes & (1 << form.mantissa_bits) - 1
    normal = exponent > 0
    significand = (fraction + (normal << form.mantissa_bits)).astype(np.float64)
    values = np.ldexp(significand, np.where(normal, exponent, 1) - form.bias - form.mantissa_bits)
    magnitude = codes & (1 << form.bits - 1) - 1
    if form.nans == "ieee":
        values[magnitude > form.largest_code] = np.nan
        values[magnitude == form.largest_code + 1] = np.inf
    values = np.where(codes >> form.bits - 1, -values, values)
    if form.nans == "all-ones":
        values[magnitude > form.largest_code] = np.nan
    if form.nans == "negative-zero":
        values[form.nan_code] = np.nan
    found = values.astype(np.float32)
    found.flags.writeable = False
    return found


def _geometry(form: FloatFormat) -> tuple[int, int, int, bool]:
    """Mantissa bits, smallest exponent (-127: float32's own coding), place of the sign, whether zero has a sign."""
    smallest = -127 if form.exponent_bits == 8 else form.smallest_exponent
    return form.mantissa_bits, smallest, form.bits - 1, form.nans != "negative-zero"


def _limits(form: FloatFormat, rounding: str, saturate: bool | None) -> tuple[int, int, int, int, int]:
    """Codes: the largest; what finite values above it become, positive and negative; infinity; NaN (signs left out)."""
    largest, mode = form.largest_code, rounding_number(rounding)
    nan = form.nan_code
    if form.saturates if saturate is None else saturate:
        return largest, largest, largest, largest, nan or 0
    infinity = largest + 1 if form.nans == "ieee" else nan if nan is not None else largest
    above = largest if mode in (TOWARD_ZERO, DOWN) else infinity
    below = largest if mode in (TOWARD_ZERO, UP) else infinity
    return largest, above, below, infinity, nan or 0


def _value(form: FloatFormat, code: int) -> np.float32:
    return np.float32(decode(np.array([code], code_dtype(form.bits)), form)[0])


@njit(inline="always")
def _narrow(magnitude: Any, negative: Any, mantissa: Any, smallest: Any, mode: Any, noise: Any) -> Any:
    """Significand in the format's last place, and how far the exponent is above the smallest normal one."""
    field = types.int32(magnitude >> types.uint32(23))
    exponent = max(field, types.int32(1)) - types.int32(127)
    bits = (magnitude & _FRACTION) | (_HIDDEN if field > 0 else types.uint32(0))
    drop = types.int32(23) - mantissa + max(smallest - exponent, types.int32(0))
    if mode == STOCHASTIC:
        # What lies more than 31 places below the last is a chance below 2^-31.
        bits = bits >> types.uint32(min(max(drop - types.int32(31), types.int32(0)), types.int32(31)))
    rounded = shifted(bits, types.uint32(min(drop, types.int32(31))), negative, mode, noise)
    return rounded, max(exponent - smallest, types.int32(0))


def accumulation_geometry(form: FloatFormat) -> tuple[int, int, np.float32]:
    """What `accumulated` must know of a format: mantissa bits, smallest exponent, largest value."""
    mantissa, smallest, _, _ = _geometry(form)
    return mantissa, smallest, np.float32(form.largest)


@njit(inline="always")
def accumulated(x: Any, mantissa: Any, smallest: Any, largest: Any, mode: Any) -> Any:
    """A running sum in the format: beyond the largest value it is infinite, rounded towards zero it stays there."""
    bits = np.float32(x).view(np.uint32)
    sign, magnitude = bits >> _SIGN, bits & _MAGNITUDE
    places = types.int32(mantissa)
    if smallest == -127:
        drop = types.uint32(types.int32(23) - places)
        value = np.uint32(shifted(magnitude, drop, sign, mode, types.uint32(0)) << drop).view(np.float32)
    else:
        rounded, above = _narrow(magnitude, sign, places, types.int32(smallest), mode, types.uint32(0))
        last_place = types.int32(above + types.int32(smallest) - places + types.int32(127)) << types.int32(23)
        value = types.float32(rounded) * np.int32(last_place).view(np.float32)
    beyond = largest if mode == TOWARD_ZERO else types.float32(np.inf)
    value = value if value <= largest else beyond
    value = -value if sign else value
    return value if magnitude < _INFINITY else x


@njit(cache=True, error_model="numpy")
def _encode_loop(
    bits: Array,
    codes: Array,
    mantissa_bits: int,
    smallest_exponent: int,
    sign_place: int,
    signed_zero: bool,
    largest: int,
    above: int,
    below: int,
    infinity: int,
    nan: int,
    mode: int,
    seed: Any,
) -> None:
    mantissa, smallest, place = types.int32(mantissa_bits), types.int32(smallest_exponent), types.uint32(sign_place)
    top, nothing = types.uint32(largest), types.uint32(0)
    over, under = types.uint32(above), types.uint32(below)
    infinite, undefined = types.uint32(infinity), types.uint32(nan)
    keep_sign = signed_zero
    for index in range(bits.size):
        sign = bits[index] >> _SIGN
        magnitude = bits[index] & _MAGNITUDE
        noise = noise_bits(index, seed) if mode == STOCHASTIC else nothing
        rounded, above_smallest = _narrow(magnitude, sign, mantissa, smallest, mode, noise)
        code = (types.uint32(above_smallest) << types.uint32(mantissa)) + rounded
        code = code if code <= top else under if sign else over
        code = infinite if magnitude == _INFINITY else code
        signed = sign if keep_sign or (code != nothing and code != undefined) else nothing
        code = code | (signed << place)
        codes[index] = code if magnitude <= _INFINITY else undefined


@njit(cache=True, error_model="numpy")
def _encode_wide_loop(
    bits: Array,
    codes: Array,
    mantissa_bits: int,
    sign_place: int,
    largest: int,
    above: int,
    below: int,
    infinity: int,
    nan: int,
    mode: int,
    seed: Any,
) -> None:
    drop, place = types.uint32(types.int32(23) - types.int32(mantissa_bits)), types.uint32(sign_place)
    top, nothing = types.uint32(largest), types.uint32(0)
    over, under = types.uint32(above), types.uint32(below)
    infinite, undefined = types.uint32(infinity), types.uint32(nan)
    for index in range(bits.size):
        sign, magnitude = bits[index] >> _SIGN, bits[index] & _MAGNITUDE
        noise = noise_bits(index, seed) if mode == STOCHASTIC else nothing
        code = types.uint32(shifted(magnitude, drop, sign, mode, noise))
        code = code if code <= top else under if sign else over
        code = infinite if magnitude == _INFINITY else code
        code = code | (sign << place)
        codes[index] = code if magnitude <= _INFINITY else undefined


@njit(cache=True, error_model="numpy")
def _narrow_loop(
    values: Array,
    scales: Array,
    units: Array,
    result: Array,
    mantissa_bits: int,
    smallest_exponent: int,
    sign_place: int,
    signed_zero: bool,
    largest: Any,
    above: Any,
    below: Any,
    infinity: Any,
    nan: Any,
    mode: int,
    seed: Any,
) -> None:
    mantissa, smallest = types.int32(mantissa_bits), types.int32(smallest_exponent)
    nothing, keep_sign = types.uint32(0), signed_zero
    for row in range(values.shape[0]):
        scale, unit = scales[row], units[row]
        first = row * values.shape[1]
        for column in range(values.shape[1]):
            bits = np.float32(values[row, column] / scale).view(np.uint32)
            sign, magnitude = bits >> _SIGN, bits & _MAGNITUDE
            noise = noise_bits(first + column, seed) if mode == STOCHASTIC else nothing
            rounded, above_smallest = _narrow(magnitude, sign, mantissa, smallest, mode, noise)
            last_place = types.int32(above_smallest + smallest - mantissa + types.int32(127)) << types.int32(23)
            value = types.float32(rounded) * np.int32(last_place).view(np.float32)
            value = value if value <= largest else below if sign else above
            value = infinity if magnitude == _INFINITY else value
            negative = sign and (keep_sign or value > types.float32(0))
            value = -value if negative else value
            result[row, column] = (value if magnitude <= _INFINITY else nan) * unit


@njit(cache=True, error_model="numpy")
def _wide_loop(
    values: Array,
    scales: Array,
    units: Array,
    result: Array,
    mantissa_bits: int,
    largest: Any,
    above: Any,
    below: Any,
    infinity: Any,
    nan: Any,
    mode: int,
    seed: Any,
) -> None:
    drop, nothing = types.uint32(types.int32(23) - types.int32(mantissa_bits)), types.uint32(0)
    for row in range(values.shape[0]):
        scale, unit = scales[row], units[row]
        first = row * values.shape[1]
        for column in range(values.shape[1]):
            bits = np.float32(values[row, column] / scale).view(np.uint32)
            sign, magnitude = bits >> _SIGN, bits & _MAGNITUDE
            noise = noise_bits(first + column, seed) if mode == STOCHASTIC else nothing
            rounded = shifted(magnitude, drop, sign, mode, noise) << drop
            value = np.uint32(rounded).view(np.float32)
            value = value if value <= largest else below if sign else above
            value = infinity if magnitude == _INFINITY else value
            value = -value if sign else value
            result[row, column] = (value if magnitude <= _INFINITY else nan) * unit
