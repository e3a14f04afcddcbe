"""The measurements the GPU model is fitted on and held against, and how they are divided between the two."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from codesign.study.operators import CacheState, OperatorRow, read_operators

DATA = Path(__file__).parent / "data"
DEVICE = "h200"
CALIBRATION_PERCENT = 60

Use = Literal["calibration", "validation"]

SHORTEST_S = 0.5e-6
"""Rows shorter than any kernel are views, which the framework made nothing of (a slice of one image)."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A single operator with its measured time in one cache state."""

    row: OperatorRow
    cache: CacheState
    seconds: float


def use_of(row: OperatorRow) -> Use:
    """A stable hash divides the rows: whoever calibrates again gets the same 60%."""
    params = ",".join(f"{key}={int(value)}" for key, value in row.params)
    share = zlib.crc32(f"{row.op} {row.dtype} {params}".encode()) % 100
    return "calibration" if share < CALIBRATION_PERCENT else "validation"


@cache
def operators(use: Use) -> tuple[Measured, ...]:
    """Measured operators of one use, cold and warm."""
    path = DATA / "h200_ops.csv"
    with path.open(newline="", encoding="utf-8") as file:
        times = list(csv.DictReader(file))
    found = []
    for row, time in zip(read_operators(path), times, strict=True):
        if use_of(row) == use and float(time["warm_us"]) * 1e-6 > SHORTEST_S:
            found.append(Measured(row, "cold", float(time["cold_us"]) * 1e-6))
            found.append(Measured(row, "warm", float(time["warm_us"]) * 1e-6))
    return tuple(found)


def energies() -> list[tuple[OperatorRow, float, float]]:
    """(operator, measured seconds, measured joules) of the rows with energy."""
    path = DATA / "h200_energy.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        (row, float(found["measured_us"]) * 1e-6, float(found["measured_mJ"]) * 1e-3)
        for row, found in zip(read_operators(path), rows, strict=True)
    ]


def of_kinds(rows: Iterable[Measured], kinds: Iterable[str]) -> tuple[Measured, ...]:
    """The rows whose operator is one of `kinds`; a kind that ends in `_` stands for all that begin with it."""
    wanted = tuple(kinds)
    starts = tuple(kind for kind in wanted if kind.endswith("_"))
    return tuple(found for found in rows if found.row.op in wanted or (starts and found.row.op.startswith(starts)))
