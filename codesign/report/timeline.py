"""Tasks as spans to draw: merged where they are too many, and put on lanes where they overlap."""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import pairwise

from codesign.report.report import Report


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time on a resource. `op` indexes the operations, -1 for none; `tasks` counts what was merged."""

    resource: str
    lane: int
    op: int
    label: str
    start_s: float
    end_s: float
    busy_s: float
    firings: int
    energy_J: float
    tasks: int = 1


def spans(report: Report, limit: int | None = None) -> list[Span]:
    """The report's tasks that take time, by resource and start.

    With more than `limit` of them, tasks of one operation on one resource become one span, and then neighbours on a
    resource are merged, the smallest first, until at most `limit` (or one a resource) are left.
    """
    found = _all_spans(report)
    if limit is None or len(found) <= limit:
        return found
    merged = _merge_ops(found)
    return merged if len(merged) <= limit else _merge_neighbours(merged, limit)


def on_lanes(found: list[Span]) -> list[Span]:
    """The spans with lanes set so that none overlaps another of its resource and lane; the fewest lanes are used."""
    placed = []
    free: dict[str, list[tuple[float, int]]] = defaultdict(list)  # by resource: when each lane ends
    for span in sorted(found, key=lambda span: (span.start_s, span.end_s)):
        lanes = free[span.resource]
        lane = heapq.heappop(lanes)[1] if lanes and lanes[0][0] <= span.start_s else len(lanes)
        heapq.heappush(lanes, (span.end_s, lane))
        placed.append(replace(span, lane=lane))
    return placed


def _all_spans(report: Report) -> list[Span]:
    tasks = report.tasks
    order = {name: position for position, name in enumerate(report.document.resources)}
    columns = zip(
        tasks.resource, tasks.op.tolist(), tasks.label, tasks.start_s.tolist(), tasks.end_s.tolist(),
        tasks.busy_s.tolist(), tasks.firings.tolist(), tasks.energy_J.tolist(), strict=True,
    )  # fmt: skip
    found = [Span(row[0], 0, *row[1:]) for row in columns if row[4] > row[3]]
    return sorted(found, key=lambda span: (order.get(span.resource, len(order)), span.start_s))


def _merge_ops(found: list[Span]) -> list[Span]:
    groups: dict[tuple[str, int], list[Span]] = defaultdict(list)
    for span in found:
        groups[span.resource, span.op].append(span)
    return [_merge(group) for group in groups.values()]


def _merge_neighbours(found: list[Span], limit: int) -> list[Span]:
    """Join pairs of which the smaller span and the gap are shortest. Within a resource, spans come by start."""
    found = sorted(found, key=lambda span: (span.resource, span.start_s))
    gaps = sorted(
        (right.start_s - left.end_s + min(right.end_s - right.start_s, left.end_s - left.start_s), position)
        for position, (left, right) in enumerate(pairwise(found))
        if left.resource == right.resource
    )
    joined = {position for _, position in gaps[: len(found) - limit]}
    groups: list[list[Span]] = []
    for position, span in enumerate(found):
        if position - 1 in joined:
            groups[-1].append(span)
        else:
            groups.append([span])
    return [_merge(group) for group in groups]


def _merge(group: list[Span]) -> Span:
    if len(group) == 1:
        return group[0]
    labels = {span.label for span in group}
    return Span(
        resource=group[0].resource,
        lane=0,
        op=max(group, key=lambda span: span.busy_s).op,
        label=group[0].label if len(labels) == 1 else f"{len(labels)} kinds of task",
        start_s=min(span.start_s for span in group),
        end_s=max(span.end_s for span in group),
        busy_s=sum(span.busy_s for span in group),
        firings=sum(span.firings for span in group),
        energy_J=sum(span.energy_J for span in group),
        tasks=sum(span.tasks for span in group),
    )
