"""A parallel loop: equal parts over the cores, each fetching its operands, computing and storing.

Every operator becomes one call of the framework and one such loop. A core fetches the next part while it computes the
present one (hardware prefetching), so a loop costs the largest of compute, shared cache and DRAM.
"""

from __future__ import annotations

from dataclasses import dataclass

from codesign.hardware import MappedOp, Tasks
from codesign.program import ProgramBuilder, Resource
from hwmodels.cpu.parameters import CpuParameters

TICK_S = 1e-12
PARTS_PER_CORE = 4
"""Parts that a core works through in one loop, so that fetching and computing overlap."""


@dataclass(frozen=True, slots=True)
class Loop:
    """`core_s` seconds of one core's work in all, shared by at most `parts` cores; `serial_s` cannot be shared.
    `regions` is how often the cores are handed work and joined."""

    label: str
    core_s: float
    parts: int
    cache_bytes: float
    dram_read: float
    dram_write: float
    operations: float
    compute_J: float
    serial_s: float = 0.0
    regions: int = 1


def resources(parameters: CpuParameters) -> tuple[Resource, ...]:
    dram_rate = parameters.dram.bandwidth * parameters.dram.achieved
    return (
        Resource("core", servers=parameters.core.count),
        Resource("l3", bytes_per_tick=parameters.cache.bandwidth * TICK_S),
        Resource("dram", bytes_per_tick=dram_rate * TICK_S),
        Resource("framework"),
    )


def write_tasks(loop: Loop, parameters: CpuParameters, builder: ProgramBuilder) -> Tasks:
    """The framework's call, then the loop on as many cores as it is worth."""
    cores = cores_for(loop, parameters)
    fork_s = parameters.framework.parallel * loop.regions if cores > 1 else 0.0
    call_s = parameters.framework.call + fork_s + loop.serial_s
    call = builder.task(
        "call",
        "framework",
        duration=builder.ticks(call_s),
        energy_J={
            "scalar": parameters.energy.scalar * call_s * parameters.core.clock * parameters.core.scalar_per_clock
        },
    )
    parts = cores * PARTS_PER_CORE
    # A core alone cannot draw the whole memory's bandwidth: what it fetches takes at least this long.
    drawn_s = (loop.dram_read + loop.dram_write) / parameters.dram.core_bandwidth
    part_s = max(loop.core_s, drawn_s) / parts
    energy = parameters.energy
    fetches = _fetch(builder, "fetch", "dram", loop.dram_read, parts, parameters.dram.latency, energy.dram, (call,))
    fetches += _fetch(builder, "load", "l3", loop.cache_bytes, parts, parameters.cache.latency, energy.l3, (call,))
    compute = builder.task(
        loop.label,
        "core",
        duration=max(1, builder.ticks(part_s)),
        count=parts,
        energy_J={"core": loop.compute_J / parts},
        after=(call,),
    )
    for fetch in fetches:
        builder.each(fetch, compute)
        builder.buffer(fetch, compute, 2 * cores)
    stores = _fetch(builder, "store", "dram", loop.dram_write, parts, 0.0, energy.dram, ())
    for store in stores:
        builder.each(compute, store)
    return Tasks(entry=(call,), exit=(compute, *stores))


def cores_for(loop: Loop, parameters: CpuParameters) -> int:
    """All cores, unless the loop has fewer parts or too little to do to be worth the hand-over."""
    if loop.operations + loop.cache_bytes < parameters.framework.grain:
        return 1
    return max(1, min(parameters.core.count, loop.parts))


def _fetch(
    builder: ProgramBuilder,
    label: str,
    resource: str,
    total: float,
    parts: int,
    latency_s: float,
    joules: float,
    after: tuple[int, ...],
) -> tuple[int, ...]:
    """A task that moves `total` bytes in `parts` firings, if there are any."""
    if total <= 0:
        return ()
    size = total / parts
    task = builder.task(
        label,
        resource,
        duration=builder.ticks(latency_s),
        bytes=size,
        count=parts,
        energy_J={resource: joules * size},
        after=after,
    )
    return (task,)


def traffic(op: MappedOp, parameters: CpuParameters) -> tuple[float, float]:
    """DRAM bytes read and written: operands that are not in the shared cache, and results that do not stay there.

    A cache that is walked through in order keeps nothing once the operation touches more than it holds.
    """
    fits = op.work.bytes <= parameters.cache.l3
    resident = op.resident or (False,) * len(op.work.reads)
    read = sum(operand.bytes for operand, here in zip(op.work.reads, resident, strict=True) if not (here and fits))
    return float(read), 0.0 if op.keep_output and fits else float(op.work.write_bytes)
