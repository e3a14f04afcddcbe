"""What generating text costs: the typed result, and its views in a terminal and as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from codesign.report import units

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from rich.console import RenderableType

GENERATION_SCHEMA: Literal["1.0"] = "1.0"
_MOST_ROWS = 9


class StepRecord(BaseModel):
    """One simulated decode step: a token for each sequence of the batch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    context: int = Field(ge=1, description="tokens in the cache before the step, of each sequence")
    latency_s: float = Field(ge=0, description="seconds of the step")
    energy_J: float = Field(ge=0, description="joules of the step, static energy included")
    memory_bytes: int = Field(ge=0, description="weights, caches and the most activations alive in the step")


class GenerationDocument(BaseModel):
    """The result of generating `tokens` tokens after a prompt, for each sequence of a batch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["1.0"] = Field(default=GENERATION_SCHEMA, description="version of this document's schema")
    model: str = Field(description="name or path of the model that reads the prompt")
    decode_model: str = Field(description="name or path of the model that makes each further token")
    device: str = Field(description="name of the device, with overridden parameters if any")
    dtype: str = Field(description="element type the model was run in")
    batch: int = Field(ge=1, description="sequences generated together")
    prompt: int = Field(ge=1, description="tokens of each prompt")
    tokens: int = Field(ge=1, description="tokens generated for each sequence, the prefill's one included")
    fidelity: str = Field(description="how each step was simulated: analytic, event or cycle")
    time_to_first_token_s: float = Field(ge=0, description="seconds of the prefill, which ends with the first token")
    time_per_token_s: float | None = Field(description="mean seconds of a decode step; null when there is none")
    total_s: float = Field(ge=0, description="seconds from the prompt to the last token")
    tokens_per_s: float = Field(ge=0, description="tokens of all sequences over total_s")
    decode_tokens_per_s: float | None = Field(description="the same without the prefill; null when nothing is decoded")
    prefill_energy_J: float = Field(ge=0, description="joules of the prefill")
    energy_J: float = Field(ge=0, description="joules of it all, static energy included")
    energy_per_token_J: float = Field(ge=0, description="energy_J over the tokens of all sequences")
    weight_bytes: int = Field(ge=0, description="bytes of the weights as stored on the device")
    cache_bytes_per_token: float = Field(ge=0, description="growth of memory with each token of each sequence")
    peak_memory_bytes: int = Field(ge=0, description="most memory taken, prefill included")
    capacity_bytes: int | None = Field(description="memory of the device; null when it states none")
    fits: bool = Field(description="whether all of it fits the device's memory")
    longest_context: int | None = Field(
        description="prompt and generated tokens of each sequence up to which it fits at this batch; null if none does"
    )
    why: str = Field(description="why it fits or not, in words with numbers")
    levers: list[str] = Field(description="changes that would make it fit, each with its amount")
    interpolation_error: float = Field(
        ge=0, description="estimated relative error of the decode time from simulating only some of the steps"
    )
    error_band: float | None = Field(description="mean relative error on the device class's validation data; or null")
    warnings: list[str] = Field(description="assumptions and fallbacks the reader should know")
    steps: list[StepRecord] = Field(description="the decode steps that were simulated, by rising context")


class Generation:
    """What `codesign.generate` answers: the document and its views."""

    def __init__(self, document: GenerationDocument) -> None:
        self.document = document

    @property
    def steps(self) -> pd.DataFrame:
        """One row a decode step, every one: context, latency_s, energy_J, memory_bytes, and whether it was simulated.

        Those between two simulated steps lie on the line that joins them.
        """
        import numpy as np
        import pandas as pd

        known = self.document.steps
        contexts = np.arange(known[0].context, known[-1].context + 1) if known else np.zeros(0, int)
        at = [step.context for step in known]
        columns = {
            name: np.interp(contexts, at, [getattr(step, name) for step in known]) if known else np.zeros(0)
            for name in ("latency_s", "energy_J", "memory_bytes")
        }
        return pd.DataFrame({"context": contexts, **columns, "simulated": np.isin(contexts, at)})

    def to_json(self) -> str:
        return self.document.model_dump_json(indent=2)

    def to_figure(self) -> go.Figure:
        """Time per token and memory over the context, with the device's capacity."""
        return generation_figure(self.document)

    def __rich__(self) -> RenderableType:
        return generation_table(self.document)

    def __repr__(self) -> str:
        found = self.document
        return (
            f"Generation({found.model} on {found.device}, {found.dtype}, batch {found.batch}, {found.prompt} + "
            f"{found.tokens} tokens: {units.seconds(found.total_s)}, {units.joules(found.energy_J)})"
        )


