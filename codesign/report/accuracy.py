"""What number formats cost in accuracy: the result document of a comparison with exact arithmetic, and its views."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from codesign.report import units

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, RenderableType
    from rich.table import Table

ACCURACY_VERSION: Literal["1.0"] = "1.0"
WIDTH = 100
_BAR_CELLS = 8
_BAR_DB = 60.0
"""Signal-to-noise ratio from which on a bar is empty."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Agreement(_Record):
    """How values agree with exact ones, over all samples, where both are finite and the exact one is no mask."""

    sqnr_dB: float | None = Field(
        description="signal-to-quantisation-noise ratio in decibels, 10 log10(sum of squares / sum of squared errors); "
        "null when there is no error, or no signal"
    )
    cosine: float | None = Field(description="cosine of the angle between both; null when either is zero")
    max_error: float = Field(ge=0, description="largest absolute error")
    top1: float | None = Field(
        description="fraction of rows (along the last axis) whose largest value is in the same place; null where they "
        "have one value"
    )
    not_finite: int = Field(ge=0, description="values that are infinite or NaN here and finite in exact arithmetic")


class OpAccuracy(_Record):
    """One operation of the graph as it was computed."""

    name: str = Field(description="name of the operation, unique in the model")
    onnx_nodes: list[str] = Field(description="names of the ONNX nodes this operation came from")
    op: str = Field(description="operator kind with those fused behind it")
    formats: dict[str, str] = Field(description="formats by part: weights, activations, accumulator, output")
    own: Agreement = Field(description="error that the operation adds by itself, computed from exact inputs")
    accumulated: Agreement = Field(description="error of its result in the run, that of its inputs included")
    overflows: int = Field(ge=0, description="sums that left the range of an integer accumulator, over all samples")


class AccuracyDocument(_Record):
    """The result of computing a model in a policy's formats, beside exact arithmetic."""

    schema_version: Literal["1.0"] = Field(default=ACCURACY_VERSION, description="version of this document's schema")
    model: str = Field(description="name or path of the model")
    numerics: str = Field(description="name of the policy")
    description: str = Field(description="what the policy stands for")
    samples: int = Field(ge=1, description="samples compared")
    calibration: str = Field(description="how the ranges of activations were chosen, in words")
    ranges: dict[str, tuple[float, float]] = Field(description="calibrated ranges by tensor")
    weight_bytes: int = Field(ge=0, description="bytes of the weights that operations read, as the model stores them")
    held_weight_bytes: int = Field(
        ge=0, description="the same as the policy holds them, with 32 bits a scale of a channel or tensor, 16 a group"
    )
    outputs: dict[str, Agreement] = Field(description="outputs of the model by name")
    ops: list[OpAccuracy] = Field(description="operations in execution order")
    warnings: list[str] = Field(description="what the reader should know")


