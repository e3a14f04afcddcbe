"""Sweeps: a model on every combination of device parameters, on all cores, resumed where they were interrupted.

Each finished point is at once a line of a journal beside the result file, named by what it was computed from, so an
interrupted sweep loses nothing and a wider one computes only what is new.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.errors import BadParameter, CodesignError, nearest
from codesign.graph import Graph, Weight
from codesign.hardware import Device
from codesign.registry import device
from codesign.simulation import Prepared, device_dtype, prepare, report
from codesign.study.journal import Journal
from codesign.study.pareto import pareto_front
from codesign.study.vary import grid

if TYPE_CHECKING:
    import pandas as pd

OBJECTIVES = {"latency": "latency_s", "energy": "energy_J", "area": "area_mm2"}
_RESULTS = ("latency_s", "energy_J", "power_W", "area_mm2", "utilisation", "fits", "why", "error")
_PER_CORE = 4
"""Points handed out ahead, for each process: enough that none waits, few enough that an interrupt is prompt."""
_INLINE_ELEMENTS = 1024
"""Constants up to this size go to the processes with the graph: a memory plan may read scales and shapes."""

Point = Mapping[str, Any]
Result = dict[str, Any]


def sweep(
    graph: Graph,
    device_name: str,
    vary: Mapping[str, Sequence[Any]],
    objective: Sequence[str] = ("latency", "energy"),
    out: str | Path | None = None,
    dtype: str | None = None,
    fidelity: str = "event",
    settings: Mapping[str, Any] | None = None,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """One row a point of the grid of `vary` (parameter -> values): the values, the results in SI, and `pareto`.

    `pareto` marks the points that fit and that no other beats in all of `objective` at once. `settings` holds for
    every point. With `out` the rows are written as Parquet, and points of an earlier, interrupted run are not computed
    again. A point that cannot be built (a value out of range) stays in the table with its `error`. `progress` is
    called with how many points are done, and of how many. Raises BadParameter when no point can be built, or when the
    device does not state what an objective needs.
    """
    if not vary:
        raise BadParameter("a sweep needs at least one parameter to vary, such as dram.bandwidth=1e9:16e9:5log")
    fixed = dict(settings or {})
    axes = {name: [_plain(value) for value in values] for name, values in vary.items()}
    points = [{**fixed, **point} for point in grid(axes)]
    first = _first(device_name, points)
    if fidelity not in first.fidelities:
        raise BadParameter(f"device '{device_name}' has no fidelity '{fidelity}'; it has {', '.join(first.fidelities)}")
    _check_objectives(objective)
    if "area" in objective and first.area_mm2 is None:
        raise BadParameter(f"objective 'area': the area of device '{device_name}' is not known")
    prepared = prepare(graph, device_dtype(first, dtype))
    about = {
        "codesign": metadata.version("codesign"),
        "model": _digest(prepared),
        "device": _digest_device(device(device_name)),
        "fidelity": fidelity,
    }
    keys = [json.dumps({**about, "point": point}, sort_keys=True) for point in points]
    with Journal(Path(f"{out}.points") if out is not None else None) as journal:
        todo = [index for index, key in enumerate(keys) if key not in journal.known]
        done = len(points) - len(todo)

        def record(index: int, result: Result) -> None:
            nonlocal done
            journal.add(keys[index], result)
            done += 1
            if progress is not None:
                progress(done, len(points))

        workers = min(processes or os.cpu_count() or 1, len(todo))
        if workers > 1:
            _compute_parallel(prepared, device_name, fidelity, points, todo, workers, record)
        else:
            for index in todo:
                record(index, _point(prepared, device_name, fidelity, points[index]))
        frame = _frame(points, [journal.known[key] for key in keys], objective)
    if out is not None:
        _storable(frame).to_parquet(out, index=False)
    return frame


def _plain(value: Any) -> Any:
    """A numpy number as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def _first(device_name: str, points: Sequence[Point]) -> Device:
    """The device at the first point that can be built. Raises the first point's BadParameter when none can."""
    refused: BadParameter | None = None
    for point in points:
        try:
            return device(device_name, **point)
        except BadParameter as error:
            refused = refused or error
    raise refused or BadParameter("a parameter to vary has no values")


