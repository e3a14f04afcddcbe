"""The measurements the GPU model is fitted on and held against, and how they are divided between the two."""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from codesign.errors import BadParameter
from codesign.graph import Graph
from codesign.study.operators import CacheState, OperatorRow, read_operators, works_of_row
from codesign.work import Move, Work

DATA = Path(__file__).parent / "data"
DEVICE = "h200"
OPERATORS = DATA / "h200_ops.csv"
CALIBRATION_PERCENT = 60
MODEL_PERCENT = 50

Use = Literal["calibration", "validation"]

SHORTEST_S = 0.5e-6
"""Rows shorter than any kernel are views, which the framework made nothing of."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A single operator with its measured seconds in one cache state."""

    row: OperatorRow
    works: tuple[Work, ...]
    cache: CacheState
    seconds: float


@dataclass(frozen=True, slots=True)
class MeasuredNetwork:
    """A whole network in one runtime: seconds and, unless the host launched it, joules of an inference."""

    model: str
    dtype: str
    batch: int
    detail: str
    mode: str
    seconds: float
    joules: float | None

    @property
    def name(self) -> str:
        return f"{self.model} {self.dtype} batch {self.batch} {self.detail}".replace('"', "")


def share(text: str) -> int:
    """A stable hash, 0 to 99: whoever divides the rows again gets the same parts."""
    return zlib.crc32(text.encode()) % 100


def use_of(row: OperatorRow) -> Use:
    """Operators are divided by operator, type and shape."""
    params = ",".join(f"{key}={int(value)}" for key, value in row.params)
    return "calibration" if share(f"{row.op} {row.dtype} {params}") < CALIBRATION_PERCENT else "validation"


def use_of_network(model: str) -> Use:
    """Networks are divided by name: all rows of one are on the same side."""
    return "calibration" if share(model) < MODEL_PERCENT else "validation"


def read_measured(path: str | Path) -> tuple[Measured, ...]:
    """Operators of a file with the columns op, dtype, params, cold_us, warm_us: cold and warm, without views.

    Raises BadParameter naming the file and the row.
    """
    rows = read_operators(path)
    with Path(path).open(newline="", encoding="utf-8") as file:
        times = list(csv.DictReader(file))
    found: list[Measured] = []
    states: tuple[CacheState, ...] = ("cold", "warm")
    for number, (row, time) in enumerate(zip(rows, times, strict=True), start=1):
        try:
            seconds = {state: float(time[f"{state}_us"]) * 1e-6 for state in states}
        except (KeyError, TypeError, ValueError) as error:
            message = f"{path}, row {number}: expected numbers in the columns cold_us and warm_us ({error})"
            raise BadParameter(message) from error
        works = works_of_row(row)
        views = all(isinstance(work, Move) and work.free for work in works)
        if not views and min(seconds.values()) > SHORTEST_S:
            found += [Measured(row, works, state, seconds[state]) for state in states]
    return tuple(found)


@cache
def operators(use: Use, path: Path = OPERATORS) -> tuple[Measured, ...]:
    """Measured operators of one use, cold and warm."""
    return tuple(found for found in read_measured(path) if use_of(found.row) == use)


def networks(mode: str | None = None) -> Iterator[MeasuredNetwork]:
    """Measured whole networks, of one runtime if given."""
    for row in _table("h200_models.csv"):
        if mode in (None, row["mode"]):
            joules = float(row["measured_mJ"]) * 1e-3 if row["measured_mJ"] else None
            seconds = float(row["measured_us"]) * 1e-6
            yield MeasuredNetwork(
                row["model"], row["dtype"], int(row["batch"]), row["detail"], row["mode"], seconds, joules
            )


def energies() -> list[tuple[OperatorRow, float, float]]:
    """(operator, measured seconds, measured joules) of the rows with energy."""
    rows = read_operators(DATA / "h200_energy.csv")
    return [
        (row, float(found["measured_us"]) * 1e-6, float(found["measured_mJ"]) * 1e-3)
        for row, found in zip(rows, _table("h200_energy.csv"), strict=True)
    ]


def fp32_operators() -> list[tuple[str, OperatorRow, float]]:
    """(device, operator, measured seconds) of float32 operators on a V100 and a T4."""
    rows = read_operators(DATA / "neusight_fp32.csv")
    return [
        (found["device"], row, float(found["measured_us"]) * 1e-6)
        for row, found in zip(rows, _table("neusight_fp32.csv"), strict=True)
    ]


def throughputs() -> list[tuple[str, float]]:
    """(workload, images a second) on an RTX 3090."""
    return [(row["workload"], float(row["images_per_s"])) for row in _table("timm_rtx3090.csv")]


WORKLOADS = {
    "resnet50": "resnet50", "mobilenetv2_100": "mobilenetv2", "vit_tiny_patch16_224": "vit_tiny",
    "vit_base_patch16_224": "vit_base", "swin_tiny_patch4_window7_224": "swin_t", "pvt_v2_b0": "pvt_v2_b0",
    "poolformer_s12": "poolformer_s12", "efficientformer_l1": "efficientformer_l1", "bert_base": "bert_base_encoder",
    "gpt2_small": "gpt2_small", "gpt2_xl": "gpt2_xl", "llama2_7b": "llama2_7b",
}  # fmt: skip
"""Our workload of each measured network; the others have none."""


def network_graph(measured: MeasuredNetwork) -> Graph | None:
    """Our graph of a measured network; None where there is none of that size."""
    from codesign.model import load

    workload = WORKLOADS.get(measured.model)
    if workload is None:
        return None
    detail: Mapping[str, Any] = json.loads(measured.detail) if measured.detail.startswith("{") else {}
    bind: dict[str, int] = {}
    if "seq" in detail:
        bind = {"sequence": detail["seq"]}
    elif detail.get("phase") == "prefill":
        bind = {"sequence": detail["q"]}
    elif detail:
        workload += "_decode"
        bind = {"past": detail["kv"] - detail["q"], **({"sequence": detail["q"]} if detail["q"] > 1 else {})}
    try:
        return load(f"zoo:{workload}", batch=measured.batch, bind=bind)
    except BadParameter:
        return None


def of_kinds(rows: Iterable[Measured], kinds: Iterable[str], dtypes: Iterable[str] = ()) -> tuple[Measured, ...]:
    """The rows whose operator is one of `kinds` (one that ends in `_` stands for all that begin with it) and whose type
    is one of `dtypes`, if any are given."""
    wanted, types = tuple(kinds), tuple(dtypes)
    starts = tuple(kind for kind in wanted if kind.endswith("_"))
    return tuple(
        found
        for found in rows
        if (found.row.op in wanted or (starts and found.row.op.startswith(starts)))
        and (not types or found.row.dtype in types)
    )


def _table(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
