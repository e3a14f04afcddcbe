"""Fit what no data sheet states: `codesign calibrate --class gpu [--data operators.csv --out device.yaml]`.

In stages, each on the operators that show its coefficients: streaming, reductions, scans, scattered copies, matrix
products of each type, convolutions, attention. Energies are fitted on whole networks and single operators together,
and what only networks show (the switch between kernels, the host's time for each) on networks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codesign.errors import BadParameter
from codesign.hardware import Device
from codesign.registry import device
from hwmodels.gpu.estimate import operator_seconds
from hwmodels.gpu.measurements import (
    DEVICE,
    Measured,
    MeasuredNetwork,
    energies,
    network_graph,
    networks,
    of_kinds,
    operators,
    read_measured,
    share,
    use_of_network,
)
from hwmodels.gpu.parameters import Energy, GpuParameters

_WIDTH = 1e4
"""A coefficient may lie this factor from its limit."""

_TYPES_16 = ("fp16", "bf16")


@dataclass(frozen=True, slots=True)
class Stage:
    """Operators and their types (any, when none is given), and the coefficients they show with their upper limits;
    `spread` is the relative error up to which least squares count in full."""

    kinds: tuple[str, ...]
    limits: Mapping[str, float]
    dtypes: tuple[str, ...] = ()
    spread: float = 0.1


STAGES = (
    Stage(
        ("ew_", "concat_c", "embedding"),
        {
            "achieved.dram": 1.0, "launch.latency": 1e-4, "launch.start": 1e-5, "l2.write_bandwidth": 3e13,
            "l2.full_hits": 1.0,
        },
    ),
    Stage(("sum", "mean", "gap"), {"l2.bandwidth": 3e13, "sm.row_latency": 1e-5}),
    Stage(("cumsum", "topk16"), {"sm.chain_latency": 1e-6}),
    Stage(("transpose", "nchw_nhwc", "index_add"), {"l2.scattered_bandwidth": 3e13}),
    Stage(
        ("gemm", "bmm"),
        {
            "achieved.tensor_float16": 1.0, "sm.load_bytes_per_clock": 256.0, "sm.slice_latency": 1e-5,
            "sm.product_start": 1e-5,
        },
        _TYPES_16,
    ),
    Stage(("gemm", "bmm"), {"achieved.tensor_tfloat32": 1.0}, ("tf32",)),
    Stage(("gemm",), {"achieved.tensor_float8": 1.0}, ("fp8",)),
    Stage(("gemm",), {"achieved.tensor_int8": 1.0}, ("int8",)),
    Stage(("gemm", "bmm"), {"sm.vector_load_bytes_per_clock": 256.0}, ("fp32",)),
    Stage(("conv2d",), {"sm.gather_bytes_per_clock": 256.0}),
    Stage(("sdpa",), {"achieved.attention": 1.0}, _TYPES_16),
)  # fmt: skip

NETWORK_COEFFICIENTS = {"launch.switch": "graph", "launch.host": "eager"}
"""Coefficients that only networks show, and the runtime that shows them."""

LEAST_ROWS = 4
"""A stage with fewer rows keeps its coefficients."""

FOLDS = 3

NETWORK_ENERGIES = ("launch", "tensor_tfloat32", "tensor_float16", "float32", "vector", "l2", "dram")
"""Energies that the networks and operators show; those of 8-bit products are taken from one operator each."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fitted values by dotted name, and the mean relative error on rows not used: cross-validated over folds, cold and
    warm together."""

    values: Mapping[str, float]
    rows: int
    error: float | None = None
    by_kind: Mapping[str, float] = field(default_factory=dict)


def calibrate() -> dict[str, float]:
    """The coefficients of this package's device, fitted on its calibration rows again.

    Starts from the device file's values, so that calibrating again changes little.
    """
    values = fit(device(DEVICE), operators("calibration"))
    values.update(fit_energies(values))
    for name, mode in NETWORK_COEFFICIENTS.items():
        values[name] = _fit_on_networks(name, mode, values)
    return values


def calibrate_from(data: Path, base: str = DEVICE) -> Calibration:
    """Coefficients for the device `base`, fitted on all operators of a file, with the cross-validated error.

    Raises BadParameter when the file has no operator that the device runs.
    """
    found = device(base)
    rows = [row for row in read_measured(data) if _runs(found, row)]
    if len(rows) < LEAST_ROWS:
        raise BadParameter(f"{data}: {len(rows)} operators that {found.name} runs; at least {LEAST_ROWS} are needed")
    errors: dict[str, list[float]] = {}
    for fold in range(FOLDS):
        kept = [row for row in rows if _fold(row) != fold]
        fitted = with_values(_parameters(found), fit(found, kept))
        for row in rows:
            if _fold(row) == fold:
                error = abs(operator_seconds(row.works, fitted, row.cache) / row.seconds - 1)
                errors.setdefault(row.row.op, []).append(error)
    everything = [error for kind in errors.values() for error in kind]
    by_kind = {kind: statistics.fmean(found) for kind, found in sorted(errors.items())}
    return Calibration(fit(found, rows), len(rows) // 2, statistics.fmean(everything), by_kind)


def _runs(found: Device, row: Measured) -> bool:
    from codesign.study.operators import work_type

    return all(found.supports(work_type(work)) for work in row.works)


def _fold(row: Measured) -> int:
    return share(f"{row.row.op} {row.row.dtype} {row.row.params}") % FOLDS


def _parameters(found: Device) -> GpuParameters:
    if not isinstance(found.parameters, GpuParameters):
        raise BadParameter(f"device '{found.name}' is no GPU")
    return found.parameters


def fit(found: Device, rows: Sequence[Measured], stages: Iterable[Stage] = STAGES) -> dict[str, float]:
    """Stage after stage, least squares of the logarithmic errors, large ones damped."""
    parameters, values = _parameters(found), dict[str, float]()
    for stage in stages:
        chosen = of_kinds(rows, stage.kinds, stage.dtypes)
        if len(chosen) >= LEAST_ROWS:
            values.update(_fit_stage(stage, chosen, parameters))
            parameters = with_values(parameters, values)
    return values


def _fit_stage(stage: Stage, rows: Sequence[Measured], parameters: GpuParameters) -> dict[str, float]:
    import numpy as np
    from scipy.optimize import least_squares

    names = tuple(stage.limits)
    upper = np.log([stage.limits[name] for name in names])
    start = np.minimum(np.log([value_of(parameters, name) for name in names]), upper - 1e-3)

    def residuals(logarithms: Any) -> Any:
        values = {name: math.exp(value) for name, value in zip(names, logarithms, strict=True)}
        tried = with_values(parameters, values)
        return np.log([operator_seconds(row.works, tried, row.cache) / row.seconds for row in rows])

    found = least_squares(
        residuals, start, bounds=(upper - math.log(_WIDTH), upper), loss="soft_l1", f_scale=stage.spread,
        diff_step=0.01, xtol=1e-4, ftol=1e-4, max_nfev=25,
    )  # fmt: skip
    return {name: float(math.exp(value)) for name, value in zip(names, found.x, strict=True)}


def with_values(parameters: GpuParameters, values: Mapping[str, float]) -> GpuParameters:
    """The parameters with those of dotted names replaced."""
    groups: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        group, key = name.split(".")
        groups.setdefault(group, {})[key] = value
    changed = {group: getattr(parameters, group).model_copy(update=update) for group, update in groups.items()}
    return parameters.model_copy(update=changed)


def value_of(parameters: GpuParameters, name: str) -> float:
    group, key = name.split(".")
    return float(getattr(getattr(parameters, group), key))


def fit_energies(times: Mapping[str, float]) -> dict[str, float]:
    """The energies, by non-negative least squares of the relative errors of the measured joules, after static energy.

    Energy is linear in its parameters: each column is what would be drawn if only that one were not zero. The rows are
    the calibration networks, replayed and fused, and single operators.
    """
    import numpy as np
    from scipy.optimize import nnls

    static_W = value_of(_parameters(device(DEVICE)), "energy.static")
    measured = [network for network in networks() if network.joules and use_of_network(network.model) == "calibration"]
    single = energies()
    joules = np.array([network.joules for network in measured] + [energy for _, _, energy in single])
    seconds = np.array([network.seconds for network in measured] + [time for _, time, _ in single])
    matrix = np.array([_column(name, times, measured, single) for name in NETWORK_ENERGIES]).T
    kept = matrix.sum(axis=1) > 0
    solution, _ = nnls(matrix[kept] / joules[kept, None], (joules - static_W * seconds)[kept] / joules[kept])
    return {f"energy.{name}": float(value) * 1e-12 for name, value in zip(NETWORK_ENERGIES, solution, strict=True)}


def _column(
    name: str, times: Mapping[str, float], measured: Sequence[MeasuredNetwork], single: Sequence[Any]
) -> list[float]:
    """Joules of each row when only the energy `name`, of 1 pJ, is not (almost) zero; 0 for a network we do not have."""
    from codesign.simulation import simulate
    from codesign.study.operators import simulate_operators

    nothing = {f"energy.{field}": 1e-30 for field in Energy.model_fields}
    changes = {**times, **nothing, f"energy.{name}": 1e-12}
    runtimes = {mode: device(DEVICE, runtime=mode, **changes) for mode in ("graph", "fused")}
    found = []
    for network in measured:
        graph = _graph(network)
        found.append(simulate(graph, runtimes[network.mode], network.dtype).energy_J if graph is not None else 0.0)
    rows = [row for row, _, _ in single]
    return found + [float(one["energy_J"]) for one in simulate_operators(runtimes["graph"], rows, "warm")]


def _fit_on_networks(name: str, mode: str, known: Mapping[str, float]) -> float:
    """The value with the least mean logarithmic error on the calibration networks of a runtime."""
    from scipy.optimize import minimize_scalar

    from codesign.simulation import simulate

    chosen = [network for network in networks(mode) if use_of_network(network.model) == "calibration"]
    pairs = [(network, graph) for network in chosen if (graph := _graph(network)) is not None]
    start = math.log(value_of(_parameters(device(DEVICE)), name))

    def error(logarithm: float) -> float:
        found = device(DEVICE, runtime=mode, **{**known, name: math.exp(logarithm)})
        times = ((simulate(graph, found, network.dtype).latency_s, network.seconds) for network, graph in pairs)
        return statistics.fmean(abs(math.log(predicted / measured)) for predicted, measured in times)

    result = minimize_scalar(error, bounds=(start - 1.0, start + 1.0), method="bounded", options={"maxiter": 10})
    return math.exp(float(result.x))


_graphs: dict[tuple[str, int, str], Any] = {}


def _graph(network: MeasuredNetwork) -> Any:
    key = network.model, network.batch, network.detail
    if key not in _graphs:
        _graphs[key] = network_graph(network)
    return _graphs[key]


def main() -> None:
    for name, value in calibrate().items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
