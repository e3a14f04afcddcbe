"""A kernel: a grid of equal thread blocks with its memory traffic, and the tasks it becomes.

Blocks run on the SMs in waves. The operands of a wave arrive in slices through L2 and, where they miss, DRAM; blocks
start when the wave's first slice is there, the wave's results are stored when its blocks and all its slices are done,
and the operands of the next few waves may be fetched meanwhile. So each kernel costs the largest of its compute, L2 and
DRAM times, plus the latencies that nothing hides: launch, first access, last store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codesign.hardware import Tasks
from codesign.program import ProgramBuilder, Resource
from hwmodels.gpu.parameters import GpuParameters

TICK_S = 1e-12
SLICES = 16
"""Slices in which the operands of a wave arrive: compute overlaps all but the first."""

LOOK_AHEAD = 4
"""Waves whose operands may be under way beyond the one that computes: what an SM's registers and shared memory hold."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes a kernel moves in all: through L2, and between L2 and DRAM."""

    l2_read: float
    l2_write: float
    dram_read: float
    dram_write: float


@dataclass(frozen=True, slots=True)
class Kernel:
    """`blocks` thread blocks of `block_s` seconds each on an SM, one block an SM at a time.

    `latency_s` is what dependent steps inside a block add once: passes over a row, serial recurrences.
    `compute_J` is the arithmetic's energy for the whole kernel, charged to `component`. A kernel that `streams` has
    blocks with operands of their own, which end as these arrive; in others the blocks of a wave share theirs.
    """

    label: str
    blocks: int
    block_s: float
    traffic: Traffic
    latency_s: float = 0.0
    compute_J: float = 0.0
    component: str = "vector"
    streams: bool = False


def resources(parameters: GpuParameters) -> tuple[Resource, ...]:
    """SMs, the crossbar to L2 (a network in each direction), DRAM, links, the launch queue and the block scheduler."""
    dram_rate = parameters.dram.bandwidth * parameters.achieved.dram
    return (
        Resource("sm", servers=parameters.sm.count),
        Resource("l2_read", bytes_per_tick=parameters.l2.bandwidth * TICK_S),
        Resource("l2_write", bytes_per_tick=parameters.l2.bandwidth * TICK_S),
        Resource("dram", bytes_per_tick=dram_rate * TICK_S),
        Resource("link", bytes_per_tick=parameters.link.bandwidth * TICK_S),
        Resource("launch", servers=parameters.launch.in_flight),
        Resource("dispatch"),
    )


def write_tasks(kernels: Sequence[Kernel], parameters: GpuParameters, builder: ProgramBuilder) -> Tasks:
    """Write kernels that follow each other in a stream. Their launches wait for nothing and may come early."""
    launches: list[int] = []
    last: tuple[int, ...] = ()
    entry: int | None = None
    for kernel in kernels:
        launch = builder.task(
            "launch",
            "launch",
            duration=builder.ticks(parameters.launch.latency),
            energy_J={"launch": parameters.energy.launch},
        )
        start_s = parameters.launch.start + kernel.latency_s
        start = builder.task(
            f"start {kernel.label}", "dispatch", duration=builder.ticks(start_s), after=(launch, *last)
        )
        last = _write_grid(kernel, parameters, builder, start)
        launches.append(launch)
        entry = start if entry is None else entry
    assert entry is not None
    return Tasks(entry=(entry,), exit=last, early=tuple(launches))


def dynamic_power_W(parameters: GpuParameters) -> float:
    """What the SMs may draw on top of static power before the board lowers their clock. The DRAM has a clock of its
    own: a kernel bound by it leaves the SMs slack to run slower and cooler in."""
    return max(parameters.power_limit - parameters.energy.static, parameters.power_limit / 10)


def _sustained_block_s(kernel: Kernel, parameters: GpuParameters) -> float:
    """Seconds of a block at the clock that keeps the kernel within the power limit."""
    waves = -(-kernel.blocks // parameters.sm.count)
    return max(kernel.block_s, kernel.compute_J / dynamic_power_W(parameters) / waves)


def _write_grid(kernel: Kernel, parameters: GpuParameters, builder: ProgramBuilder, start: int) -> tuple[int, ...]:
    """The blocks of one kernel and their transfers; returns the stores, whose end is the kernel's."""
    sms, energy, traffic = parameters.sm.count, parameters.energy, kernel.traffic
    waves = -(-kernel.blocks // sms)
    slices = waves * SLICES
    # Blocks that end together, and slices of operands that they need in all and before they start.
    group, needed = (-(-sms // SLICES), 1) if kernel.streams else (sms, SLICES)
    stores_count = slices // needed
    fetches = _transfers(
        builder,
        ("fetch from DRAM", "dram", traffic.dram_read, slices, parameters.dram.latency, energy.dram),
        ("load through L2", "l2_read", traffic.l2_read, slices, parameters.l2.latency, energy.l2),
    )
    compute = builder.task(
        kernel.label,
        "sm",
        duration=max(1, builder.ticks(_sustained_block_s(kernel, parameters))),
        count=kernel.blocks,
        energy_J={kernel.component: kernel.compute_J / kernel.blocks},
        after=(start,),
    )
    stores = _transfers(
        builder,
        ("store to L2", "l2_write", traffic.l2_write, stores_count, 0.0, energy.l2),
        ("write back to DRAM", "dram", traffic.dram_write, stores_count, 0.0, energy.dram),
    )
    for before, fetch in zip((start, *fetches), fetches, strict=False):
        builder.barrier(start, fetch)
        if before != start:
            builder.each(before, fetch)
    for fetch in fetches:
        builder.edge(fetch, compute, base=1, step=needed, stride=group)
        for store in stores:
            builder.every(fetch, store, needed)
            builder.edge(store, fetch, base=-LOOK_AHEAD * SLICES // needed, step=1, stride=needed)
    for store in stores:
        builder.every(compute, store, group)
    return stores or (compute, *fetches)


def _transfers(builder: ProgramBuilder, *moves: tuple[str, str, float, int, float, float]) -> tuple[int, ...]:
    """A task for each (label, resource, bytes in all, firings, latency in s, J a byte) that moves anything."""
    return tuple(
        builder.task(
            label,
            resource,
            duration=builder.ticks(latency_s),
            bytes=total / firings,
            count=firings,
            energy_J={resource.partition("_")[0]: joules * total / firings},
        )
        for label, resource, total, firings, latency_s, joules in moves
        if total > 0
    )
