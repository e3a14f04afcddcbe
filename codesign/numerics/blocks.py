"""Block-scaled formats: a run of elements under one small scale, OCP's microscaling formats and NVFP4.

A block is a row here: values (blocks, block). What a tensor's runs are is the caller's to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.numerics import floats, integers
from codesign.numerics.formats import FLOATS, BlockFormat, FloatFormat, IntegerFormat
from codesign.numerics.rounding import Rounding

Array = np.ndarray[Any, Any]

E8M0_BIAS, E8M0_NAN = 127, 255
_SCALE = FLOATS["fp8-e4m3"]
_FIXED_POINT = np.float32(2.0**-6)
"""The last place of mxint8's elements: one sign, one integer and six fraction bits (OCP MX v1.0, section 5.3.4)."""


@dataclass(frozen=True)
class Blocks:
    """A tensor in codes: elements (blocks, block), scales (blocks,) in e8m0 or e4m3, and the tensor's fp32 scale."""

    elements: Array
    scales: Array
    tensor_scale: np.float32


def encode_rows(values: Array, form: BlockFormat, rounding: Rounding = "nearest-even", seed: int = 0) -> Blocks:
    """Codes of float32 values (blocks, block). A block that holds NaN or infinity has NaN for its scale."""
    codes, tensor_scale = _scale_codes(values, form)
    units = _units(codes, tensor_scale, form)
    scaled = (values / _divisors(units)[:, None]).astype(np.float32)
    if isinstance(form.element, FloatFormat):
        return Blocks(floats.encode(scaled, form.element, rounding, True, seed), codes, tensor_scale)
    ones, zeros = np.ones(len(values), np.float32), np.zeros(len(values), np.float32)
    elements = integers.encode_rows(scaled, ones, zeros, _balanced(form.element), rounding, seed)
    return Blocks(elements, codes, tensor_scale)


def decode_rows(blocks: Blocks, form: BlockFormat) -> Array:
    """The float32 values (blocks, block)."""
    units = _units(blocks.scales, blocks.tensor_scale, form)[:, None]
    if isinstance(form.element, FloatFormat):
        return np.asarray(floats.decode(blocks.elements, form.element) * units, np.float32)
    return np.asarray(blocks.elements.astype(np.float32) * units, np.float32)


def quantise_rows(values: Array, form: BlockFormat, rounding: Rounding = "nearest-even", seed: int = 0) -> Array:
    """What `decode_rows` makes of `encode_rows`, in one pass."""
    codes, tensor_scale = _scale_codes(values, form)
    units = _units(codes, tensor_scale, form)
    divisors = _divisors(units)
    if isinstance(form.element, FloatFormat):
        return floats.quantise_rows(values, divisors, form.element, rounding, True, seed, units)
    zeros = np.zeros(len(values), np.float32)
    return integers.quantise_rows(values, divisors, zeros, _balanced(form.element), rounding, seed, units)


def _balanced(element: IntegerFormat) -> IntegerFormat:
    """The lowest code left unused, so that values are as many below zero as above (OCP MX v1.0, section 5.3.4)."""
    return _Balanced(element.name, element.bits)


class _Balanced(IntegerFormat):
    @property
    def low(self) -> int:
        return -self.high


def _scale_codes(values: Array, form: BlockFormat) -> tuple[Array, np.float32]:
    """The code of each block's scale, and the scale of the whole tensor."""
    largest = np.abs(values).max(axis=1, initial=0)
    if form.scale == "e8m0":
        # frexp gives a significand from 1/2 on, so its exponent is one more than floor(log2).
        exponents = np.frexp(largest)[1] - 1 - _largest_exponent(form.element)
        exponents = np.where(largest > 0, exponents, -E8M0_BIAS)
        codes = (np.clip(exponents, -E8M0_BIAS, E8M0_BIAS) + E8M0_BIAS).astype(np.uint8)
        return np.where(np.isfinite(largest), codes, np.uint8(E8M0_NAN)), np.float32(1)
    finite = largest[np.isfinite(largest)]
    reach = np.float32(_largest(form.element) * _SCALE.largest)
    tensor_scale = np.float32(finite.max(initial=0)) / reach
    tensor_scale = tensor_scale if tensor_scale >= np.finfo(np.float32).tiny else np.float32(1)
    wanted = (largest / np.float32(_largest(form.element)) / tensor_scale).astype(np.float32)
    codes = floats.encode(np.where(np.isfinite(wanted), wanted, np.float32(np.nan)), _SCALE)
    return codes, tensor_scale


def _units(codes: Array, tensor_scale: np.float32, form: BlockFormat) -> Array:
    """What an element's value is multiplied by, a block: NaN for a block that is not finite, zero for one too small."""
    if form.scale == "e4m3":
        return np.asarray(floats.decode(codes, _SCALE) * tensor_scale, np.float32)
    powers = np.ldexp(np.float32(1), np.minimum(codes, E8M0_NAN - 1).astype(np.int32) - E8M0_BIAS).astype(np.float32)
    units = np.where(codes == E8M0_NAN, np.float32(np.nan), powers)
    return units if isinstance(form.element, FloatFormat) else units * _FIXED_POINT


def _divisors(units: Array) -> Array:
    """Units to divide by: a block whose scale vanished keeps nothing of its elements."""
    return np.where(units == 0, np.float32(np.inf), units)


def _largest_exponent(element: FloatFormat | IntegerFormat) -> int:
    return element.largest_exponent if isinstance(element, FloatFormat) else 0


def _largest(element: FloatFormat | IntegerFormat) -> float:
    return element.largest if isinstance(element, FloatFormat) else float(element.high)
