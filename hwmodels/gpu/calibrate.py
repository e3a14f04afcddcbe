"""Fit what no data sheet states, on the calibration rows: `python -m hwmodels.gpu.calibrate`.

In stages, each on the operators that show its parameters: streaming first, then matrix products, attention, rows of a
reduction, strided addresses, sorting, scans, and last the energies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codesign.hardware import Device
from codesign.registry import device
from codesign.study.operators import simulate_operators
from hwmodels.gpu.measurements import DEVICE, Measured, energies, of_kinds, operators


@dataclass(frozen=True, slots=True)
class Stage:
    """Operators, and the parameters they show with the largest value each may take."""

    kinds: tuple[str, ...]
    limits: Mapping[str, float]


STAGES = (
    Stage(
        ("ew_",),
        {
            "launch.latency": 1e-5, "launch.start": 5e-6, "l2.bandwidth": 1.5e13, "l2.retention": 0.95,
            "achieved.dram": 1.0, "sm.stream_instructions": 100.0,
        },
    ),
    Stage(
        ("gemm", "bmm"),
        {
            "achieved.tensor_float16": 1.0, "achieved.tensor_tfloat32": 1.0, "achieved.tensor_float8": 1.0,
            "achieved.tensor_int8": 1.0, "achieved.vector": 1.0, "sm.block_fill": 5e-6, "sm.aligned_bytes": 64.0,
        },
    ),
    Stage(("sdpa",), {"achieved.attention": 1.0}),
    Stage(
        ("sum", "mean", "max", "argmax", "softmax", "layernorm", "rmsnorm", "gap"),
        {"sm.loop_latency": 5e-6, "sm.row_warp": 1e-6, "sm.row_block": 5e-6},
    ),
    Stage(("maxpool3s2", "avgpool3s1", "concat_c", "slice_c"), {"sm.index_instructions": 1000.0}),
    Stage(("sort", "topk16"), {"sm.sort_instructions": 1000.0, "sm.select_instructions": 1000.0}),
    Stage(("cumsum",), {"sm.chain_latency": 1e-6}),
)  # fmt: skip

ENERGIES = ("tensor_tfloat32", "tensor_float16", "tensor_float8", "tensor_int8", "vector", "l2", "dram")
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
    """The fitted time parameters by name: least squares of the log errors, large ones damped, stage after stage.

    Starts from the device file's values, so that calibrating again changes nothing beyond the tolerance.
    """
    values: dict[str, float] = {}
    for stage in stages:
        values.update(_fit(stage, values))
    return values


def _fit(stage: Stage, known: Mapping[str, float]) -> dict[str, float]:
    from scipy.optimize import least_squares

    rows = of_kinds(operators("calibration"), stage.kinds)
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


def calibrate_energy() -> dict[str, float]:
    """The fitted energies: non-negative least squares of the relative errors of the measured joules.

    Energy is linear in its parameters; each column is what the operators would draw if only that one were not zero.
    """
    import numpy as np
    from scipy.optimize import nnls

    static_W = value_of("energy.static", {})
    measured = energies()
    rows = [row for row, _, _ in measured]
    joules = np.array([energy for _, _, energy in measured])
    dynamic = joules - static_W * np.array([seconds for _, seconds, _ in measured])
    tiny = 1e-30
    nothing = {f"energy.{name}": tiny for name in type(device(DEVICE).parameters.energy).model_fields}  # type: ignore[attr-defined]
    columns = []
    for name in ENERGIES:
        found = device(DEVICE, **{**nothing, f"energy.{name}": 1e-12})
        columns.append([result["energy_J"] / 1e-12 for result in simulate_operators(found, rows, "warm")])
    matrix = np.array(columns).T / joules[:, None]
    scale = matrix.max(axis=0)
    solution, _ = nnls(matrix / scale, dynamic / joules)
    return {f"energy.{name}": float(value) for name, value in zip(ENERGIES, solution / scale, strict=True)}


def main() -> None:
    for name, value in {**calibrate(), **calibrate_energy()}.items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
