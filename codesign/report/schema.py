"""The result document: what one simulation answers, typed and versioned. All views are made from it.

Everything is SI: seconds, joules, watts, bytes; area is in mm2. A change that removes or redefines a field raises the
major part of SCHEMA_VERSION; a new field raises the minor part.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Literal["1.0"] = "1.0"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OpRecord(_Record):
    """One operation of the lowered model."""

    name: str = Field(description="name of the operation, unique in the model")
    onnx_nodes: list[str] = Field(description="names of the ONNX nodes this operation came from")
    op: str = Field(description="operator kind, such as Conv, MatMul, Attention")
    macs: int = Field(ge=0, description="multiply-accumulates")
    bytes: int = Field(ge=0, description="bytes of all operands read and written, each counted once")
    latency_s: float = Field(ge=0, description="seconds from its start to its last task's end")
    start_s: float = Field(
        ge=0, description="seconds from the start of the run to its first task's start, prefetches not counted"
    )
    energy_J: float = Field(ge=0, description="joules spent by its tasks, static energy not included")
    resource: str = Field(description="the resource its tasks kept busy longest; empty when it has no task")
    bound: str = Field(description="what limits it, such as compute, memory, overhead; free when it costs nothing")
    cycles: int | None = Field(description="clock cycles of the device; null when its time is not kept in cycles")


class ResourceRecord(_Record):
    """One resource of the device: a compute array, a DMA engine, a memory channel, a link."""

    busy_s: float = Field(ge=0, description="seconds in use, averaged over its servers")
    utilisation: float = Field(ge=0, description="busy_s as a fraction of the latency")
    energy_J: float = Field(ge=0, description="joules spent by the tasks that ran on it")


class ReportDocument(_Record):
    """The result of simulating a model on a device."""

    schema_version: Literal["1.0"] = Field(default=SCHEMA_VERSION, description="version of this document's schema")
    model: str = Field(description="name or path of the model")
    device: str = Field(description="name of the device, with overridden parameters if any")
    dtype: str = Field(description="element type the model was run in")
    batch: int = Field(ge=1, description="batch size")
    fidelity: str = Field(description="how it was simulated: analytic, event or cycle")
    latency_s: float = Field(ge=0, description="seconds for one inference of the whole batch")
    energy_J: float = Field(ge=0, description="joules for one inference of the whole batch, static energy included")
    power_W: float = Field(ge=0, description="mean power in watts: energy over latency")
    area_mm2: float | None = Field(description="silicon area in mm2; null when no source states it")
    macs: int = Field(ge=0, description="multiply-accumulates of the whole model")
    params: int = Field(ge=0, description="number of learned values")
    weight_bytes: int = Field(ge=0, description="bytes of the weights as stored on the device")
    peak_activation_bytes: int = Field(ge=0, description="largest number of activation bytes alive at once")
    fits: bool = Field(description="whether the model fits the device's memories")
    why: str = Field(description="why it fits or not, in words with numbers")
    levers: list[str] = Field(description="changes that would make it fit, or fit better, each with its amount")
    utilisation: float = Field(ge=0, description="busy fraction of the busiest compute resource")
    error_band: float | None = Field(description="mean relative error on the device class's validation data; or null")
    warnings: list[str] = Field(description="assumptions and fallbacks the reader should know")
    ops: list[OpRecord] = Field(description="operations in execution order")
    resources: dict[str, ResourceRecord] = Field(description="resources of the device by name, in its own order")
    energy: dict[str, float] = Field(description="joules by component; sums to energy_J")


def json_schema() -> dict[str, object]:
    """The JSON schema of the document, as published and held by a test."""
    return ReportDocument.model_json_schema()
