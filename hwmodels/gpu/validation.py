"""The GPU model beside measurements on an H200 that nothing was fitted on.

Single operators: the 40% of the rows that calibration does not see, cold and warm. Whole networks: captured graphs of
eager kernels and of compiled (fused) kernels, in float16; the model fuses elementwise operations into their producers
and should lie near the second.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

from codesign.validation import Bound, Comparison
from hwmodels.gpu.measurements import DATA, DEVICE, operators

SOURCE = "measured on one NVIDIA H200 SXM, PyTorch 2.11, CUDA 13.0"

BOUNDS = (
    Bound("operators cold", "median", 0.25),
    Bound("operators warm", "median", 0.30),
    Bound("energy", "median", 0.25),
)

NETWORKS = {
    "resnet50": "resnet50",
    "mobilenetv2_100": "mobilenetv2",
    "vit_tiny_patch16_224": "vit_tiny",
    "vit_base_patch16_224": "vit_base",
    "poolformer_s12": "poolformer_s12",
}
"""Our workload of each measured image network; others differ from ours in more than a name."""


def comparisons() -> list[Comparison]:
    """Single operators by kind and type, their energies, and whole networks."""
    return [*_operators(), *_energies(), *_networks()]


def _operators() -> Iterator[Comparison]:
    from codesign.registry import device
    from codesign.study.operators import simulate_operators

    found = device(DEVICE)
    for cache in ("cold", "warm"):
        chosen = [row for row in operators("validation") if row.cache == cache]
        results = simulate_operators(found, [row.row for row in chosen], cache)  # type: ignore[arg-type]
        for result, measured in zip(results, chosen, strict=True):
            params = " ".join(f"{key}={int(value)}" for key, value in measured.row.params)
            name = f"{measured.row.op} {measured.row.dtype} {params}"
            yield Comparison(f"operators {cache}", name, "s", result["latency_s"], measured.seconds, SOURCE)


def _energies() -> Iterator[Comparison]:
    """Energies are fitted on these rows: this shows how well so few terms can say them, not a prediction."""
    from codesign.registry import device
    from codesign.study.operators import simulate_operators
    from hwmodels.gpu.measurements import energies

    rows = energies()
    results = simulate_operators(device(DEVICE), [row for row, _, _ in rows], "warm")
    for result, (row, _, joules) in zip(results, rows, strict=True):
        name = f"{row.op} {row.dtype} {dict(row.params)}"
        yield Comparison("energy", name, "J", result["energy_J"], joules, SOURCE + " (fitted on)")


def _networks() -> Iterator[Comparison]:
    from codesign.model import load
    from codesign.registry import device
    from codesign.simulation import simulate

    found = device(DEVICE)
    with (DATA / "h200_models.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] in NETWORKS and row["dtype"] == "fp16"]
    for row in rows:
        graph = load(f"zoo:{NETWORKS[row['model']]}", batch=int(row["batch"]))
        seconds = simulate(graph, found, "float16").latency_s
        name = f"{row['model']} batch {row['batch']}"
        yield Comparison(f"networks {row['mode']}", name, "s", seconds, float(row["measured_us"]) * 1e-6, SOURCE)
