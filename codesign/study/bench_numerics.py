"""The number formats' speed: values quantised and encoded a second on one thread, beside ml_dtypes and numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from codesign.numerics import blocks, codebooks, floats, integers
from codesign.numerics.formats import BLOCKS, CODEBOOKS, FLOATS, INTEGERS

Array = np.ndarray[Any, Any]
Work = Callable[[], object]

ELEMENTS = 1 << 20
"""Values a call: 4 MiB in float32, which a second-level cache does not hold."""
TARGET = 2e8
"""Values a second and core that int8 and fp8 must reach."""


def format_work() -> Iterator[tuple[str, Work, float | None, str, Work | None]]:
    """Name, what to time, its target in values a second, and a peer's name and work."""
    values = np.random.default_rng(0).standard_normal((1, ELEMENTS)).astype(np.float32)
    scale, zero = np.full(1, 0.02, np.float32), np.zeros(1, np.float32)
    int8 = INTEGERS["int8"]

    def numpy_int8() -> Array:
        return np.clip(np.rint(values / scale), -128, 127).astype(np.int8)

    yield "int8: quantise", lambda: integers.quantise_rows(values, scale, zero, int8), TARGET, "", None
    yield "int8: encode", lambda: integers.encode_rows(values, scale, zero, int8), TARGET, "numpy", numpy_int8
    yield (
        "int8: quantise, stochastic rounding",
        lambda: integers.quantise_rows(values, scale, zero, int8, "stochastic"),
        TARGET,
        "",
        None,
    )
    for name, theirs in (("fp8-e4m3", "float8_e4m3fn"), ("fp8-e5m2", "float8_e5m2"), ("bf16", "bfloat16")):
        target = TARGET if name.startswith("fp8") else None
        yield f"{name}: quantise", _quantised(values, scale, name), target, "", None
        yield f"{name}: encode", _encoded(values, name), target, "ml_dtypes", _converted(values, theirs)
    for name in ("mxfp4", "nvfp4", "mxint8"):
        yield f"{name}: quantise", _blocked(values, name), None, "", None
    nf4 = CODEBOOKS["nf4"]
    fitted = codebooks.fit_rows(values, nf4)
    yield "nf4: quantise", lambda: codebooks.quantise_rows(values, *fitted, nf4), None, "", None


def _quantised(values: Array, scale: Array, name: str) -> Work:
    return lambda: floats.quantise_rows(values, scale, FLOATS[name])


def _encoded(values: Array, name: str) -> Work:
    return lambda: floats.encode(values, FLOATS[name])


def _blocked(values: Array, name: str) -> Work:
    runs = values.reshape(-1, BLOCKS[name].block)
    return lambda: blocks.quantise_rows(runs, BLOCKS[name])


def _converted(values: Array, theirs: str) -> Work:
    import ml_dtypes

    kind = np.dtype(getattr(ml_dtypes, theirs))
    return lambda: values.astype(kind)
