"""Sweeps: a model on every combination of device parameters, on all cores, resumed where they were interrupted.

Each finished point is at once a line of a journal beside the result file, named by what it was computed from, so an
interrupted sweep loses nothing and a wider one computes only what is new.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.errors import BadParameter, CodesignError, nearest
from codesign.graph import Graph, Weight
from codesign.registry import device
from codesign.simulation import Prepared, device_dtype, prepare, report
from codesign.study.pareto import pareto_front
from codesign.study.vary import grid

if TYPE_CHECKING:
    import pandas as pd

OBJECTIVES = {"latency": "latency_s", "energy": "energy_J", "area": "area_mm2"}
_RESULTS = ("latency_s", "energy_J", "power_W", "area_mm2", "utilisation", "fits", "why", "error")
_PER_CORE = 4
"""Points handed out ahead, for each process: enough that none waits, few enough that an interrupt is prompt."""


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
    called with how many points are done, and of how many. Raises BadParameter when nothing can be varied as asked.
    """
    for name in objective:
        if name not in OBJECTIVES:
            raise BadParameter(f"unknown objective '{name}'{nearest(name, OBJECTIVES)}; known: {', '.join(OBJECTIVES)}")
    fixed = dict(settings or {})
    points = [{**fixed, **point} for point in grid(vary)]
    first = _check(device_name, fixed, vary)
    prepared = prepare(graph, device_dtype(first, dtype))
    about = {"model": _digest(prepared), "device": _digest_device(first), "fidelity": fidelity}
    journal = Path(f"{out}.points") if out is not None else None
    known = _read_journal(journal)
    keys = [json.dumps({**about, "point": point}, sort_keys=True) for point in points]
    todo = [index for index, key in enumerate(keys) if key not in known]
    done = len(points) - len(todo)
    for index, result in _computed(prepared, device_name, fidelity, points, todo, processes):
        known[keys[index]] = result
        _append(journal, keys[index], result)
        done += 1
        if progress is not None:
            progress(done, len(points))
    frame = _frame(points, [known[key] for key in keys], objective)
    if out is not None:
        frame.to_parquet(out, index=False)
    return frame


def _check(device_name: str, fixed: Mapping[str, Any], vary: Mapping[str, Sequence[Any]]) -> Any:
    """Refuse a name or a whole axis that can't be: each parameter must be able to take one of its values."""
    if not vary:
        raise BadParameter("a sweep needs at least one parameter to vary, such as dram.bandwidth=1e9:16e9:5log")
    first = device(device_name, **fixed)
    for name, values in vary.items():
        errors = []
        for value in values:
            try:
                device(device_name, **{**fixed, name: value})
                break
            except BadParameter as error:
                errors.append(error)
        else:
            raise errors[0] if errors else BadParameter(f"parameter '{name}' has no values to take")
    return first


def _computed(
    prepared: Prepared,
    device_name: str,
    fidelity: str,
    points: Sequence[Mapping[str, Any]],
    todo: Sequence[int],
    processes: int | None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Index and result of each point, as they are ready."""
    workers = min(processes or os.cpu_count() or 1, len(todo))
    if workers <= 1:
        for index in todo:
            yield index, _point(prepared, device_name, fidelity, points[index])
        return
    with ProcessPoolExecutor(workers, initializer=_begin, initargs=(_light(prepared), device_name, fidelity)) as pool:
        pending: dict[Future[dict[str, Any]], int] = {}
        queue = iter(todo)
        try:
            while True:
                for index in queue:
                    pending[pool.submit(_point_of_worker, points[index])] = index
                    if len(pending) >= workers * _PER_CORE:
                        break
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    yield pending.pop(future), future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_worker: tuple[Prepared, str, str] | None = None


def _begin(prepared: Prepared, device_name: str, fidelity: str) -> None:
    global _worker
    _worker = (prepared, device_name, fidelity)


def _point_of_worker(point: Mapping[str, Any]) -> dict[str, Any]:
    assert _worker is not None
    return _point(*_worker, point)


def _point(prepared: Prepared, device_name: str, fidelity: str, point: Mapping[str, Any]) -> dict[str, Any]:
    try:
        document = report(prepared, device(device_name, **point), fidelity).document
    except CodesignError as error:
        return dict.fromkeys(_RESULTS) | {"fits": False, "error": str(error)}
    return {name: getattr(document, name, None) for name in _RESULTS}


def _light(prepared: Prepared) -> Prepared:
    """The same without the means to read weights, which a simulation never does and a process cannot be sent."""
    from dataclasses import replace

    weights = {
        name: Weight(
            weight.tensor, weight.inline if weight.tensor.elements <= 1024 else None, None, weight.is_parameter
        )
        for name, weight in prepared.graph.weights.items()
    }
    return replace(prepared, graph=replace(prepared.graph, weights=weights))


def _digest(prepared: Prepared) -> str:
    return hashlib.sha256(repr((prepared.dtype, prepared.graph.batch, prepared.works)).encode()).hexdigest()[:16]


def _digest_device(found: Any) -> str:
    text = f"{type(found).__name__} {found.parameters.model_dump_json()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_journal(journal: Path | None) -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    if journal is not None and journal.is_file():
        for line in journal.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # the last line of an interrupted run may be cut short
                entry = json.loads(line)
                known[entry["key"]] = entry["result"]
    return known


def _append(journal: Path | None, key: str, result: Mapping[str, Any]) -> None:
    if journal is not None:
        with journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "result": result}) + "\n")


def _frame(points: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]], objective: Sequence[str]) -> Any:
    import pandas as pd

    frame = pd.DataFrame([{**point, **result} for point, result in zip(points, results, strict=True)])
    costs = frame[[OBJECTIVES[name] for name in objective]].to_numpy(dtype=float, na_value=np.nan, copy=True)
    if len(frame) and (
        missing := [name for name, column in zip(objective, costs.T, strict=True) if np.isnan(column).all()]
    ):
        raise BadParameter(f"objective '{missing[0]}' is not known for this device at any point of the grid")
    costs[~frame["fits"].astype(bool).to_numpy()] = np.nan
    frame["pareto"] = pareto_front(costs)
    return frame
