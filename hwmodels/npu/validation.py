"""What the NPU model is held against: Vela's cycle estimates for Ethos-U65, and SCALE-Sim's systolic cycle counts."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import numpy as np

from codesign.hardware import MappedOp
from codesign.registry import device
from codesign.simulation import run_ops
from codesign.validation import Bound, Comparison
from hwmodels.mlperf_tiny import Layer, networks
from hwmodels.npu.array import Product, Tiles, group_cycles
from hwmodels.npu.device import Npu
from hwmodels.npu.parameters import Array, Dataflow

DEVICE = "ethos-u65-256"
CALIBRATION = ("ic", "kws")
"""Networks whose layers the control cycles are fitted on; the others only validate."""
VELA = "Vela 5.2.0, Ethos-U65-256, Ethos_U65_Client_Server, Dedicated_Sram 384 KB: estimated cycles of each layer"
SCALE_SIM = "SCALE-Sim 3.0.0, total cycles of random matrix products without stalls (index of the last cycle)"

BOUNDS = [
    Bound("npu networks", "worst_ratio", 1.2),
    Bound("npu layers", "median", 0.2),
    Bound("npu systolic", "worst_ratio", 1.0),
]


def comparisons() -> Iterator[Comparison]:
    """Whole networks, their layers, and systolic products, in cycles."""
    reference = vela_cycles()
    npu = device_with({})
    for name, cycles in predicted_cycles(npu).items():
        role = "calibration" if name in CALIBRATION else "validation"
        expected = [cycle for _, cycle in reference[name]]
        yield Comparison("npu networks", f"{name} ({role})", "cycles", sum(cycles), sum(expected), VELA)
        for index, (predicted, (layer, wanted)) in enumerate(zip(cycles, reference[name], strict=True)):
            yield Comparison("npu layers", f"{name}[{index}] {layer}", "cycles", predicted, wanted, VELA)
    yield from _systolic()


def device_with(overrides: dict[str, Any]) -> Npu:
    """The validated device with parameters replaced."""
    built = device(DEVICE, **overrides)
    assert isinstance(built, Npu)
    return built


def predicted_cycles(npu: Npu, names: tuple[str, ...] = ("ic", "kws", "vww", "ad")) -> dict[str, list[float]]:
    """Cycles of each layer by network."""
    return {name: np.diff(run_ops(npu, mapped(networks()[name])).op_end, prepend=0).tolist() for name in names}


def mapped(layers: Sequence[Layer]) -> list[MappedOp]:
    """The layers with their feature maps kept on chip; the network's input lies in DRAM."""
    return [
        MappedOp(
            layer.kind,
            layer.work,
            resident=tuple(position > 0 and operand.role != "weight" for operand in layer.work.reads),
            keep_output=True,
        )
        for position, layer in enumerate(layers)
    ]


def vela_cycles() -> dict[str, list[tuple[str, float]]]:
    """Layer kind and estimated cycles by network; the commands of a softmax are added up."""
    found: dict[str, list[tuple[str, float]]] = {}
    for row in _rows("vela_ethos_u65_256.csv"):
        found.setdefault(row["network"], []).append((row["layer"], float(row["cycles"])))
    return found


def _systolic() -> Iterator[Comparison]:
    dataflows: dict[str, Dataflow] = {"os": "output_stationary", "ws": "weight_stationary", "is": "input_stationary"}
    for row in _rows("scalesim_gemm.csv"):
        m, n, k = int(row["m"]), int(row["n"]), int(row["k"])
        array = Array(rows=int(row["rows"]), columns=int(row["columns"]), dataflow=dataflows[row["dataflow"]])
        shape = Product(1, 1, m, n, 1, 1, 1, 1, k, False, 8)
        cycles = int(group_cycles(array, shape, Tiles(1, m, n)))
        name = f"{row['dataflow']} {array.rows}x{array.columns}: {m}x{k} by {k}x{n}"
        yield Comparison("npu systolic", name, "cycles", cycles, float(row["cycles"]) + 1, SCALE_SIM)


def _rows(name: str) -> list[dict[str, str]]:
    text = (resources.files("hwmodels.npu") / "data" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
