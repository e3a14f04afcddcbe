"""Fit what no data sheet states, on the calibration rows: `python -m hwmodels.gpu.calibrate`.

In stages, each on the operators that show its parameters: streaming, energies (the power limit ties the speed of matrix
products to them), matrix products, attention, rows of a reduction, strided addresses, sorting, scans.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codesign.hardware import Device
from codesign.registry import device
from codesign.study.operators import OperatorRow, simulate_operators, works_of_row
from hwmodels.gpu.measurements import DEVICE, Measured, energies, of_kinds, operators
from hwmodels.gpu.parameters import Energy


@dataclass(frozen=True, slots=True)
class Stage:
    """Operators (those measured to take `least_s` to `most_s`), and the parameters they show, with upper limits.
    With `energy`, the energies are fitted before it."""

    kinds: tuple[str, ...]
    limits: Mapping[str, float]
    least_s: float = 0.0
    most_s: float = math.inf
    energy: bool = False


STAGES = (
    Stage(("ew_",), {"achieved.dram": 1.0}, least_s=50e-6),
    Stage(("ew_",), {"launch.latency": 1e-5, "launch.start": 5e-6}, most_s=8e-6),
    Stage(
        ("ew_",),
        {"l2.full_hits": 1.0, "sm.stream_instructions": 100.0},
        least_s=3e-6,
        most_s=50e-6,
    ),
    Stage(
        ("gemm", "bmm"),
        {
            "achieved.tensor_float16": 1.0, "achieved.tensor_tfloat32": 1.0, "achieved.tensor_float8": 1.0,
            "achieved.tensor_int8": 1.0, "achieved.vector": 1.0, "l2.bandwidth": 1.5e13,
            "sm.product_fill": 5e-6, "sm.aligned_bytes": 64.0,
        },
        energy=True,
    ),
    Stage(("conv2d",), {"sm.unpipelined_step": 5e-6}),
    Stage(("sdpa",), {"achieved.attention": 1.0, "sm.attention_step": 5e-6}),
    Stage(
        ("sum", "mean", "max", "argmax", "softmax", "layernorm", "rmsnorm", "gap"),
        {"sm.loop_latency": 5e-6, "sm.row_warp": 1e-6, "sm.row_block": 5e-6},
    ),
    Stage(("maxpool3s2", "avgpool3s1", "concat_c", "slice_c"), {"sm.index_instructions": 1000.0}),
    Stage(("sort", "topk16"), {"sm.sort_instructions": 1000.0, "sm.select_instructions": 1000.0}),
    Stage(("cumsum",), {"sm.chain_latency": 1e-6}),
)  # fmt: skip

ENERGIES = ("tensor_tfloat32", "tensor_float16", "tensor_float8", "tensor_int8", "vector", "dram")
"""Energies fitted; the others are shown by no measured operator."""


def log_errors(found: Device, rows: Sequence[Measured]) -> list[float]:
    """log(predicted / measured) of each row."""
    errors = []
    for cache in ("cold", "warm"):
        chosen = [row for row in rows if row.cache == cache]
        results = simulate_operators(found, [row.row for row in chosen], cache)  # type: ignore[arg-type]
        errors += [math.log(result["latency_s"] / row.seconds) for result, row in zip(results, chosen, strict=True)]
    return errors


def calibrate(stages: Iterable[Stage] = STAGES) -> dict[str, float]:
    """The fitted parameters by name, energies and times: least squares of the log errors, large ones damped,
    stage after stage.

    Starts from the device file's values, so that calibrating again changes nothing beyond the tolerance.
    """
    values: dict[str, float] = {}
    for stage in stages:
        if stage.energy:
            values.update(calibrate_energy(values))
        values.update(_fit(stage, values))
    return values


def _fit(stage: Stage, known: Mapping[str, float]) -> dict[str, float]:
    from scipy.optimize import least_squares

    rows = [
        row for row in of_kinds(operators("calibration"), stage.kinds) if stage.least_s <= row.seconds <= stage.most_s
    ]
    names = tuple(stage.limits)
    start = [math.log(value_of(name, known)) for name in names]
    upper = [math.log(stage.limits[name]) for name in names]
    start = [min(value, limit - 1e-3) for value, limit in zip(start, upper, strict=True)]

    def residuals(logarithms: Any) -> list[float]:
        values = {name: math.exp(value) for name, value in zip(names, logarithms, strict=True)}
        return log_errors(device(DEVICE, **{**known, **values}), rows)

    lower = [limit - math.log(1e4) for limit in upper]
    fit = least_squares(
        residuals, start, bounds=(lower, upper), loss="soft_l1", f_scale=0.2, diff_step=0.02, xtol=1e-3, ftol=1e-4
    )
    return {name: float(math.exp(value)) for name, value in zip(names, fit.x, strict=True)}


def value_of(name: str, known: Mapping[str, float]) -> float:
    """A parameter as fitted so far, else as in the device file."""
    if name in known:
        return known[name]
    group, field = name.split(".")
    return float(getattr(getattr(device(DEVICE).parameters, group), field))


def calibrate_energy(times: Mapping[str, float]) -> dict[str, float]:
    """The fitted energies: non-negative least squares of the relative errors of the measured joules, what static power
    and the energies that are not fitted draw subtracted first. Energy is linear in its parameters: each column is what
    the operators would draw if only that one were not zero."""
    import numpy as np
    from scipy.optimize import nnls

    measured = [found for found in energies() if _surely_placed(found[0])]
    rows = [row for row, _, _ in measured]
    joules = np.array([energy for _, _, energy in measured])
    seconds = np.array([time for _, time, _ in measured])
    known = {name: value_of(f"energy.{name}", {}) for name in ("l2", "launch")}
    rest = joules - value_of("energy.static", {}) * seconds - np.array(_joules(rows, times, known))
    matrix = np.array([_joules(rows, times, {name: 1e-12}) for name in ENERGIES]).T / joules[:, None]
    solution, _ = nnls(matrix, rest / joules)
    return {f"energy.{name}": float(value) * 1e-12 for name, value in zip(ENERGIES, solution, strict=True)}


def _surely_placed(row: OperatorRow) -> bool:
    """Whether a repeated operator's operands are all in the L2 cache or all not: in between, how many bytes come from
    DRAM depends on times, which are fitted later."""
    touched = sum(work.bytes for work in works_of_row(row))
    capacity = value_of("l2.capacity", {})
    return touched < capacity / 4 or touched > capacity


def _joules(rows: Sequence[OperatorRow], times: Mapping[str, float], energy: Mapping[str, float]) -> list[float]:
    """Joules of each operator when only the energies given are not (almost) zero."""
    nothing = dict.fromkeys(Energy.model_fields, 1e-30)
    found = device(DEVICE, **times, **{f"energy.{name}": value for name, value in {**nothing, **energy}.items()})
    return [float(result["energy_J"]) for result in simulate_operators(found, rows, "warm")]


def main() -> None:
    for name, value in calibrate().items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
