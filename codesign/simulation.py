"""Simulation: a Graph on a Device, through Work, Program and engine, to a Report.

Operations run in the graph's order, each after the one before it; only what a mapper marks as early (weight loads)
may begin one operation ahead. Every figure of the report is summed from the tasks of that one run.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from codesign.dtypes import dtype as element_type
from codesign.engine.analytic import demand_ticks, lower_bound_ticks
from codesign.engine.run import Timeline, run
from codesign.errors import BadParameter
from codesign.graph import Graph
from codesign.hardware import Device, MappedOp, MemoryPlan, Tasks
from codesign.lower import values_of, work_of
from codesign.memory import live_bytes, stored_weight_bytes
from codesign.ops.base import Value
from codesign.program import Fragment, Program, ProgramBuilder
from codesign.report.report import Report, Roof, TaskTable
from codesign.report.schema import OpRecord, ReportDocument, ResourceRecord
from codesign.transforms import optimise
from codesign.work import Work

Array = np.ndarray[Any, Any]

_LATENCY_SHARE = 0.5
"""An operation whose busiest resource is idle for more than this part of its time is bound by waiting, not by work."""


@dataclass(frozen=True)
class Prepared:
    """A graph made ready for one element type: transformed and lowered. Nothing in it depends on a device.

    `parameters` are the learned values of the graph as loaded: transforms fold some away.
    """

    graph: Graph
    parameters: int
    dtype: str
    values: dict[str, Value]
    works: tuple[Work, ...]

    @cached_property
    def live_bytes(self) -> list[int]:
        return live_bytes(self.graph, self.values)

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of the weights that are left after the transforms, as stored in `dtype`."""
        return stored_weight_bytes(self.graph, self.values)


@dataclass(frozen=True)
class Run:
    """A mapped program and when its operations ended, in ticks: `op_end[i]` never falls, and its last is the whole."""

    program: Program
    op_start: Array  # (N,) first start of a task that is no early one
    op_end: Array  # (N,)
    task_start: Array  # (T,)
    task_end: Array  # (T,)
    waited: Array  # (T,)

    @property
    def end_s(self) -> float:
        return float(self.op_end[-1]) * self.program.tick_s if self.op_end.size else 0.0


def simulate(graph: Graph, device: Device, dtype: str | None = None, fidelity: str = "event") -> Report:
    """Latency, energy and memory of `graph` on `device`.

    `dtype` is the element type that floating tensors take (the device's own by default); tensors that the model holds
    as integers stay as they are. `fidelity` is `analytic` (no schedule is faster), `event` (the engine's), or, where
    the device offers it, `cycle`. Raises BadParameter for a type or fidelity that the device does not have, and
    BadModel when an operation's work cannot be stated.
    """
    return report(prepare(graph, device_dtype(device, dtype)), device, fidelity)


def device_dtype(device: Device, dtype: str | None) -> str:
    """The full name of `dtype`, or of the device's own. Raises BadParameter when the device cannot run it."""
    name = element_type(dtype or device.default_dtype).name
    if not device.supports(name):
        raise BadParameter(f"device '{device.name}' cannot run {name}; its own type is {device.default_dtype}")
    return name


_recent: deque[tuple[weakref.ref[Graph], str, Prepared]] = deque(maxlen=16)


def prepare(graph: Graph, dtype: str) -> Prepared:
    """The graph transformed and lowered; the last few are remembered, so that sweeps and repeats do it once."""
    for known, known_dtype, prepared in _recent:
        if known() is graph and known_dtype == dtype:
            return prepared
    prepared = lowered(optimise(graph), graph.parameters, dtype)
    _recent.appendleft((weakref.ref(graph), dtype, prepared))
    return prepared


def lowered(optimised: Graph, parameters: int, dtype: str) -> Prepared:
    """A graph that was transformed already, lowered; `parameters` are its learned values as loaded."""
    values = values_of(optimised, dtype)
    works = tuple(work_of(op, values) for op in optimised.ops)
    return Prepared(optimised, parameters, dtype, values, works)


def report(prepared: Prepared, device: Device, fidelity: str = "event") -> Report:
    """Simulate a prepared graph and sum the run up."""
    plan = device.plan(prepared.graph, prepared.works)
    found = run_ops(device, plan.ops, fidelity)
    document = _document(prepared, device, fidelity, plan, found)
    memory, peak = device.main_memory, device.peak_flops(prepared.dtype)
    roof = Roof(peak, memory[0], memory[1]) if memory and peak else None
    return Report(document, _task_table(found), prepared.live_bytes, roof)


