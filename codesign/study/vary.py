"""What a sweep varies: a device parameter and its values, as written on the command line."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from codesign.errors import BadParameter

Setting = int | float | str | bool
FORMS = "expected NAME=a,b,c or NAME=low:high:COUNT (evenly spaced) or NAME=low:high:COUNTlog (evenly in ratio)"
LARGEST_GRID = 1_000_000
"""Points of a sweep: beyond it the grid alone would fill memory, and a search is what is wanted."""


def parse_vary(texts: Sequence[str]) -> dict[str, list[Setting]]:
    """Values by parameter from texts such as `array.rows=8,16,32` and `dram.bandwidth=1e9:16e9:5log`.

    Raises BadParameter, with the forms that are understood.
    """
    found: dict[str, list[Setting]] = {}
    for text in texts:
        name, values = _parted("--vary", text, FORMS)
        if name in found:
            raise BadParameter(f"--vary {text}: parameter '{name}' is varied twice")
        found[name] = _range(text, values) if ":" in values else _listed(text, values)
    return found


def parse_settings(texts: Sequence[str]) -> dict[str, Setting]:
    """One value by parameter from texts such as `dram.bandwidth=4e12`. Raises BadParameter."""
    parted = [_parted("--set", text, "expected NAME=VALUE, such as dram.bandwidth=4e12") for text in texts]
    return {name: setting(value) for name, value in parted}


def parse_sizes(texts: Sequence[str]) -> dict[str, int]:
    """Sizes of dimensions by name from texts such as `sequence=128`. Raises BadParameter."""
    found = {}
    for text in texts:
        name, value = _parted("--bind", text, "expected NAME=SIZE, such as sequence=128")
        size = setting(value)
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise BadParameter(f"--bind {text}: expected a whole number of at least 1")
        found[name] = size
    return found


def parse_bytes(option: str, text: str) -> int:
    """Bytes from texts such as `8GiB`, `500 MB` or `1e9`. Raises BadParameter."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kKMGT]i?)?B?\s*", text)
    try:
        number = float(found[1]) if found else -1.0
    except ValueError:
        number = -1.0
    if found is None or number < 0:
        raise BadParameter(f"{option} {text}: expected a size, such as 8GiB or 500MB")
    prefix = found[2] or ""
    base = 1024 if prefix.endswith("i") else 1000
    return int(number * base ** " KMGT".index(prefix[:1].upper() or " "))


def _parted(option: str, text: str, expected: str) -> tuple[str, str]:
    """Name and value of `NAME=VALUE`, both there."""
    name, _, value = (part.strip() for part in text.partition("="))
    if not name or not value:
        raise BadParameter(f"{option} {text}: {expected}")
    return name, value


def setting(text: str) -> Setting:
    """A number when it reads as one (whole numbers as int), true or false, else the text."""
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return _tidy(float(text))
    except ValueError:
        return text


def grid(vary: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values, the last parameter changing fastest. Raises BadParameter for too many."""
    points = math.prod(len(values) for values in vary.values())
    if points > LARGEST_GRID:
        raise BadParameter(f"a grid of {points:,} points is too large: at most {LARGEST_GRID:,}; vary fewer values")
    return [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]


def _listed(text: str, values: str) -> list[Setting]:
    parts = [part.strip() for part in values.split(",")]
    if not all(parts):
        raise BadParameter(f"--vary {text}: a value is empty; {FORMS}")
    return [setting(part) for part in parts]


def _range(text: str, values: str) -> list[Setting]:
    try:
        low, high, steps = values.split(":")
        first, last, count = float(low), float(high), int(steps.strip().removesuffix("log"))
    except ValueError:
        raise BadParameter(f"--vary {text}: {FORMS}") from None
    logarithmic = steps.strip().endswith("log")
    finite = math.isfinite(first) and math.isfinite(last)
    if not finite or not 2 <= count <= LARGEST_GRID or (logarithmic and (first <= 0 or last <= 0)):
        raise BadParameter(
            f"--vary {text}: {FORMS}; COUNT is from 2 to {LARGEST_GRID:,}, the ends finite, a log range's positive"
        )
    spaced = np.geomspace(first, last, count) if logarithmic else np.linspace(first, last, count)
    return [_tidy(float(f"{value:.12g}")) for value in spaced]


def _tidy(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) < 1 << 53 else value
