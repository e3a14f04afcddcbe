"""Fits the NPU's control cycles to the layers of the calibration networks; `codesign validate` uses the others."""

from __future__ import annotations

from itertools import product as every_pair

import numpy as np

from hwmodels.npu.validation import CALIBRATION, device_with, predicted_cycles, vela_cycles


def calibrate() -> dict[str, int]:
    """The control cycles a command and a tile that fit the layers of the calibration networks best: least mean
    absolute logarithm of predicted over estimated, over a grid."""
    reference = vela_cycles()

    def loss(command: int, tile: int) -> float:
        npu = device_with({"control.command_cycles": command, "control.tile_cycles": tile})
        predicted = predicted_cycles(npu, CALIBRATION)
        ratios = [
            np.log(cycles / wanted)
            for name in CALIBRATION
            for cycles, (_, wanted) in zip(predicted[name], reference[name], strict=True)
        ]
        return float(np.mean(np.abs(ratios)))

    command, tile = min(every_pair(range(0, 81, 8), range(0, 161, 16)), key=lambda pair: loss(*pair))
    return {"control.command_cycles": command, "control.tile_cycles": tile}
