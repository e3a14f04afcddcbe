"""A kernel: what it needs of each part of the GPU, how long that takes, and the tasks it becomes.

A kernel starts, waits for what depends on each other, and meanwhile streams: its SMs compute while its operands arrive
through L2 and, where they miss, DRAM. The slowest of these counts. Kernels of a stream follow each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from codesign.hardware import Tasks
from codesign.program import ProgramBuilder, Resource
from hwmodels.gpu.parameters import GpuParameters

TICK_S = 1e-12
LAUNCHES_IN_FLIGHT = 8
"""Kernels of a replayed graph whose launch latencies overlap."""

EXCURSION = 1.06
"""What the board draws beside its limit on average: its regulator lags behind (745 W of 700 W in measured networks)."""

REACTION_S = 1e-4
"""A call of an operator from which repeating it a hundred times, as measurements do, outlasts the power regulator."""

LARGEST_WAVES = 4
"""Waves of blocks that a timeline shows; more are drawn as that many longer ones."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes a kernel moves in all: through L2, and between L2 and DRAM."""

    l2_read: float
    l2_write: float
    dram_read: float
    dram_write: float


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel. `compute_s` is how long the SMs are busy with all its blocks; `latency_s` what its dependent steps
    add before and after; `scattered` the bytes of sectors of which one element each is used. `compute_J` is the energy
    of the arithmetic, charged to `component`."""

    label: str
    compute_s: float
    traffic: Traffic
    latency_s: float = 0.0
    scattered: float = 0.0
    compute_J: float = 0.0
    component: str = "vector"
    blocks: int = 0

    def after(self, seconds: float) -> Kernel:
        """The kernel with so much more latency."""
        return replace(self, latency_s=self.latency_s + seconds)

    def at_least(self, seconds: float) -> Kernel:
        """The kernel whose blocks take at least so long, whatever their throughput: a chain of dependent steps."""
        return replace(self, compute_s=max(self.compute_s, seconds))


@dataclass(frozen=True, slots=True)
class Setting:
    """How kernels run here: after another kernel (else after the same), and long enough for the power limit to bind."""

    switched: bool = True
    sustained: bool = True


def resources(parameters: GpuParameters) -> tuple[Resource, ...]:
    """SMs, L2 in both directions, DRAM, links, the launch queue and the block scheduler."""
    l2 = parameters.l2
    return (
        Resource("sm", servers=parameters.sm.count),
        Resource("l2_read", bytes_per_tick=l2.bandwidth * TICK_S),
        Resource("l2_write", bytes_per_tick=l2.write_bandwidth * TICK_S),
        Resource("dram", bytes_per_tick=parameters.dram.bandwidth * parameters.achieved.dram * TICK_S),
        Resource("link", bytes_per_tick=parameters.link.bandwidth * TICK_S),
        Resource("launch", servers=1 if parameters.runtime == "eager" else LAUNCHES_IN_FLIGHT),
        Resource("dispatch"),
    )


def dynamic_power_W(parameters: GpuParameters) -> float:
    """What a kernel may draw on top of static power before the board lowers the clock."""
    return max(EXCURSION * parameters.power_limit - parameters.energy.static, parameters.power_limit / 10)


def dynamic_J(kernel: Kernel, parameters: GpuParameters) -> float:
    """Energy of a kernel's arithmetic and bytes."""
    energy, traffic = parameters.energy, kernel.traffic
    return (
        kernel.compute_J
        + energy.l2 * (traffic.l2_read + traffic.l2_write)
        + energy.dram * (traffic.dram_read + traffic.dram_write)
    )


def streaming_s(kernel: Kernel, parameters: GpuParameters) -> float:
    """Seconds of the slowest part at the full clock."""
    l2, traffic = parameters.l2, kernel.traffic
    return max(
        kernel.compute_s,
        traffic.l2_read / l2.bandwidth,
        traffic.l2_write / l2.write_bandwidth,
        kernel.scattered / l2.scattered_bandwidth,
        (traffic.dram_read + traffic.dram_write) / (parameters.dram.bandwidth * parameters.achieved.dram),
    )


def busy_s(kernel: Kernel, parameters: GpuParameters, setting: Setting) -> float:
    """Seconds that the SMs work on a kernel: at the clock that keeps it within the power limit when it lasts. A short
    operator by itself is over before the regulator reacts."""
    short = not setting.switched and streaming_s(kernel, parameters) < REACTION_S
    if short or not setting.sustained:
        return kernel.compute_s
    return max(kernel.compute_s, dynamic_J(kernel, parameters) / dynamic_power_W(parameters))


def seconds(kernel: Kernel, parameters: GpuParameters, setting: Setting) -> float:
    """From the end of the kernel before to the end of this one: what the tasks below take."""
    start_s = parameters.launch.start + (parameters.launch.switch if setting.switched else 0.0)
    return start_s + kernel.latency_s + max(streaming_s(kernel, parameters), busy_s(kernel, parameters, setting))


def write_tasks(
    kernels: Sequence[Kernel], parameters: GpuParameters, builder: ProgramBuilder, setting: Setting
) -> Tasks:
    """Write kernels that follow each other in a stream. Their launches wait for nothing but each other."""
    launches: list[int] = []
    last: tuple[int, ...] = ()
    entry: int | None = None
    launch_s = parameters.launch.host if parameters.runtime == "eager" else parameters.launch.latency
    for kernel in kernels:
        launch = builder.task(
            "launch", "launch", duration=builder.ticks(launch_s), energy_J={"launch": parameters.energy.launch}
        )
        start_s = parameters.launch.start + (parameters.launch.switch if setting.switched else 0.0)
        start = builder.task(
            f"start {kernel.label}",
            "dispatch",
            duration=builder.ticks(start_s + kernel.latency_s),
            after=(launch, *last),
        )
        last = _write_parts(kernel, parameters, builder, start, setting)
        launches.append(launch)
        entry = start if entry is None else entry
    assert entry is not None
    return Tasks(entry=(entry,), exit=last, ahead=tuple(launches))


def _write_parts(
    kernel: Kernel, parameters: GpuParameters, builder: ProgramBuilder, start: int, setting: Setting
) -> tuple[int, ...]:
    """The blocks of one kernel and its transfers, side by side; the last of their ends is the kernel's."""
    sms, energy, traffic = parameters.sm.count, parameters.energy, kernel.traffic
    busy = busy_s(kernel, parameters, setting)
    scattered_s = kernel.scattered / parameters.l2.scattered_bandwidth
    waves = max(1, min(LARGEST_WAVES, -(-kernel.blocks // sms)))
    count = max(1, min(kernel.blocks or sms, waves * sms))
    parts = [
        builder.task(
            kernel.label,
            "sm",
            duration=max(1, builder.ticks(max(busy, scattered_s) / waves)),
            count=count,
            energy_J={kernel.component: kernel.compute_J / count},
            after=(start,),
        )
    ]
    moves = (
        ("read DRAM", "dram", traffic.dram_read, energy.dram),
        ("write DRAM", "dram", traffic.dram_write, energy.dram),
        ("read L2", "l2_read", traffic.l2_read, energy.l2),
        ("write L2", "l2_write", traffic.l2_write, energy.l2),
    )
    for label, resource, size, joules in moves:
        if size > 0:
            component = {resource.partition("_")[0]: joules * size}
            parts.append(builder.task(label, resource, bytes=size, energy_J=component, after=(start,)))
    return tuple(parts)
