"""Fits the core's active current to the power measured on the calibration networks; latency has nothing to fit."""

from __future__ import annotations

import statistics

from codesign.registry import device
from hwmodels.mcu.device import Mcu
from hwmodels.mcu.validation import CALIBRATION, DEVICE, measurements, predicted


def calibrate() -> dict[str, float]:
    """Amperes a hertz that give the mean power of the CMSIS-NN results; the model's other consumers stay as stated."""
    board = device(DEVICE)
    assert isinstance(board, Mcu)
    energy, clock = board.parameters.energy, board.parameters.core.clock
    core_power = energy.supply * energy.active_current * clock
    missing = []
    for row in measurements():
        if row.kernels == "CMSIS-NN" and row.network in CALIBRATION:
            latency, joules = predicted(board, row.network)
            missing.append(row.power_W - joules / latency)
    return {"energy.active_current": (core_power + statistics.fmean(missing)) / (energy.supply * clock)}