def run_ops(device: Device, ops: Sequence[MappedOp], fidelity: str = "event") -> Run:
    """Map the operations, one after the other, and run them. Raises BadParameter for a fidelity the device lacks."""
    if fidelity not in device.fidelities:
        raise BadParameter(
            f"device '{device.name}' has no fidelity '{fidelity}'; it has {', '.join(device.fidelities)}"
        )
    program, early = map_ops(device, ops)
    if fidelity == "analytic":
        return _bounded(program, early, len(ops))
    timeline = run(program)
    found = _timed(timeline, early, len(ops))
    return _cycle_by_cycle(device, ops, found) if fidelity == "cycle" else found


def map_ops(device: Device, ops: Sequence[MappedOp]) -> tuple[Program, Array]:
    """The program of the operations in order, and (T,) whether a task is an early one.

    An early task waits for the operation before the last to end, every other for the last: one operation is fetched
    ahead, as double buffering allows.
    """
    builder = ProgramBuilder(device.resources(), device.tick_s)
    last: tuple[int, ...] = ()
    before: tuple[int, ...] = ()
    early: list[int] = []
    for index, op in enumerate(ops):
        builder.current_op = index
        tasks = _write(device, op, builder)
        if not (tasks.entry or tasks.exit or tasks.early or tasks.ahead):
            continue
        for source in last:
            for target in tasks.entry:
                builder.barrier(source, target)
        for source in before:
            for target in tasks.early:
                builder.barrier(source, target)
        early += (*tasks.early, *tasks.ahead)
        before, last = last, tasks.exit
    program = builder.build()
    is_early = np.zeros(program.count.size, bool)
    is_early[early] = True
    return program, is_early


_written: weakref.WeakKeyDictionary[Device, dict[tuple[Any, ...], tuple[Fragment, Tasks]]] = weakref.WeakKeyDictionary()


def _write(device: Device, op: MappedOp, builder: ProgramBuilder) -> Tasks:
    """Map one operation, or write again what an equal one was mapped to: work is mapped once a device."""
    known = _written.setdefault(device, {})
    key = (op.work, op.resident, op.keep_output, op.prefetch, op.detail)
    if key not in known:
        mark = builder.mark()
        tasks = device.map(op, builder)
        known[key] = builder.fragment(mark), _moved(tasks, -mark[0])
        return tasks
    fragment, tasks = known[key]
    return _moved(tasks, builder.append(fragment))


def _moved(tasks: Tasks, by: int) -> Tasks:
    groups = (tasks.entry, tasks.exit, tasks.early, tasks.ahead)
    return Tasks(*(tuple(task + by for task in group) for group in groups))


def _timed(timeline: Timeline, early: Array, count: int) -> Run:
    program = timeline.program
    start, end = timeline.first_start, timeline.last_end
    op_end = np.maximum.accumulate(_by_op(np.maximum, end, program.op, count, 0)) if count else np.zeros(0, np.int64)
    return Run(program, _op_starts(program, start, early, op_end), op_end, start, end, timeline.waited)


def _bounded(program: Program, early: Array, count: int) -> Run:
    """The least times: what the longest chain and the demand on each resource, operation after operation, allow."""
    _, end = lower_bound_ticks(program)
    demand = demand_ticks(program)
    by_op = np.zeros((count, len(program.resources)))
    np.add.at(by_op, (program.op, program.resource), demand)
    chain = _by_op(np.maximum, end, program.op, count, 0.0)
    op_end = np.maximum.accumulate(np.maximum(chain, by_op.cumsum(axis=0).max(axis=1, initial=0.0)))
    start = np.maximum(end - demand, 0.0)
    return Run(program, _op_starts(program, start, early, op_end), op_end, start, end, np.zeros(end.size))


def _cycle_by_cycle(device: Device, ops: Sequence[MappedOp], found: Run) -> Run:
    """The run with each operation as long as the device's cycle-by-cycle walk says."""
    op_end = np.array(device.cycle_ends(ops), np.int64)
    start = np.concatenate(([0], op_end[:-1]))
    return Run(found.program, start, op_end, found.task_start, found.task_end, found.waited)


def _by_op(reduce: np.ufunc, values: Array, op: Array, count: int, initial: float) -> Array:
    result = np.full(count, initial, dtype=values.dtype)
    reduce.at(result, op, values)
    return result


def _op_starts(program: Program, start: Array, early: Array, op_end: Array) -> Array:
    """First start of each operation's tasks, early ones aside; where the previous ends for one that has no task."""
    count = op_end.size
    previous = np.concatenate((np.zeros(1, op_end.dtype), op_end[:-1]))[:count]
    found = np.full(count, np.inf)
    np.minimum.at(found, program.op[~early], start[~early])
    return np.where(np.isinf(found), previous, found)