class AccuracyReport:
    """A comparison's document, the outputs of its first sample in the policy's arithmetic, and the ways to see it."""

    def __init__(self, document: AccuracyDocument, outputs: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self.document = document
        self.outputs = dict(outputs)

    @property
    def ops(self) -> pd.DataFrame:
        """One row an operation: name, op, formats, and the figures of own and accumulated error, as in the document."""
        import pandas as pd

        rows = []
        for op in self.document.ops:
            row: dict[str, Any] = {"name": op.name, "op": op.op, **op.formats, "overflows": op.overflows}
            for part in ("own", "accumulated"):
                row.update({f"{part}_{key}": value for key, value in getattr(op, part).model_dump().items()})
            rows.append(row)
        return pd.DataFrame(rows)

    def to_json(self, path: str | Path | None = None) -> str:
        """The document as JSON, also written to `path` when given."""
        text = self.document.model_dump_json(indent=2)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def to_table(self, top: int = 10) -> RenderableType:
        """The terminal's view: outputs, and the `top` operations that lose most by themselves."""
        return _summary(self.document, top)

    def print(self, console: Console | None = None, top: int = 10) -> None:
        """Print `to_table` to `console`, or to standard output."""
        from rich.console import Console

        (console or Console()).print(self.to_table(top))

    def __rich__(self) -> RenderableType:
        return self.to_table()

    def __repr__(self) -> str:
        document = self.document
        figures = ", ".join(f"{name} {decibels(found)}" for name, found in document.outputs.items())
        return f"AccuracyReport({document.model} in {document.numerics}: {figures})"


def decibels(found: Agreement) -> str:
    """The signal-to-noise ratio with one decimal, or that there is no error."""
    if found.not_finite:
        return "overflow"
    return "exact" if found.sqnr_dB is None else f"{found.sqnr_dB:.1f} dB"


def worst_first(document: AccuracyDocument) -> list[OpAccuracy]:
    """Operations that add an error, those that lose most by themselves first."""
    lossy = [op for op in document.ops if op.own.max_error > 0 or op.own.not_finite]
    return sorted(lossy, key=lambda op: (-op.own.not_finite, 1e9 if op.own.sqnr_dB is None else op.own.sqnr_dB))


def _verdict(document: AccuracyDocument) -> str:
    worst = min(document.outputs.items(), key=lambda item: _order(item[1]), default=None)
    lossy = worst_first(document)
    if worst is None or not lossy:
        return "Every operation computes as in exact arithmetic."
    name, found = worst
    agree = "" if found.top1 is None else f"; top-1 agrees in {units.percent(found.top1)}"
    return (
        f"Output {name} keeps {decibels(found)}{agree}. {lossy[0].name} loses most by itself: {decibels(lossy[0].own)}."
    )


def _order(found: Agreement) -> float:
    if found.not_finite:
        return -1e9
    return 1e9 if found.sqnr_dB is None else found.sqnr_dB


def _summary(document: AccuracyDocument, top: int) -> RenderableType:
    from rich.console import Group
    from rich.markup import escape
    from rich.panel import Panel
    from rich.text import Text

    from codesign.report.tables import heading

    count = f"{document.samples} sample{'s' if document.samples > 1 else ''}"
    title = f"{document.model} in {document.numerics} · {count}"
    lossy = worst_first(document)
    parts: list[RenderableType] = [
        Panel(Text(_verdict(document)), title=escape(title), title_align="left", width=WIDTH),
        Text(f"{document.description or 'formats of a file'}; {document.calibration}", "dim"),
        Text(
            f"weights {units.bytes_(document.weight_bytes)}, held in {units.bytes_(document.held_weight_bytes)}", "dim"
        ),
        Text(""),
        heading("Outputs, beside exact arithmetic"),
        _outputs(document),
        Text(""),
        heading(f"Worst {min(top, len(lossy))} of {len(document.ops)} operations, by the error each adds itself"),
        _operations(lossy[:top]),
    ]
    return Group(*parts, *(Text(f"warning: {warning}", style="yellow") for warning in document.warnings))


def _outputs(document: AccuracyDocument) -> Table:
    from codesign.report.tables import add_names, add_numbers, plain_table, shrinking

    table = plain_table()
    add_names(table, "output", 40)
    add_numbers(table, "SQNR", "cosine", "max error", "top-1")
    for name, found in document.outputs.items():
        table.add_row(shrinking(name), decibels(found), *_figures(found))
    return table


def _operations(ops: list[OpAccuracy]) -> Table:
    from rich.text import Text

    from codesign.report.tables import add_names, add_numbers, add_words, plain_table, shrinking

    table = plain_table()
    add_names(table, "operation")
    add_words(table, "kind", 10)
    add_words(table, "formats", 16)
    add_numbers(table, "own")
    table.add_column("", no_wrap=True, min_width=_BAR_CELLS)
    add_numbers(table, "in the run", "max error")
    if any(op.overflows for op in ops):
        add_numbers(table, "overflows")
    for op in ops:
        lost = 1.0 if op.own.not_finite else max(0.0, 1 - (op.own.sqnr_dB or 0.0) / _BAR_DB)
        cells: list[Text | str] = [
            shrinking(op.name), Text(op.op), Text(_short(op.formats)), decibels(op.own),
            Text("█" * round(_BAR_CELLS * min(lost, 1.0)), "red"), decibels(op.accumulated), f"{op.own.max_error:.2g}",
        ]  # fmt: skip
        table.add_row(*cells, *([units.count(op.overflows)] if len(table.columns) > len(cells) else []))
    return table


def _short(formats: Mapping[str, str]) -> str:
    """Weights, activations and results with strokes between, what is named twice in a row only once."""
    given = [formats[part] for part in ("weights", "activations", "output") if part in formats]
    names = [name for index, name in enumerate(given) if index == 0 or given[index - 1] != name]
    return "/".join(names)


def _figures(found: Agreement) -> tuple[str, str, str]:
    cosine = "" if found.cosine is None else f"{found.cosine:.5f}"
    return cosine, f"{found.max_error:.3g}", "" if found.top1 is None else units.percent(found.top1)
