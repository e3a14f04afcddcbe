"""What the microcontroller model is held against: MLPerf Tiny results on the NUCLEO-L4R5ZI board.

Latency has no calibrated parameter. Rows whose kernels are CMSIS-NN's are what the model describes; X-CUBE-AI's are
another library on the same core, of which the newest has faster depthwise kernels than the model's.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

from codesign.hardware import Device, MappedOp
from codesign.registry import device
from codesign.simulation import run_ops
from codesign.validation import Bound, Comparison
from hwmodels.mlperf_tiny import networks

DEVICE = "stm32l4r5"
CALIBRATION = ("ic", "kws")
"""Networks whose measured power the core's active current is fitted on; the others only validate."""

BOUNDS = [
    Bound("mcu latency", "worst_ratio", 2.0),
    Bound("mcu latency", "mean", 0.3),
    Bound("mcu energy", "worst_ratio", 2.0),
    Bound("mcu other kernels", "mean", 0.5),
]


@dataclass(frozen=True, slots=True)
class Measured:
    """One submitted result; `power_W` over the run in which energy was measured."""

    system: str
    kernels: str
    network: str
    latency_s: float
    energy_J: float
    power_W: float


def comparisons() -> Iterator[Comparison]:
    """Latency and energy of an inference, against each submitted result."""
    board = device(DEVICE)
    for row in measurements():
        latency, energy = predicted(board, row.network)
        source = f"MLPerf Tiny {row.system}"
        name = f"{row.network}, {row.system}"
        if row.kernels != "CMSIS-NN":
            yield Comparison("mcu other kernels", name, "s", latency, row.latency_s, source)
            continue
        yield Comparison("mcu latency", name, "s", latency, row.latency_s, source)
        role = "calibration" if row.network in CALIBRATION else "validation"
        yield Comparison("mcu energy", f"{name} ({role})", "J", energy, row.energy_J, source)


def predicted(board: Device, network: str) -> tuple[float, float]:
    """Seconds and joules of one inference."""
    found = run_ops(board, [MappedOp(layer.kind, layer.work) for layer in networks()[network]])
    energy = float((found.program.energy_J * found.program.count[:, None]).sum())
    return found.end_s, energy + board.static_power_W * found.end_s


@cache
def measurements() -> tuple[Measured, ...]:
    text = (resources.files("hwmodels.mcu") / "data" / "mlperf_tiny_l4r5.csv").read_text(encoding="utf-8")
    return tuple(
        Measured(
            system=f"{row['round']} {row['submitter']} {row['library']}",
            kernels=row["kernels"],
            network=row["network"],
            latency_s=float(row["latency_ms"]) * 1e-3,
            energy_J=float(row["energy_uJ"]) * 1e-6,
            power_W=float(row["energy_uJ"]) * 1e-3 / float(row["energy_mode_latency_ms"]),
        )
        for row in csv.DictReader(text.splitlines())
    )
