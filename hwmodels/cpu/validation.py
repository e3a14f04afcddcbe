"""The CPU model beside measurements: timm's published batch-1 inference times on an Intel Core i9-10940X.

The figures are of the pytorch-image-models project's results for that CPU: float32, one image of 224 x 224. Three
networks served to fit two parameters; the other three check them.
"""

from __future__ import annotations

import csv
from pathlib import Path

from codesign.validation import Bound, Comparison

DEVICE = "i9-10940x"
DATA = Path(__file__).parent / "data" / "i9_10940x_models.csv"

BOUNDS = (Bound("whole models", "worst_ratio", 2.0),)


def measured(use: str) -> list[dict[str, str]]:
    """Rows of the data whose `use` is `calibration` or `validation`."""
    with DATA.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["use"] == use]


def comparisons() -> list[Comparison]:
    """Predicted and measured latency of the networks that nothing was fitted on."""
    from codesign.model import load
    from codesign.registry import device
    from codesign.simulation import simulate

    found = device(DEVICE)
    return [
        Comparison(
            group="whole models",
            name=row["workload"],
            unit="s",
            predicted=simulate(load(f"zoo:{row['workload']}"), found).latency_s,
            reference=float(row["latency_ms"]) * 1e-3,
            source=f"{row['source']}, batch 1, float32 (pytorch-image-models' results for i9-10940X)",
        )
        for row in measured("validation")
    ]
