"""Single operators from a table: the columns `op,dtype,params` (params is a JSON object), one operator a row.

What a row means is what a framework runs for it: `gemm` a matrix product, `ew_gelu` an elementwise function, `sum` a
reduction of each row.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from codesign.dtypes import dtype as element_type
from codesign.errors import BadParameter, nearest
from codesign.hardware import Device, MappedOp
from codesign.program import Program
from codesign.study.operator_rules import OPERATORS
from codesign.work import Work

CacheState = Literal["cold", "warm"]
COLUMNS = ("op", "dtype", "params")
LARGEST = 1 << 40
"""Largest value of a parameter: beyond it, sizes stop being a tensor's."""


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """One operator to simulate; `where` names the file and row in messages."""

    op: str
    dtype: str
    params: tuple[tuple[str, int], ...]
    where: str = "row"

    def bad(self, message: str) -> BadParameter:
        return BadParameter(f"{self.where}: {message}")


def read_operators(path: str | Path) -> list[OperatorRow]:
    """Rows of a CSV file with the columns op, dtype, params; other columns are ignored.

    Raises BadParameter naming file, row and reason.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
                raise BadParameter(f"{path}: no column '{missing[0]}'; expected the columns {', '.join(COLUMNS)}")
            return [_read_row(row, f"{path}, row {number}") for number, row in enumerate(reader, start=1)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadParameter(f"{path}: cannot be read as CSV: {error}") from error


def _read_row(row: Mapping[str, str | None], where: str) -> OperatorRow:
    try:
        params = json.loads(row["params"] or "")
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadParameter(f"{where}: params {row['params']!r} are not JSON ({error})") from error
    if not isinstance(params, dict):
        raise BadParameter(f"{where}: params must be a JSON object, got {row['params']!r}")
    found = OperatorRow(row["op"] or "", row["dtype"] or "", tuple(sorted(params.items())), where)
    works_of_row(found)
    return found


def works_of_row(row: OperatorRow) -> tuple[Work, ...]:
    """The work of a row, in the order it runs. Raises BadParameter for an unknown operator, type or parameter."""
    rule = OPERATORS.get(row.op)
    if rule is None:
        raise row.bad(f"unknown operator '{row.op}'{nearest(row.op, OPERATORS)}")
    try:
        name = element_type(row.dtype).name
    except BadParameter as error:
        raise row.bad(str(error)) from error
    params = dict(row.params)
    if set(params) != set(rule.parameters):
        raise row.bad(
            f"'{row.op}' takes the parameters {', '.join(rule.parameters)}; got {', '.join(params) or 'none'}"
        )
    for key, value in params.items():
        least = 0 if key in ("p", "causal") else 1
        if not isinstance(value, int) or not least <= value <= LARGEST:
            raise row.bad(f"parameter '{key}' = {value!r}: expected a whole number from {least} to {LARGEST}")
    try:
        works = rule.work(name, **params)
    except ValueError as error:
        raise row.bad(str(error)) from error
    return works if isinstance(works, tuple) else (works,)


def simulate_operators(
    device: Device, rows: Sequence[OperatorRow], cache: CacheState = "cold", fidelity: str = "event"
) -> list[dict[str, Any]]:
    """Latency and energy of each row, in order; equal rows are simulated once.

    `cold`: one call on an idle device whose caches hold nothing of the operands. `warm`: what a further call adds right
    after the same call, operands and results still where that one left them (as far as caches are large enough).
    An entry holds latency_s, energy_J, bound (the busiest resource), bytes and flops. Raises BadParameter for a row the
    device cannot run, or an unknown cache state or fidelity.
    """
    if cache not in ("cold", "warm"):
        raise BadParameter(f"cache state '{cache}': expected cold or warm")
    if fidelity not in ("analytic", "event"):
        raise BadParameter(f"fidelity '{fidelity}' of single operators: expected analytic or event")
    known: dict[tuple[Any, ...], dict[str, Any]] = {}
    results = []
    for row in rows:
        key = (row.op, row.dtype, row.params)
        if key not in known:
            works = works_of_row(row)
            if not all(device.supports(work_type(work)) for work in works):
                raise row.bad(f"device '{device.name}' does not run the type '{row.dtype}'")
            known[key] = _simulate(device, works, cache, fidelity)
        results.append(dict(known[key]))
    return results


def work_type(work: Work) -> str:
    """The element type the work computes in: its own where it says, else its result's."""
    found = getattr(work, "dtype", None)
    return str(found) if found is not None else work.writes[0].dtype


def _simulate(device: Device, works: tuple[Work, ...], cache: CacheState, fidelity: str) -> dict[str, Any]:
    once = _program(device, works, calls=1, warm=cache == "warm")
    latency_s = _seconds(once, fidelity)
    if cache == "warm":
        latency_s = max(0.0, _seconds(_program(device, works, calls=2, warm=True), fidelity) - latency_s)
    dynamic_J = float((once.energy_J.sum(axis=1) * once.count).sum()) if once.count.size else 0.0
    return {
        "latency_s": latency_s,
        "energy_J": dynamic_J + device.static_power_W * latency_s,
        "bound": _bound(once),
        "bytes": sum(work.bytes for work in works),
        "flops": sum(work.flops for work in works),
    }


def _program(device: Device, works: tuple[Work, ...], calls: int, warm: bool) -> Program:
    """`calls` calls of the works one after the other. What an earlier piece of the same call read or wrote is as recent
    as a warm operand. A cold cache is full of other results, which leave for main memory to make room, so each byte
    written costs one of main memory."""
    from codesign.simulation import map_ops

    ops = [
        MappedOp(work.kind, work, (warm or index > 0,) * len(work.reads), keep_output=warm)
        for index, work in enumerate(works * calls)
    ]
    return map_ops(device, ops)[0]


def _seconds(program: Program, fidelity: str) -> float:
    if fidelity == "analytic":
        from codesign.engine.analytic import lower_bound_ticks

        return float(lower_bound_ticks(program)[0]) * program.tick_s
    from codesign.engine import run

    return run(program).end_s


def _bound(program: Program) -> str:
    """The resource with the largest demand."""
    from codesign.engine.analytic import demand_ticks

    if program.count.size == 0:
        return "nothing"
    import numpy as np

    demand = np.bincount(program.resource, weights=demand_ticks(program), minlength=len(program.resources))
    return program.resources[int(demand.argmax())].name
