"""The report as a trace in Chrome's JSON format: one process for the operations, one for the resources."""

from __future__ import annotations

import json
from typing import Any

from codesign.report.report import Report
from codesign.report.timeline import Span, on_lanes, spans

_OPERATIONS, _RESOURCES = 1, 2  # process numbers
_MICROSECONDS = 1e6  # the format's unit of time
_ROUNDING_s = 1e-12  # more than a double loses in the microseconds of an hour

Event = dict[str, Any]


def trace_events(report: Report) -> list[Event]:
    """Complete events for each operation and each task, a counter of live memory, and the names of all tracks."""
    placed = on_lanes(spans(report))
    lanes = sorted({(span.resource, span.lane) for span in placed}, key=_track_order(report))
    threads = {lane: number for number, lane in enumerate(lanes, start=1)}
    events = [_process("operations", _OPERATIONS), _process(f"{report.document.device}: resources", _RESOURCES)]
    events += [event for lane, number in threads.items() for event in _thread(_RESOURCES, *lane, number)]
    events += _operations(report)
    events += [_task(report, span, threads[span.resource, span.lane]) for span in placed]
    events += _memory(report)
    return events


def trace_json(report: Report) -> str:
    """The trace as text. Times in the file are microseconds; `otherData` holds what was simulated."""
    document = report.document
    about = {name: str(getattr(document, name)) for name in ("model", "device", "dtype", "batch", "fidelity")}
    trace = {"traceEvents": trace_events(report), "displayTimeUnit": "ns", "otherData": about}
    return json.dumps(trace, separators=(",", ":"))


def _track_order(report: Report) -> Any:
    order = {name: position for position, name in enumerate(report.document.resources)}
    return lambda lane: (order.get(lane[0], len(order)), lane)


def _process(name: str, number: int) -> Event:
    return {"ph": "M", "name": "process_name", "pid": number, "tid": 0, "args": {"name": name}}


def _thread(process: int, resource: str, lane: int, number: int) -> list[Event]:
    """The name of a track, and its place among those of its process."""
    name = resource if lane == 0 else f"{resource} ({lane + 1})"
    about = {"ph": "M", "pid": process, "tid": number}
    return [
        {**about, "name": "thread_name", "args": {"name": name}},
        {**about, "name": "thread_sort_index", "args": {"sort_index": number}},
    ]


def _complete(name: str, category: str, process: int, thread: int, start_s: float, duration_s: float) -> Event:
    """A span. Viewers cut times to whole nanoseconds and drop spans that then overlap on a track, so it ends early."""
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": process,
        "tid": thread,
        "ts": start_s * _MICROSECONDS,
        "dur": (duration_s - min(_ROUNDING_s, duration_s / 2)) * _MICROSECONDS,
    }


def _operations(report: Report) -> list[Event]:
    """The operations, on as many threads as overlap needs."""
    ops = report.document.ops
    bars = [
        Span("operations", 0, index, op.op, op.start_s, op.start_s + op.latency_s, op.latency_s, 1, op.energy_J)
        for index, op in enumerate(ops)
        if op.latency_s > 0
    ]
    placed = on_lanes(bars)
    lanes = range(max((bar.lane for bar in placed), default=-1) + 1)
    events = [event for lane in lanes for event in _thread(_OPERATIONS, "operations", lane, lane + 1)]
    for bar in placed:
        op = ops[bar.op]
        event = _complete(op.name, op.op, _OPERATIONS, bar.lane + 1, op.start_s, op.latency_s)
        shown = op.model_dump(include={"op", "onnx_nodes", "macs", "bytes", "energy_J", "bound", "resource", "cycles"})
        events.append({**event, "args": shown})
    return events


def _task(report: Report, span: Span, thread: int) -> Event:
    arguments: dict[str, Any] = {"energy_J": span.energy_J, "busy_s": span.busy_s, "firings": span.firings}
    if span.op >= 0:
        op = report.document.ops[span.op]
        arguments |= {"operation": op.name, "op": op.op, "onnx_nodes": op.onnx_nodes}
    event = _complete(span.label, span.resource, _RESOURCES, thread, span.start_s, span.end_s - span.start_s)
    return {**event, "args": arguments}


def _memory(report: Report) -> list[Event]:
    """Live activation bytes as a counter, set at each operation's start and zero at the end of the run."""
    samples = [(op.start_s, live) for op, live in zip(report.document.ops, report.live_bytes, strict=False)]
    if samples:
        samples.append((report.latency_s, 0))
    return [
        {
            "ph": "C",
            "name": "live activations",
            "pid": _OPERATIONS,
            "tid": 0,
            "ts": time * _MICROSECONDS,
            "args": {"bytes": live},
        }
        for time, live in samples
    ]