def _document(prepared: Prepared, device: Device, fidelity: str, plan: MemoryPlan, found: Run) -> ReportDocument:
    program, graph = found.program, prepared.graph
    latency_s = found.end_s
    task_energy = program.energy_J * program.count[:, None]
    energy = energy_by_component(device, found)
    total_J = sum(energy.values())
    resources = _resource_records(program, task_energy, latency_s)
    compute = [resources[name].utilisation for name in device.compute_resources]
    return ReportDocument(
        model=graph.source or graph.name,
        device=device.name,
        dtype=prepared.dtype,
        batch=graph.batch,
        fidelity=fidelity,
        latency_s=latency_s,
        energy_J=total_J,
        power_W=total_J / latency_s if latency_s else 0.0,
        area_mm2=device.area_mm2,
        macs=sum(work.macs for work in prepared.works),
        params=prepared.parameters,
        weight_bytes=prepared.weight_bytes,
        peak_activation_bytes=plan.peak_activation_bytes,
        fits=plan.fit.fits,
        why=plan.fit.reason,
        levers=list(plan.fit.levers),
        utilisation=max(compute, default=0.0),
        error_band=device.provenance.error_band,
        warnings=[*graph.warnings, *plan.warnings],
        ops=_op_records(prepared, device, plan, found, task_energy.sum(axis=1)),
        resources=resources,
        energy=energy,
    )


def energy_by_component(device: Device, found: Run) -> dict[str, float]:
    """Joules of a run: of its tasks by component, and the device's static power over the latency."""
    joules = found.program.energy_J.T @ found.program.count
    components = zip(found.program.components, joules.tolist(), strict=True)
    return {
        **{name: each for name, each in components if each > 0},
        "static": device.static_power_W * found.end_s,
    }


def _resource_records(program: Program, task_energy: Array, latency_s: float) -> dict[str, ResourceRecord]:
    count = len(program.resources)
    busy = np.bincount(program.resource, demand_ticks(program), count) * program.tick_s
    joules = np.bincount(program.resource, task_energy.sum(axis=1), count)
    return {
        resource.name: ResourceRecord(
            busy_s=float(busy[position]),
            utilisation=float(busy[position] / latency_s) if latency_s else 0.0,
            energy_J=float(joules[position]),
        )
        for position, resource in enumerate(program.resources)
    }


def _op_records(
    prepared: Prepared, device: Device, plan: MemoryPlan, found: Run, task_energy: Array
) -> list[OpRecord]:  # fmt: skip
    program, count = found.program, len(plan.ops)
    tick = program.tick_s
    demand = np.zeros((count, len(program.resources)))
    np.add.at(demand, (program.op, program.resource), demand_ticks(program))
    energy = np.bincount(program.op, task_energy, count) if count else np.zeros(0)
    ticks = np.diff(found.op_end, prepend=0)
    busiest = demand.argmax(axis=1) if count else np.zeros(0, int)
    records = []
    for index, (op, work) in enumerate(zip(prepared.graph.ops, prepared.works, strict=True)):
        busy = demand[index, busiest[index]]
        latency_s = float(ticks[index]) * tick
        records.append(
            OpRecord(
                name=op.name,
                onnx_nodes=list(op.sources),
                op=op.kind,
                macs=work.macs,
                bytes=work.bytes,
                latency_s=latency_s,
                start_s=float(found.op_start[index]) * tick,
                energy_J=float(energy[index]),
                resource=program.resources[busiest[index]].name if busy > 0 else "",
                bound=bound_of(device, program, int(busiest[index]), busy, ticks[index]),
                cycles=round(latency_s * device.clock_Hz) if device.clock_Hz else None,
            )
        )
    return records


def bound_of(device: Device, program: Program, resource: int, busy: float, ticks: float) -> str:
    """What limits an operation whose busiest resource was needed for `busy` of its `ticks`."""
    if busy <= 0:
        return "free"
    if busy < _LATENCY_SHARE * ticks:
        return "latency"
    found = program.resources[resource]
    if found.name in device.compute_resources:
        return "compute"
    return "memory" if found.bytes_per_tick is not None else "overhead"


def _task_table(found: Run) -> TaskTable:
    program, tick = found.program, found.program.tick_s
    names = [resource.name for resource in program.resources]
    return TaskTable(
        op=program.op,
        label=program.labels,
        resource=[names[position] for position in program.resource.tolist()],
        start_s=found.task_start * tick,
        end_s=found.task_end * tick,
        busy_s=demand_ticks(program) * tick,
        waited_s=found.waited * tick,
        firings=program.count,
        energy_J=program.energy_J.sum(axis=1) * program.count,
    )
