"""A network to 8 bits by onnxruntime's static quantiser, as its documentation advises: prepared, then QDQ, weights by
channel. Argument {"model", "to", "inputs": [.npz, ...], "activations": "QUInt8" or "QInt8"}."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process


class Stored(quantization.CalibrationDataReader):
    """Inputs from files."""

    def __init__(self, paths: list[str]) -> None:
        self._inputs = iter([dict(np.load(path)) for path in paths])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._inputs, None)


def main() -> None:
    task = json.loads(sys.argv[1])
    logging.disable(logging.WARNING)
    prepared = Path(task["to"]).with_suffix(".prepared.onnx")
    quant_pre_process(task["model"], str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(prepared), task["to"], Stored(task["inputs"]), quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType[task["activations"]], weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )  # fmt: skip
    print(json.dumps({"seconds": 0}))


main()