def generation_table(found: GenerationDocument) -> RenderableType:
    """Verdict, figures, and some of the simulated steps from the first to the last; fits 80 columns."""
    from rich.console import Group
    from rich.markup import escape
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from codesign.report.tables import heading

    title = f"{found.model} on {found.device} · {found.dtype} · batch {found.batch} · {found.fidelity}"
    grid = Table.grid(padding=(0, 2))
    figures = _figures(found)
    for start in range(0, len(figures), 2):
        pairs = figures[start : start + 2]
        grid.add_row(*(cell for label, value in pairs for cell in (Text(label, "dim"), Text(value, no_wrap=True))))
    style = "green" if found.fits else "red"
    parts: list[RenderableType] = [
        Panel(Text(_verdict(found)), title=escape(title), title_align="left", border_style=style, width=100),
        grid,
    ]
    if found.steps:
        parts += [Text(""), heading("A decode step as the context grows"), _steps_table(found)]
    parts += [Text(f"lever: {lever}", style="cyan") for lever in found.levers]
    parts += [Text(f"warning: {warning}", style="yellow") for warning in found.warnings]
    return Group(*parts)


def _verdict(found: GenerationDocument) -> str:
    made = f"{found.tokens:,} tokens after a prompt of {found.prompt:,}, batch {found.batch}"
    if not found.fits:
        return f"{made}: does not fit. {found.why}."
    room = f"; the memory would hold a context of {found.longest_context:,}" if found.longest_context else ""
    return f"{made}: {units.seconds(found.total_s)}, {units.joules(found.energy_J)}{room}."


def _figures(found: GenerationDocument) -> list[tuple[str, str]]:
    band = f" ± {found.error_band:.0%}" if found.error_band is not None else ""
    capacity = f" of {units.bytes_(found.capacity_bytes)}" if found.capacity_bytes else ""
    rows = [("Time to first token", units.seconds(found.time_to_first_token_s) + band)]
    if found.time_per_token_s is not None and found.decode_tokens_per_s is not None:
        rows.append(("Time per token", units.seconds(found.time_per_token_s) + band))
        rows.append(("Decoding", units.rate(found.decode_tokens_per_s, "token")))
    return [
        *rows,
        ("In all", units.rate(found.tokens_per_s, "token")),
        ("Energy per token", units.joules(found.energy_per_token_J)),
        ("Prefill energy", units.joules(found.prefill_energy_J)),
        ("Weights", units.bytes_(found.weight_bytes)),
        ("Cache per token", units.bytes_(found.cache_bytes_per_token)),
        ("Peak memory", units.bytes_(found.peak_memory_bytes) + capacity),
        ("Steps simulated", f"{len(found.steps)} of {found.tokens - 1} (± {units.percent(found.interpolation_error)})"),
    ]


def _steps_table(found: GenerationDocument) -> RenderableType:
    from codesign.report.tables import add_numbers, plain_table

    table = plain_table()
    add_numbers(table, "context", "time per token", "tokens/s", "energy per token", "memory")
    last = len(found.steps) - 1
    rows = min(_MOST_ROWS, len(found.steps))
    for position in sorted({round(index * last / max(1, rows - 1)) for index in range(rows)}):
        step = found.steps[position]
        table.add_row(
            f"{step.context:,}", units.seconds(step.latency_s), units.count(found.batch / step.latency_s),
            units.joules(step.energy_J / found.batch), units.bytes_(step.memory_bytes),
        )  # fmt: skip
    return table


def generation_figure(found: GenerationDocument) -> go.Figure:
    """Time per token (left) and memory (right) over the context, the capacity as a line."""
    from codesign.report.figure import ALARM, PALETTE, bytes_axis, fit_margins, new_figure

    contexts = [step.context for step in found.steps]
    growth = found.steps[-1].latency_s / found.steps[0].latency_s - 1 if found.steps else 0.0
    answer = (
        f"{found.model} on {found.device}, {found.dtype}, batch {found.batch}: "
        f"a token takes {growth:.0%} longer at the end than at the start. {found.why}."
    )
    figure = new_figure("What does a token cost as the context grows?", answer, 420)
    figure.add_scatter(
        x=contexts, y=[step.latency_s for step in found.steps], name="time per token", mode="lines+markers",
        line={"color": PALETTE[0]},
    )  # fmt: skip
    memory = [step.memory_bytes for step in found.steps]
    figure.add_scatter(x=contexts, y=memory, name="memory", yaxis="y2", line={"color": PALETTE[1]})
    if found.capacity_bytes:
        capacity = [found.capacity_bytes] * len(contexts)
        line = {"color": ALARM, "dash": "dash"}
        figure.add_scatter(x=contexts, y=capacity, name="the device's memory", yaxis="y2", mode="lines", line=line)
    figure.update_xaxes(title={"text": "tokens in the cache of each sequence"})
    figure.update_yaxes(title={"text": "seconds of a decode step"}, tickformat="~s", ticksuffix="s", rangemode="tozero")
    figure.update_layout(
        yaxis2={**bytes_axis("memory", max([*memory, found.capacity_bytes or 0])), "overlaying": "y", "side": "right",
                "showgrid": False, "automargin": True},
    )  # fmt: skip
    return fit_margins(figure)
