"""A pipeline of tiles: what one operation asks of the device, and the tasks that ask for it.

    DRAM loads ──> on-chip read ──> compute ──> output stage ──> on-chip write ──> DRAM store

Each stage works on another tile; two buffers stand between neighbours, so a stage waits when its neighbour is late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from codesign.engine.run import run
from codesign.hardware import Tasks
from codesign.program import ProgramBuilder, Resource
from hwmodels.npu.parameters import NpuParameters
from hwmodels.npu.tiling import Tiling


@dataclass(frozen=True, slots=True)
class Load:
    """`count` transfers of `bytes` from DRAM; each serves `stride` tiles. `weights` need no earlier operation."""

    label: str
    bytes: float
    count: int
    stride: int = 1
    weights: bool = False


@dataclass(frozen=True, slots=True)
class Pipeline:
    """`tiles` tiles through the stages. Cycles and bytes are of one tile; stages with none are left out.

    `engine` names the resource that computes, `output_cycles` are those of the vector unit after it; `start_cycles`
    pass once before the first tile. Energies are joules a tile (those of DRAM follow from its bytes).
    """

    tiles: int
    engine: str
    engine_cycles: int
    loads: tuple[Load, ...] = ()
    read_bytes: float = 0.0
    output_cycles: int = 0
    write_bytes: float = 0.0
    store_bytes: float = 0.0
    start_cycles: int = 0
    label: str = "compute"
    engine_energy: Mapping[str, float] = field(default_factory=dict)
    output_energy: Mapping[str, float] = field(default_factory=dict)
    detail: Tiling | None = None


@dataclass(frozen=True, slots=True)
class Costs:
    """What moving a byte costs in time and energy: latencies in ticks, joules a byte."""

    dram_latency: int
    sram_latency: int
    dram_byte: float
    sram_byte: float


def resources_of(parameters: NpuParameters) -> tuple[Resource, ...]:
    """The engine's resources of an NPU, in the order reports show."""
    return (
        Resource("mac_array"),
        Resource("vector"),
        Resource("dma"),
        Resource("sram", bytes_per_tick=parameters.sram.bandwidth / parameters.clock),
        Resource("dram", bytes_per_tick=parameters.dram.bandwidth / parameters.clock),
        Resource("host"),
    )


def costs_of(parameters: NpuParameters) -> Costs:
    """Latencies and energies of the memories; an on-chip byte costs more the larger the memory."""
    sram, energy = parameters.sram, parameters.energy
    return Costs(
        dram_latency=round(parameters.dram.latency * parameters.clock),
        sram_latency=round(sram.latency * parameters.clock),
        dram_byte=energy.dram_byte,
        sram_byte=energy.sram_byte * (sram.capacity / energy.sram_reference) ** energy.sram_exponent,
    )


def event_ticks(parameters: NpuParameters, pipeline: Pipeline) -> int:
    """Cycles of a pipeline by itself on the event engine."""
    builder = ProgramBuilder(resources_of(parameters), 1 / parameters.clock)
    emit(pipeline, costs_of(parameters), builder)
    return run(builder.build()).end


def emit(pipeline: Pipeline, costs: Costs, builder: ProgramBuilder, after: tuple[int, ...] = ()) -> Tasks:
    """Write the tasks of `pipeline`, the first of which start when `after` have ended."""
    started = after
    entry: list[int] = []
    if pipeline.start_cycles:
        start = builder.task("start", pipeline.engine, duration=pipeline.start_cycles, after=after)
        entry.append(start)
        started = (start,)
    loads = []
    for load in pipeline.loads:
        waits = () if load.weights else after
        task = builder.task(
            load.label, "dram", bytes=load.bytes, duration=costs.dram_latency, count=load.count, after=waits,
            energy_J={"dram": load.bytes * costs.dram_byte, "sram": load.bytes * costs.sram_byte},
        )  # fmt: skip
        loads.append(task)
        if not load.weights:
            entry.append(task)
    head = None
    if pipeline.read_bytes:
        head = builder.task(
            "read operands", "sram", bytes=pipeline.read_bytes, duration=costs.sram_latency, count=pipeline.tiles,
            energy_J={"sram": pipeline.read_bytes * costs.sram_byte}, after=started,
        )  # fmt: skip
        entry.append(head)
    compute = builder.task(
        pipeline.label, pipeline.engine, duration=pipeline.engine_cycles, count=pipeline.tiles,
        energy_J=pipeline.engine_energy, after=started if head is None else (),
    )  # fmt: skip
    if head is None:
        entry.append(compute)
    else:
        builder.each(head, compute)
        builder.buffer(head, compute, 2)
    for load, task in zip(pipeline.loads, loads, strict=True):
        builder.each(task, compute if head is None else head, stride=load.stride)
        if load.count * load.stride >= pipeline.tiles and load.count > 2:
            builder.buffer(task, compute, 2, stride=load.stride)
    last = _drain(pipeline, costs, builder, compute)
    early = tuple(task for load, task in zip(pipeline.loads, loads, strict=True) if load.weights)
    return Tasks(entry=tuple(entry), exit=(last,), early=early)


def _drain(pipeline: Pipeline, costs: Costs, builder: ProgramBuilder, compute: int) -> int:
    """The stages after compute; returns the last task."""
    last = compute
    if pipeline.output_cycles:
        output = builder.task(
            "output stage", "vector", duration=pipeline.output_cycles, count=pipeline.tiles,
            energy_J=pipeline.output_energy,
        )  # fmt: skip
        builder.each(last, output)
        builder.buffer(last, output, 2)
        last = output
    if pipeline.write_bytes:
        write = builder.task(
            "write results", "sram", bytes=pipeline.write_bytes, count=pipeline.tiles,
            energy_J={"sram": pipeline.write_bytes * costs.sram_byte},
        )  # fmt: skip
        builder.each(last, write)
        builder.buffer(last, write, 2)
        last = write
    if pipeline.store_bytes:
        store = builder.task(
            "store", "dram", bytes=pipeline.store_bytes, count=pipeline.tiles,
            energy_J={
                "dram": pipeline.store_bytes * costs.dram_byte, "sram": pipeline.store_bytes * costs.sram_byte
            },
        )  # fmt: skip
        builder.each(last, store)
        builder.buffer(last, store, 2)
        last = store
    return last
