"""Number formats as data: what each can hold. Codecs read these tables; nothing else is known of a format."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from codesign.errors import BadParameter, nearest

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FloatFormat:
    """Sign, exponent and mantissa: (-1)^s 2^(e - bias) (1 + m / 2^mantissa_bits), subnormal where the exponent is 0.

    `nans`: `ieee` gives the largest exponent to infinity and NaN; `all-ones` only the code of all ones is NaN (OCP's
    e4m3); `negative-zero` only the code of minus zero is (the fnuz types); `none` has neither. `saturates` says what
    conversion does with too large values by default: the largest finite one instead of infinity or NaN.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    nans: Literal["ieee", "all-ones", "negative-zero", "none"] = "ieee"
    saturates: bool = False

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def largest_code(self) -> int:
        """Code of the largest finite value."""
        top = (1 << self.exponent_bits + self.mantissa_bits) - 1
        if self.nans == "ieee":
            return top - (1 << self.mantissa_bits)
        return top - 1 if self.nans == "all-ones" else top

    @property
    def nan_code(self) -> int | None:
        if self.nans == "ieee":
            return self.largest_code + 1 + (1 << self.mantissa_bits >> 1)
        return {"all-ones": self.largest_code + 1, "negative-zero": 1 << self.bits - 1, "none": None}[self.nans]

    @property
    def smallest_exponent(self) -> int:
        """Exponent of the smallest normal value."""
        return 1 - self.bias

    @property
    def largest_exponent(self) -> int:
        """Exponent of the largest finite value."""
        return (self.largest_code >> self.mantissa_bits) - self.bias

    @property
    def largest(self) -> float:
        fraction = self.largest_code & (1 << self.mantissa_bits) - 1
        return math.ldexp(1 + fraction / (1 << self.mantissa_bits), self.largest_exponent)

    @property
    def smallest(self) -> float:
        """The smallest value above zero."""
        return math.ldexp(1.0, self.smallest_exponent - self.mantissa_bits)


@dataclass(frozen=True)
class IntegerFormat:
    """Whole numbers of `bits` bits times a scale; `signed` ones in two's complement."""

    name: str
    bits: int
    signed: bool = True

    @property
    def low(self) -> int:
        return -(1 << self.bits - 1) if self.signed else 0

    @property
    def high(self) -> int:
        return (1 << self.bits - 1) - 1 if self.signed else (1 << self.bits) - 1


@dataclass(frozen=True)
class Codebook:
    """A list of values times a scale; a value's code is its place in the ascending list.

    `boundaries[i]` lies between levels i and i + 1: what is below takes the lower in rounding to nearest. `fit` says
    how the scale follows from the values: `largest` puts the largest level on the largest magnitude; `power` does so
    with the nearest power of `base`; `mean` (binary) and `ternary` follow the papers named where they are built.
    """

    name: str
    bits: int
    levels: tuple[float, ...]
    boundaries: tuple[float, ...]
    fit: Literal["largest", "power", "mean", "ternary"] = "largest"
    base: float = 2.0

    @cached_property
    def largest(self) -> float:
        return max(abs(self.levels[0]), self.levels[-1])


@dataclass(frozen=True)
class BlockFormat:
    """Runs of `block` elements that share a scale.

    `scale` e8m0: a power of two, floor(log2(largest magnitude)) less the element's largest exponent (OCP Microscaling
    Formats v1.0, section 6.3). e4m3: the largest magnitude over the element's largest value, in fp8 e4m3 under one
    fp32 scale of the whole tensor (NVFP4).
    """

    name: str
    element: FloatFormat | IntegerFormat
    block: int
    scale: Literal["e8m0", "e4m3"] = "e8m0"

    @property
    def bits(self) -> float:
        """Bits an element, the block's scale included."""
        return self.element.bits + 8 / self.block


Format = FloatFormat | IntegerFormat | Codebook | BlockFormat

FP32 = FloatFormat("fp32", 8, 23, 127)
FLOATS: dict[str, FloatFormat] = {
    found.name: found
    for found in (
        FP32,
        FloatFormat("tf32", 8, 10, 127),
        FloatFormat("bf16", 8, 7, 127),
        FloatFormat("fp16", 5, 10, 15),
        # OCP 8-bit Floating Point Specification (OFP8) v1.0.
        FloatFormat("fp8-e4m3", 4, 3, 7, "all-ones", True),
        FloatFormat("fp8-e5m2", 5, 2, 15, "ieee", True),
        # Without minus zero: Noune et al. 2022, as on AMD CDNA3 and Graphcore.
        FloatFormat("fp8-e4m3fnuz", 4, 3, 8, "negative-zero", True),
        FloatFormat("fp8-e5m2fnuz", 5, 2, 16, "negative-zero", True),
        # IEEE 754 conventions at 8 bits.
        FloatFormat("fp8-e3m4", 3, 4, 3, "ieee", True),
        FloatFormat("fp8-e4m3ieee", 4, 3, 7, "ieee", True),
        # OCP Microscaling Formats v1.0, section 5.3.
        FloatFormat("fp6-e3m2", 3, 2, 3, "none", True),
        FloatFormat("fp6-e2m3", 2, 3, 1, "none", True),
        FloatFormat("fp4-e2m1", 2, 1, 1, "none", True),
    )
}  # fmt: skip
INTEGERS: dict[str, IntegerFormat] = {
    f"{sign}int{bits}": IntegerFormat(f"{sign}int{bits}", bits, not sign) for bits in range(2, 17) for sign in ("", "u")
}
BLOCKS: dict[str, BlockFormat] = {
    found.name: found
    for found in (
        # OCP Microscaling Formats v1.0, table 1; the element of mxint8 is a fixed-point number with 6 fraction bits.
        BlockFormat("mxfp8-e4m3", FLOATS["fp8-e4m3"], 32),
        BlockFormat("mxfp8-e5m2", FLOATS["fp8-e5m2"], 32),
        BlockFormat("mxfp6-e2m3", FLOATS["fp6-e2m3"], 32),
        BlockFormat("mxfp6-e3m2", FLOATS["fp6-e3m2"], 32),
        BlockFormat("mxfp4", FLOATS["fp4-e2m1"], 32),
        BlockFormat("mxint8", INTEGERS["int8"], 32),
        BlockFormat("nvfp4", FLOATS["fp4-e2m1"], 16, "e4m3"),
    )
}


