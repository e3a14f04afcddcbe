"""What a sweep varies: a device parameter and its values, as written on the command line."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from codesign.errors import BadParameter

Setting = int | float | str | bool
FORMS = "expected NAME=a,b,c or NAME=low:high:COUNT (evenly spaced) or NAME=low:high:COUNTlog (evenly in ratio)"


def parse_vary(texts: Sequence[str]) -> dict[str, list[Setting]]:
    """Values by parameter from texts such as `array.rows=8,16,32` and `dram.bandwidth=1e9:16e9:5log`.

    Raises BadParameter, with the forms that are understood.
    """
    found: dict[str, list[Setting]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not name.strip() or not values.strip():
            raise BadParameter(f"vary '{text}': {FORMS}")
        if name in found:
            raise BadParameter(f"vary '{text}': parameter '{name}' is varied twice")
        found[name.strip()] = _range(text, values) if ":" in values else [setting(part) for part in values.split(",")]
    return found


def parse_settings(texts: Sequence[str]) -> dict[str, Setting]:
    """One value by parameter from texts such as `dram.bandwidth=4e12`. Raises BadParameter."""
    found: dict[str, Setting] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise BadParameter(f"setting '{text}': expected NAME=VALUE, such as dram.bandwidth=4e12")
        found[name.strip()] = setting(value)
    return found


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
    """Every combination of the values, the last parameter changing fastest."""
    return [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]


def _range(text: str, values: str) -> list[Setting]:
    parts = values.split(":")
    try:
        low, high = float(parts[0]), float(parts[1])
        logarithmic = parts[2].endswith("log")
        count = int(parts[2].removesuffix("log"))
    except (ValueError, IndexError):
        raise BadParameter(f"vary '{text}': {FORMS}") from None
    if len(parts) != 3 or count < 2 or (logarithmic and (low <= 0 or high <= 0)):
        raise BadParameter(f"vary '{text}': {FORMS}; COUNT is at least 2, and a log range is positive")
    spaced = np.geomspace(low, high, count) if logarithmic else np.linspace(low, high, count)
    return [_tidy(float(f"{value:.12g}")) for value in spaced]


def _tidy(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) < 1 << 53 else value
