"""Numbers for people: three significant digits and a prefix. Documents and files keep raw SI."""

from __future__ import annotations

import math

_DECIMAL = (
    (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""),
    (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"), (1e-15, "f"),
)  # fmt: skip
_BINARY = ((2.0**50, "Pi"), (2.0**40, "Ti"), (2.0**30, "Gi"), (2.0**20, "Mi"), (2.0**10, "Ki"), (1.0, ""))


def _three_digits(value: float) -> str:
    """Three significant digits without an exponent, for 0.001 <= |value| < 10000; larger values as whole numbers."""
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(2 - magnitude, 0), 5)}f}"


def _scaled(value: float, unit: str, prefixes: tuple[tuple[float, str], ...]) -> str:
    if not math.isfinite(value):
        return f"{value} {unit}".strip()
    rounded = float(f"{value:.3g}")
    for scale, prefix in prefixes:
        if abs(rounded) >= scale:
            return f"{_three_digits(rounded / scale)} {prefix}{unit}".strip()
    if rounded == 0:
        return f"0 {unit}".strip()
    scale, prefix = prefixes[-1]
    return f"{_three_digits(rounded / scale)} {prefix}{unit}".strip()


def seconds(value: float) -> str:
    """Seconds as `1.23 ms`; minutes and hours from 120 of the smaller unit on."""
    if value >= 7200:
        return f"{_three_digits(value / 3600)} h"
    if value >= 120:
        return f"{_three_digits(value / 60)} min"
    return _scaled(value, "s", _DECIMAL)


def joules(value: float) -> str:
    return _scaled(value, "J", _DECIMAL)


def watts(value: float) -> str:
    return _scaled(value, "W", _DECIMAL)


def bytes_(value: float) -> str:
    """Bytes as `1.50 MiB`: capacities are powers of two."""
    if abs(value) < 1024:
        return f"{value:.0f} B"
    return _scaled(value, "B", _BINARY)


def bandwidth(value: float) -> str:
    """Bytes a second as `3.20 TB/s`: rates are powers of ten."""
    return _scaled(value, "B/s", _DECIMAL)


def rate(value: float, unit: str) -> str:
    """Events a second as `12.5 TFLOP/s`, `unit` without the `/s`."""
    return _scaled(value, f"{unit}/s", _DECIMAL)


def count(value: float, unit: str = "") -> str:
    """A count as `4.09 G`, whole below a thousand."""
    if abs(value) < 1000 and value == int(value):
        return f"{int(value)} {unit}".strip()
    return _scaled(value, unit, _DECIMAL)


def percent(fraction: float) -> str:
    """A fraction as `42%`, with a decimal below ten, and `<0.1%` for what would round to nothing."""
    value = 100 * fraction
    if 0 < value < 0.05:
        return "<0.1%"
    return f"{value:.0f}%" if abs(value) >= 9.95 or value == 0 else f"{value:.1f}%"