def _check_objectives(objective: Sequence[str]) -> None:
    for name in objective:
        if name not in OBJECTIVES:
            raise BadParameter(f"unknown objective '{name}'{nearest(name, OBJECTIVES)}; known: {', '.join(OBJECTIVES)}")


def _compute_parallel(
    prepared: Prepared,
    device_name: str,
    fidelity: str,
    points: Sequence[Point],
    todo: Sequence[int],
    workers: int,
    record: Callable[[int, Result], None],
) -> None:
    """Compute the points of `todo` in `workers` processes and record each; what was begun when interrupted, too."""
    pending: dict[Future[Result], int] = {}
    queue = iter(todo)
    arguments = (_light(prepared), device_name, fidelity)
    with ProcessPoolExecutor(workers, initializer=_begin, initargs=arguments) as pool:
        try:
            while True:
                while len(pending) < workers * _PER_CORE and (index := next(queue, None)) is not None:
                    pending[pool.submit(_point_of_worker, points[index])] = index
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    index = pending.pop(future)
                    record(index, future.result())
        except KeyboardInterrupt:
            for future, index in pending.items():
                if not future.cancel():
                    record(index, future.result())
            raise


_worker: tuple[Prepared, str, str] | None = None


def _begin(prepared: Prepared, device_name: str, fidelity: str) -> None:
    """Make a process ready. An interrupt reaches the whole group: only the parent acts on it."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker = (prepared, device_name, fidelity)


def _point_of_worker(point: Point) -> Result:
    assert _worker is not None
    return _point(*_worker, point)


def _point(prepared: Prepared, device_name: str, fidelity: str, point: Point) -> Result:
    try:
        document = report(prepared, device(device_name, **point), fidelity).document
    except CodesignError as error:
        return dict.fromkeys(_RESULTS) | {"fits": False, "error": str(error)}
    return {name: getattr(document, name, None) for name in _RESULTS}


def _light(prepared: Prepared) -> Prepared:
    """The same without the means to read weights, which a simulation never does and a process cannot be sent."""
    weights = {name: _lightened(weight) for name, weight in prepared.graph.weights.items()}
    return replace(prepared, graph=replace(prepared.graph, weights=weights))


def _lightened(weight: Weight) -> Weight:
    small = weight.tensor.elements <= _INLINE_ELEMENTS
    return Weight(weight.tensor, weight.inline if small else None, is_parameter=weight.is_parameter)


def _digest(prepared: Prepared) -> str:
    """Names what is simulated: the work, and how operations are wired, which decides what stays in memory."""
    wiring = [(op.kind, op.inputs, op.outputs) for op in prepared.graph.ops]
    return _hashed(repr((prepared.dtype, prepared.graph.batch, prepared.works, wiring)))


def _digest_device(found: Device) -> str:
    return _hashed(f"{type(found).__name__} {found.parameters.model_dump_json()}")


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _frame(points: Sequence[Point], results: Sequence[Result], objective: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame([{**point, **result} for point, result in zip(points, results, strict=True)])
    costs = frame[[OBJECTIVES[name] for name in objective]].to_numpy(dtype=float, na_value=np.nan, copy=True)
    costs[~frame["fits"].astype(bool).to_numpy()] = np.nan
    frame["pareto"] = pareto_front(costs)
    return frame


def _storable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with columns of mixed types (a number among words) as text, since a Parquet column has one type."""
    mixed = [name for name in frame if frame[name].dtype == object and frame[name].dropna().map(type).nunique() > 1]
    return frame.astype(dict.fromkeys(mixed, str))
