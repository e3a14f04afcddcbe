"""The primitive tasks that every mapping is made of: what goes through pins, banks, ASIC and host, and what it costs.

Channels work alike, so `banks` and `channel_io` stand for those of the busiest channel; energy is that of all channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from codesign.program import ProgramBuilder, Resource
from hwmodels.pim.arithmetic import Arithmetic
from hwmodels.pim.parameters import PimParameters
from hwmodels.pim.product import Product, activate_s, open_s, step_s

TICK_S = 1e-12
"""Programs count picoseconds, so that any timing in nanoseconds is whole."""
BANKS, PINS, ADDERS, MULTIPLIERS, LINK, HOST = (
    "banks", "channel_io", "asic_adders", "asic_multipliers", "host_link", "host",
)  # fmt: skip


def resources(parameters: PimParameters) -> tuple[Resource, ...]:
    return (
        Resource(BANKS),
        Resource(PINS, bytes_per_tick=parameters.dram.pin_bandwidth * TICK_S),
        Resource(ADDERS),
        Resource(MULTIPLIERS),
        Resource(LINK, bytes_per_tick=parameters.host.link_bandwidth * TICK_S),
        Resource(HOST),
    )


def ticks(seconds: float) -> int:
    """Whole picoseconds, rounded up past what floating point may have added."""
    return max(1, int(-(-(seconds - 1e-18) // TICK_S)))


@dataclass(frozen=True, slots=True)
class Stage:
    """Tasks that begin a piece of an operation and tasks whose end ends it."""

    first: tuple[int, ...]
    last: tuple[int, ...]


class Writer:
    """Adds the device's primitive tasks to a builder."""

    def __init__(self, parameters: PimParameters, builder: ProgramBuilder) -> None:
        self.parameters = parameters
        self.builder = builder
        self._counts: dict[int, int] = {}
        self._multiply = -1  # the task that last multiplies in the banks

    def _task(
        self,
        label: str,
        resource: str,
        *,
        duration: int = 0,
        bytes: float = 0.0,
        count: int = 1,
        energy_J: Mapping[str, float] | None = None,
        after: tuple[int, ...] = (),
    ) -> int:
        """A task of the builder whose count is remembered for linking."""
        index = self.builder.task(
            label, resource, duration=duration, bytes=bytes, count=count, energy_J=energy_J, after=after
        )
        self._counts[index] = count
        return index

    def link(self, source: int, target: int) -> None:
        """`target` follows `source` piece by piece, however many pieces each has."""
        have, want = self._counts[source], self._counts[target]
        if want >= have:
            self.builder.each(source, target, stride=want // have)
        else:
            self.builder.every(source, target, -(-have // want))

    def follow(self, before: Stage, after: Stage) -> Stage:
        """Link the end of one stage to the beginning of the next, piece by piece."""
        for source in before.last:
            for target in after.first:
                self.link(source, target)
        return Stage(before.first or after.first, after.last or before.last)

    def transfer(self, label: str, total_bytes: float, *, pieces: int = 1) -> Stage:
        """Move bytes that are spread evenly over the channels between banks and ASIC. Refresh stops the banks, not the
        pins, so the bytes count as more by its share of time."""
        if total_bytes <= 0:
            return Stage((), ())
        dram = self.parameters.dram
        channel = total_bytes / dram.channels / pieces
        energy = self._array_energy(total_bytes / pieces, rows=total_bytes / pieces / dram.row_bytes)
        task = self._task(
            label, PINS, bytes=channel / dram.available, duration=ticks(dram.tRCD + dram.tCL), count=pieces,
            energy_J=energy,
        )  # fmt: skip
        return Stage((task,), (task,))

    def lookups(self, label: str, count: int, run_bytes: int) -> Stage:
        """Read or write runs at addresses found in data: each opens a row of one bank; channels share the runs."""
        dram = self.parameters.dram
        run = -(-max(1, run_bytes) // dram.column_bytes) * dram.column_bytes
        in_channel = -(-max(1, count) // dram.channels)
        energy = self._array_energy(run * count / in_channel, rows=count / in_channel * -(-run // dram.row_bytes))
        task = self._task(
            label, PINS, bytes=run / dram.available, duration=ticks(dram.tRP + dram.tRCD + dram.tCL),
            count=in_channel, energy_J=energy,
        )  # fmt: skip
        return Stage((task,), (task,))

    def write_rows(self, label: str, rounds: int, columns: int, *, channels: int | None = None) -> Stage:
        """Write `columns` columns of each of `rounds` sets of rows, one set open at a time, in each channel."""
        dram = self.parameters.dram
        active = dram.channels if channels is None else min(channels, dram.channels)
        burst = max(dram.tCCD, dram.column_bytes / dram.pin_bandwidth)
        seconds = activate_s(self.parameters) + dram.tCWL + columns * burst + dram.tWR + dram.tRP
        written = columns * dram.column_bytes
        energy = self._array_energy(written * active, rows=min(columns, dram.banks) * active)
        banks = self._task(label, BANKS, duration=ticks(seconds / dram.available), count=rounds, energy_J=energy)
        pins = self._task(label, PINS, bytes=written, count=rounds)
        return Stage((banks, pins), (banks, pins))

    def _array_energy(self, moved: float, rows: float) -> dict[str, float]:
        """Joules of bytes moved between cells and ASIC, and of the rows opened for them."""
        energy, bits = self.parameters.energy, 8 * moved
        return {
            "dram_activate": rows * self.parameters.activate_J,
            "dram_read": bits * (energy.column_bit + energy.datapath_bit),
            "io": bits * energy.pin_bit,
        }

    def products(self, products: list[Product]) -> Stage:
        """Products one after the other: a bank has one open row, so that they cannot alternate for nothing."""
        stages = []
        for product in products:
            before = self._multiply
            stages.append(self.product(product))
            if len(stages) > 1:
                self.builder.barrier(before, stages[-1].first[1])
        return Stage(
            tuple(task for stage in stages for task in stage.first),
            tuple(task for stage in stages for task in stage.last),
        )

    def product(self, product: Product) -> Stage:
        """Matrix-vector products in the banks: vectors in, one firing a step, results out, partial sums added.

        The vector buffer lets the next vector come in while one is used; results leave while the next row is worked on.
        """
        parameters, builder = self.parameters, self.builder
        energy, dram, steps = parameters.energy, parameters.dram, product.steps_a_pass
        vector = self._task(
            "input vector", PINS, bytes=product.vector_bytes, count=product.passes,
            energy_J={"io": 8 * product.all_vector_bytes * energy.pin_bit},
        )  # fmt: skip
        opens = min(product.openings, product.steps)
        rows = product.openings / opens
        opened = self._task(
            "open row", BANKS, duration=ticks(rows * open_s(parameters)), count=opens,
            energy_J={"dram_activate": rows * product.all_banks * parameters.activate_J},
        )  # fmt: skip
        column_bits = 8 * dram.column_bytes * product.all_macs / parameters.mac.width
        multiply = self._task(
            "multiply in banks", BANKS, duration=ticks(step_s(parameters, product)), count=product.steps,
            energy_J={
                "dram_read": column_bits / steps * energy.column_bit,
                "mac": product.all_macs / steps * energy.mac,
            },
        )  # fmt: skip
        self._multiply = multiply
        builder.each(vector, multiply, stride=steps)
        builder.buffer(vector, multiply, parameters.mac.buffer_slots, stride=steps)
        builder.each(opened, multiply, stride=product.steps // opens)
        builder.buffer(opened, multiply, slots=1, stride=product.steps // opens)
        result_bits = 8 * product.all_result_bytes / steps
        result = self._task(
            "results", PINS, bytes=product.result_bytes / steps, duration=ticks(dram.tCL), count=product.steps,
            energy_J={"io": result_bits * energy.pin_bit, "dram_read": result_bits * energy.datapath_bit},
        )  # fmt: skip
        builder.each(multiply, result)
        last = result
        if product.partial_sums:
            additions = product.partial_sums / steps
            last = self._task(
                "partial sums", ADDERS, duration=ticks(additions / (parameters.asic.adders * parameters.asic.clock)),
                count=product.steps, energy_J={"asic": additions * energy.asic_operation},
            )  # fmt: skip
            builder.each(result, last)
        return Stage((vector, opened), (last,))

    def compute(self, label: str, work: Arithmetic, *, pieces: int = 1) -> Stage:
        """Arithmetic in the ASIC: adders and multipliers work beside each other; then the pipeline drains."""
        asic, energy = self.parameters.asic, self.parameters.energy.asic_operation
        parts = [
            self._task(
                label, unit, duration=ticks(count / pieces / (width * asic.clock)), count=pieces,
                energy_J={"asic": count / pieces * energy},
            )
            for unit, width, count in (
                (MULTIPLIERS, asic.multipliers, work.multiplications),
                (ADDERS, asic.adders, work.additions),
            )
        ]  # fmt: skip
        drain = self._task(f"{label}: last results", ADDERS, duration=ticks(work.passes * self.drain_s), count=pieces)
        for part in parts:
            self.link(part, drain)
        return Stage(tuple(parts), (drain,))

    @property
    def drain_s(self) -> float:
        return self.parameters.asic.pipeline_cycles / self.parameters.asic.clock

    def host(self, label: str, sent: float, operations: float, returned: float) -> Stage:
        """Send bytes to the host, compute there, and send bytes back."""
        host, energy = self.parameters.host, self.parameters.energy
        latency = ticks(host.link_latency)
        send = self._task(
            f"{label}: to the host", LINK, bytes=sent, duration=latency,
            energy_J={"io": 8 * sent * energy.host_link_bit},
        )  # fmt: skip
        run = self._task(
            label, HOST, duration=ticks(operations / host.rate), energy_J={"host": operations * energy.host_operation},
            after=(send,),
        )  # fmt: skip
        back = self._task(
            f"{label}: from the host", LINK, bytes=returned, duration=latency, after=(run,),
            energy_J={"io": 8 * returned * energy.host_link_bit},
        )  # fmt: skip
        return Stage((send,), (back,))
