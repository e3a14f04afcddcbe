"""Writes what onnxruntime computes for large bytes on the processor that runs this: see README.md."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

HERE = Path(__file__).parent
RANDOM = np.random.default_rng(0)


def large(*shape: int, signed: bool = False) -> Any:
    values = (-128, 127, 100, -90, 60) if signed else (255, 250, 200, 130, 3)
    return RANDOM.choice(values, shape).astype(np.int8 if signed else np.uint8)


Case = tuple[onnx.ModelProto, Any]
"""A model and its input `x0`."""


def product(rows: int, depth: int, columns: int, signed: tuple[bool, bool]) -> Case:
    left, right = large(rows, depth, signed=signed[0]), large(depth, columns, signed=signed[1])
    zeros = np.asarray(100, left.dtype), np.asarray(3, right.dtype)
    return model("MatMulInteger", [left, right, *zeros], "int32")


def convolution(groups: int, channels: int, filters: int, kernel: int) -> Case:
    image, weights = large(1, channels, 6, 7), large(filters, channels // groups, kernel, kernel, signed=True)
    scales = np.float32([0.05, 0.05, 20])
    inputs = [image, scales[0], np.uint8(100), weights, scales[1], np.int8(0), scales[2], np.uint8(120)]
    return model("QLinearConv", [np.asarray(one) for one in inputs], "uint8", group=groups, pads=[1, 1, 0, 1])


def model(kind: str, arrays: list[Any], dtype: str, **attributes: Any) -> Case:
    """The first array is the input, the rest are constants."""
    names = [f"x{index}" for index in range(len(arrays))]
    graph = helper.make_graph(
        [helper.make_node(kind, names, ["y"], name="node", **attributes)],
        "case",
        [helper.make_tensor_value_info("x0", helper.np_dtype_to_tensor_dtype(arrays[0].dtype), arrays[0].shape)],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None)],
        [numpy_helper.from_array(array, name) for name, array in list(zip(names, arrays, strict=True))[1:]],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), arrays[0]


CASES = {
    "product_1x64x16": lambda: product(1, 64, 16, (False, True)),
    "product_5x33x20": lambda: product(5, 33, 20, (False, True)),
    "product_unsigned_exact": lambda: product(5, 33, 20, (False, False)),
    "product_signed_exact": lambda: product(5, 33, 20, (True, True)),
    "convolution_3_channels": lambda: convolution(1, 3, 4, 3),
    "convolution_pointwise": lambda: convolution(1, 8, 5, 1),
    "convolution_2_groups": lambda: convolution(2, 4, 6, 2),
    "convolution_depthwise_exact": lambda: convolution(4, 4, 4, 3),
    "convolution_16_channels": lambda: convolution(1, 16, 16, 3),
}


def main() -> None:
    results = {}
    for name, build in CASES.items():
        made, values = build()
        onnx.save(made, HERE / f"{name}.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results[name] = np.asarray(session.run(None, {"x0": values})[0])
        results[f"{name}.x0"] = values
    np.savez_compressed(HERE / "results.npz", **results)
    sys.stdout.write(f"{len(CASES)} results of onnxruntime {onnxruntime.__version__}\n")


if __name__ == "__main__":
    main()
