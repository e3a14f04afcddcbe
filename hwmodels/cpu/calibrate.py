"""Fit what no data sheet states, on the calibration networks: `python -m hwmodels.cpu.calibrate`.

Two parameters: the fraction of the SIMD rate that matrix products reach, and the framework's time for each operator.
"""

from __future__ import annotations

import math
from typing import Any

from hwmodels.cpu.validation import DEVICE, measured

FITTED = ("core.achieved", "framework.call")


def calibrate() -> dict[str, float]:
    """The fitted parameters by name: least squares of log(predicted / measured) over the calibration networks."""
    from scipy.optimize import least_squares

    from codesign.model import load
    from codesign.registry import device
    from codesign.simulation import prepare, report

    rows = measured("calibration")
    graphs = [prepare(load(f"zoo:{row['workload']}"), "float32") for row in rows]

    def log_errors(logarithms: Any) -> list[float]:
        values = dict(zip(FITTED, (math.exp(value) for value in logarithms), strict=True))
        found = device(DEVICE, **values)
        return [
            math.log(report(graph, found).latency_s / (float(row["latency_ms"]) * 1e-3))
            for graph, row in zip(graphs, rows, strict=True)
        ]

    limits = ([math.log(0.05), math.log(1e-6)], [0.0, math.log(1e-3)])
    fit = least_squares(log_errors, [math.log(0.5), math.log(20e-6)], bounds=limits, diff_step=1e-3, xtol=1e-6)
    return dict(zip(FITTED, (float(math.exp(value)) for value in fit.x), strict=True))


def main() -> None:
    for name, value in calibrate().items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
