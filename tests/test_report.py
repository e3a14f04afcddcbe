"""The result document and its views."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from codesign.errors import BadParameter
from codesign.report import units
from codesign.report.compare import compare, comparison_table
from codesign.report.report import Report, Roof, TaskTable
from codesign.report.schema import OpRecord, ReportDocument, ResourceRecord, json_schema
from codesign.report.timeline import on_lanes, spans
from codesign.report.trace import trace_events
from codesign.report.verdict import time_shares, verdict

DATA = Path(__file__).parent / "data"
KINDS = ("Conv", "MatMul", "Softmax", "LayerNormalization", "Reshape")


def synthetic_report(layers: int = 12, device: str = "npu <test>", fits: bool = True, speed: float = 1.0) -> Report:
    """A run of `layers` groups of five operations, each with a load, a compute and a store task, one after another."""
    ops: list[OpRecord] = []
    rows: list[tuple[int, str, str, float, float, float, int, float]] = []
    now = 0.0
    for index in range(layers * len(KINDS)):
        kind = KINDS[index % len(KINDS)]
        macs = {"Conv": 90_000_000, "MatMul": 40_000_000}.get(kind, 0) * (1 + index // 5)
        size = 0 if kind == "Reshape" else 300_000 * (1 + index // 10)
        compute, memory = macs / (1e12 * speed), size / (3e9 * speed)
        latency = max(compute, 1.5 * memory)
        if latency:
            rows.append((index, "load weights", "dma", now, now + memory, memory, 8, size * 40e-12))
            rows.append((index, "multiply", "mac array", now, now + latency, compute, 64, macs * 0.5e-12))
            rows.append(
                (index, "store", "dma", now + latency - memory / 2, now + latency, memory / 2, 8, size * 20e-12)
            )
        ops.append(
            OpRecord(
                name=f"/encoder/layers.{index // 5}/{kind}_{index}", onnx_nodes=[f"/node_{index}", f"/act_{index}"],
                op=kind, macs=macs, bytes=size, latency_s=latency, start_s=now,
                energy_J=size * 60e-12 + macs * 0.5e-12 * (latency > 0), resource="mac array" if latency else "",
                bound=("compute" if compute > 1.5 * memory else "memory") if latency else "free",
                cycles=round(latency * 1e9),
            )
        )  # fmt: skip
        now += latency
    columns = list(zip(*rows, strict=True))
    tasks = TaskTable(
        op=np.array(columns[0]), label=columns[1], resource=columns[2], start_s=np.array(columns[3]),
        end_s=np.array(columns[4]), busy_s=np.array(columns[5]), waited_s=np.zeros(len(columns[5])),
        firings=np.array(columns[6]), energy_J=np.array(columns[7]),
    )  # fmt: skip
    dynamic = sum(op.energy_J for op in ops)
    busy = {name: sum(row[5] for row in rows if row[2] == name) for name in ("mac array", "dma")}
    document = ReportDocument(
        model="zoo:test <b>", device=device, dtype="int8", batch=1, fidelity="event", latency_s=now,
        energy_J=dynamic + 0.1 * now, power_W=(dynamic + 0.1 * now) / now, area_mm2=2.5,
        macs=sum(op.macs for op in ops), params=5_500_000, weight_bytes=5_500_000, peak_activation_bytes=1_200_000,
        fits=fits, why="all buffers hold" if fits else "needs 1.14 MiB of SRAM, 1.00 MiB there: 0.14 MiB short",
        levers=[] if fits else ["sram.bytes=1.25e6"], utilisation=busy["mac array"] / now, error_band=0.12,
        warnings=["dimension 'batch' was not bound: 1 taken"], ops=ops,
        resources={
            name: ResourceRecord(
                busy_s=busy[name], utilisation=busy[name] / now, energy_J=sum(row[7] for row in rows if row[2] == name)
            )
            for name in busy
        },
        energy={"mac": dynamic * 0.4, "sram": dynamic * 0.25, "dram": dynamic * 0.35, "static": 0.1 * now},
    )  # fmt: skip
    live = [int(400_000 * (1 + np.sin(index / 6) ** 2)) for index in range(len(ops))]
    return Report(
        document, tasks, live, Roof(peak_flops=2e12 * speed, dram_bandwidth=3e9 * speed, capacity_bytes=1 << 20)
    )


@pytest.fixture(scope="module")
def report() -> Report:
    return synthetic_report()


def printed(renderable: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# The document


def test_schema_is_the_published_one() -> None:
    assert json_schema() == json.loads((DATA / "report_schema.json").read_text())


def test_every_field_of_the_schema_is_described() -> None:
    schema = json_schema()
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    for model in (schema, *definitions.values()):
        assert all("description" in field for field in model["properties"].values())


def test_json_comes_back_as_the_same_document(report: Report, tmp_path: Path) -> None:
    text = report.to_json(tmp_path / "report.json")
    assert ReportDocument.model_validate_json(text) == report.document
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(text)


def test_ops_frame_has_a_row_an_operation_and_the_schemas_columns(report: Report) -> None:
    frame = report.ops
    assert list(frame.columns) == list(OpRecord.model_fields)
    assert frame.latency_s.sum() == pytest.approx(report.latency_s)
    assert len(frame) == len(report.document.ops)


def test_task_table_refuses_columns_of_different_length() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        TaskTable(np.zeros(2), ["a"], ["r", "r"], *(np.zeros(2) for _ in range(6)))


def test_report_refuses_live_bytes_that_do_not_match_the_operations(report: Report) -> None:
    with pytest.raises(ValueError, match="live_bytes has 1 entries"):
        Report(report.document, report.tasks, [1])


# Units


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.seconds(0), "0 s"),
        (units.seconds(1.2345e-3), "1.23 ms"),
        (units.seconds(999.6e-6), "1.00 ms"),
        (units.seconds(4.2e-8), "42.0 ns"),
        (units.seconds(3e-16), "0.300 fs"),
        (units.seconds(90), "90.0 s"),
        (units.seconds(600), "10.0 min"),
        (units.seconds(9000), "2.50 h"),
        (units.joules(0.5), "500 mJ"),
        (units.watts(700), "700 W"),
        (units.bytes_(512), "512 B"),
        (units.bytes_(1536), "1.50 KiB"),
        (units.bytes_(141e9), "131 GiB"),
        (units.bandwidth(4.8e12), "4.80 TB/s"),
        (units.rate(9.89e14, "FLOP"), "989 TFLOP/s"),
        (units.count(7), "7"),
        (units.count(4.089e9), "4.09 G"),
        (units.percent(0.0512), "5.1%"),
        (units.percent(0.42), "42%"),
        (units.percent(0), "0%"),
    ],
)
def test_numbers_are_humanised(text: str, expected: str) -> None:
    assert text == expected


# Terminal


@pytest.mark.parametrize("width", [80, 100, 160])
def test_table_fits_the_terminal(report: Report, width: int) -> None:
    lines = printed(report.to_table(), width).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= min(width, 120)


def test_table_lists_the_slowest_operations_first(report: Report) -> None:
    text = printed(report.to_table(top=3), 100)
    slowest = sorted(report.document.ops, key=lambda op: -op.latency_s)[:3]
    positions = [text.index(op.name[:20]) for op in slowest]
    assert positions == sorted(positions)


def test_narrow_table_shortens_names_and_never_numbers(report: Report) -> None:
    text = printed(report.to_table(top=5), 80)
    slowest = sorted(report.document.ops, key=lambda op: -op.latency_s)[:5]
    assert all(units.seconds(op.latency_s) in text and units.joules(op.energy_J) in text for op in slowest)


def test_shares_sum_to_one(report: Report) -> None:
    assert sum(time_shares(report.document)) == pytest.approx(1)


def test_verdict_of_a_model_that_does_not_fit_gives_the_reason_and_the_table_the_lever() -> None:
    report = synthetic_report(fits=False)
    assert verdict(report.document) == f"Does not fit: {report.document.why}"
    assert "lever: sram.bytes=1.25e6" in printed(report, 100)


# Comparison


def test_compare_is_relative_to_the_first_report() -> None:
    frame = compare([synthetic_report(), synthetic_report(speed=2.0, device="faster")])
    assert frame.speedup.tolist() == pytest.approx([1.0, 2.0])
    assert frame.device.tolist() == ["npu <test>", "faster"]


def test_compare_of_nothing_is_refused() -> None:
    with pytest.raises(BadParameter, match="no report"):
        compare([])


def test_comparison_table_fits_and_names_what_differs() -> None:
    text = printed(comparison_table([synthetic_report(), synthetic_report(speed=2.0, device="faster")]), 100)
    assert max(map(len, text.splitlines())) <= 100
    assert "faster" in text
    assert "2.00x" in text


# Timeline and trace


def test_spans_on_one_lane_never_overlap(report: Report) -> None:
    ends: dict[tuple[str, int], float] = {}
    for span in on_lanes(spans(report)):
        assert span.start_s >= ends.get((span.resource, span.lane), 0.0)
        ends[span.resource, span.lane] = span.end_s


@pytest.mark.parametrize("limit", [100, 90, 10, 2])
def test_merging_spans_respects_the_limit_and_loses_no_energy(report: Report, limit: int) -> None:
    merged = spans(report, limit)
    assert len(merged) <= limit
    assert sum(span.energy_J for span in merged) == pytest.approx(report.tasks.energy_J.sum())
    assert sum(span.tasks for span in merged) == len(report.tasks)


def test_trace_is_well_formed(report: Report, tmp_path: Path) -> None:
    report.to_trace(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    events = trace["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X", "C"}
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    for event in events:
        assert {"name", "ph", "pid", "tid"} <= event.keys()
        if event["ph"] == "X":
            assert event["ts"] >= 0
            assert event["dur"] > 0
            assert event["args"]["energy_J"] >= 0
            assert (event["pid"], event["tid"]) in named


def test_trace_events_of_a_track_never_overlap(report: Report) -> None:
    tracks = defaultdict(list)
    for event in trace_events(report):
        if event["ph"] == "X":
            start, length = int(event["ts"] * 1000), int(event["dur"] * 1000)  # whole nanoseconds, as viewers keep
            tracks[event["pid"], event["tid"]].append((start, start + length))
    assert len(tracks) >= 3
    for spans_of_track in map(sorted, tracks.values()):
        assert all(end <= start for (_, end), (start, _) in pairwise(spans_of_track))


def test_trace_covers_the_whole_run_in_microseconds(report: Report) -> None:
    complete = [event for event in trace_events(report) if event["ph"] == "X"]
    assert max(event["ts"] + event["dur"] for event in complete) == pytest.approx(report.latency_s * 1e6)
    tasks = [event for event in complete if "firings" in event["args"]]
    assert len(tasks) == len(report.tasks)
    assert all(event["args"]["onnx_nodes"] for event in tasks)


def test_trace_counts_live_memory(report: Report) -> None:
    counters = [event["args"]["bytes"] for event in trace_events(report) if event["ph"] == "C"]
    assert counters == [*report.live_bytes, 0]