def logarithmic(bits: int, base: float = 2.0) -> Codebook:
    """Zero and plus or minus base^-k for k from 0 on, as many as `bits` (a sign and an exponent) can tell apart.

    Rounded to nearest in the logarithm (Miyashita et al. 2016, "Convolutional Neural Networks using Logarithmic Data
    Representation"); with base 2 a product is a shift (DeepShift, Elhoushi et al. 2021).
    """
    if not 2 <= bits <= 8 or not 1.0 < base <= 16.0:
        raise BadParameter(f"logarithmic format of {bits} bits, base {base:g}: expected 2 to 8 bits, base 1 to 16")
    powers = [base**-exponent for exponent in range((1 << bits - 1) - 2, -1, -1)]
    between = [power * base**-0.5 for power in powers]
    levels = (*(-power for power in reversed(powers)), 0.0, *powers)
    name = f"pow2-{bits}bit" if base == 2.0 else f"log{bits}@{base:g}"
    return Codebook(name, bits, levels, (*(-edge for edge in reversed(between)), *between), "power", base)


def _listed(name: str, bits: int, levels: tuple[float, ...], **more: Any) -> Codebook:
    halves = tuple((low + high) / 2 for low, high in pairwise(levels))
    return Codebook(name, bits, levels, halves, **more)


# The 16 quantiles of a normal distribution of QLoRA (Dettmers et al. 2023, appendix E), exact at zero and at both ends.
_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
CODEBOOKS: dict[str, Codebook] = {
    "nf4": _listed("nf4", 4, _NF4),
    # Ternary Weight Networks (Li, Zhang, Liu 2016): zero below 0.7 of the mean magnitude, scale the mean of the rest.
    "ternary": _listed("ternary", 2, (-1.0, 0.0, 1.0), fit="ternary"),
    # XNOR-Net (Rastegari et al. 2016): the sign times the mean magnitude.
    "binary": _listed("binary", 1, (-1.0, 1.0), fit="mean"),
}

_ALIASES = {
    "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "tfloat32": "tf32", "fp8": "fp8-e4m3",
    "fp8-e4m3fn": "fp8-e4m3", "float8_e4m3fn": "fp8-e4m3", "float8_e5m2": "fp8-e5m2", "fp4": "fp4-e2m1",
    "float4_e2m1fn": "fp4-e2m1", "mxfp8": "mxfp8-e4m3", "mxfp6": "mxfp6-e2m3", "mxfp4-e2m1": "mxfp4",
    "pow2": "pow2-4bit", "shift": "pow2-4bit", "log2": "pow2-4bit",
}  # fmt: skip
_PATTERNS: tuple[tuple[re.Pattern[str], Callable[..., Format]], ...] = (
    (re.compile(r"pow2-(\d)(?:bit)?"), lambda bits: logarithmic(int(bits))),
    (re.compile(r"log(\d)@(\d+(?:\.\d+)?)"), lambda bits, base: logarithmic(int(bits), float(base))),
    (re.compile(r"e([2-5])m(\d)"), lambda e, m: _small_float(int(e), int(m))),
)
"""Families of formats by name: `pow2-5bit`, `log5@1.414` (bits, base), `e3m3` (no infinity, no NaN)."""


def _small_float(exponent_bits: int, mantissa_bits: int) -> FloatFormat:
    bias = (1 << exponent_bits - 1) - 1
    return FloatFormat(f"e{exponent_bits}m{mantissa_bits}", exponent_bits, mantissa_bits, bias, "none", True)


def format_names() -> Iterator[str]:
    """Names of the formats in the tables, the families left out."""
    for table in (FLOATS, INTEGERS, BLOCKS, CODEBOOKS):
        yield from table


def number_format(name: str) -> Format:
    """The format called `name`. Raises BadParameter with the nearest names when there is none."""
    name = _ALIASES.get(name, name)
    tables: tuple[dict[str, Any], ...] = (FLOATS, INTEGERS, BLOCKS, CODEBOOKS)
    for table in tables:
        if name in table:
            found: Format = table[name]
            return found
    for pattern, build in _PATTERNS:
        if match := pattern.fullmatch(name):
            return build(*match.groups())
    known = [*format_names(), *_ALIASES, "pow2-4bit", "log4@1.414", "e3m3"]
    raise BadParameter(f"unknown number format '{name}'{nearest(name, known)}")
