"""Report: the result document with the timeline it was summed from, and the ways to see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.report.schema import ReportDocument

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, RenderableType


@dataclass(frozen=True)
class TaskTable:
    """The engine's T tasks, one column a field. `op` indexes the document's operations, -1 where a task has none.

    `start_s` and `end_s` span all firings of a task; `busy_s` is the time its firings held the resource; `waited_s`
    sums over firings how long each, ready to go, waited for its resource.
    """

    op: np.ndarray[Any, Any]  # (T,) int
    label: Sequence[str]  # (T,) what the task does
    resource: Sequence[str]  # (T,) name of the resource it ran on
    start_s: np.ndarray[Any, Any]  # (T,)
    end_s: np.ndarray[Any, Any]  # (T,)
    busy_s: np.ndarray[Any, Any]  # (T,)
    waited_s: np.ndarray[Any, Any]  # (T,)
    firings: np.ndarray[Any, Any]  # (T,) int
    energy_J: np.ndarray[Any, Any]  # (T,) all firings

    def __post_init__(self) -> None:
        for column in ("op", "start_s", "end_s", "busy_s", "waited_s", "firings", "energy_J"):
            object.__setattr__(self, column, np.asarray(getattr(self, column)))
        lengths = {column: len(values) for column, values in vars(self).items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of a TaskTable differ in length: {lengths}")

    def __len__(self) -> int:
        return len(self.op)


@dataclass(frozen=True, slots=True)
class Roof:
    """The device's limits that the roofline and the memory figure draw, in the report's element type."""

    peak_flops: float
    """Operations a second, two for each multiply-accumulate."""
    dram_bandwidth: float
    """Bytes a second of the memory that holds the model."""
    capacity_bytes: int | None = None
    """Bytes of the memory that holds activations."""


class Report:
    """What a simulation answers. `live_bytes[i]` is the activation bytes alive while operation i runs."""

    def __init__(
        self,
        document: ReportDocument,
        tasks: TaskTable,
        live_bytes: Sequence[int] = (),
        roof: Roof | None = None,
    ) -> None:
        if live_bytes and len(live_bytes) != len(document.ops):
            raise ValueError(f"live_bytes has {len(live_bytes)} entries for {len(document.ops)} operations")
        self.document = document
        self.tasks = tasks
        self.live_bytes = list(live_bytes)
        self.roof = roof

    @property
    def latency_s(self) -> float:
        return self.document.latency_s

    @property
    def energy_J(self) -> float:
        return self.document.energy_J

    @property
    def power_W(self) -> float:
        return self.document.power_W

    @property
    def fits(self) -> bool:
        return self.document.fits

    @property
    def ops(self) -> pd.DataFrame:
        """One row an operation, with the columns of `OpRecord`; a new frame each time."""
        import pandas as pd

        from codesign.report.schema import OpRecord

        columns = list(OpRecord.model_fields)
        return pd.DataFrame({column: [getattr(op, column) for op in self.document.ops] for column in columns})

    def to_json(self, path: str | Path | None = None) -> str:
        """The document as JSON, also written to `path` when given."""
        text = self.document.model_dump_json(indent=2)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page that needs no network."""
        from codesign.report.html import render

        Path(path).write_text(render(self), encoding="utf-8")

    def to_trace(self, path: str | Path) -> None:
        """Write a trace in Chrome's JSON format, which ui.perfetto.dev and chrome://tracing open."""
        from codesign.report.trace import trace_json

        Path(path).write_text(trace_json(self), encoding="utf-8")

    def to_table(self, top: int = 10) -> RenderableType:
        """The terminal's view: verdict, totals, the `top` slowest operations, resources."""
        from codesign.report.terminal import summary

        return summary(self.document, top)

    def print(self, console: Console | None = None, top: int = 10) -> None:
        """Print `to_table` to `console`, or to standard output."""
        from rich.console import Console

        (console or Console()).print(self.to_table(top))

    def __rich__(self) -> RenderableType:
        return self.to_table()

    def __repr__(self) -> str:
        from codesign.report import units

        document = self.document
        return (
            f"Report({document.model} on {document.device}, {document.dtype}, batch {document.batch}: "
            f"{units.seconds(document.latency_s)}, {units.joules(document.energy_J)})"
        )
