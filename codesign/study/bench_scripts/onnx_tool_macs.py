"""onnx-tool loads a model, infers its shapes and counts its multiply-accumulates: argument {"model", "repeats"}."""

import contextlib
import io
import json
import sys
import time

import onnx_tool


def once(model: str) -> tuple[float, int]:
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = onnx_tool.Model(model)
        loaded.graph.shape_infer()
        loaded.graph.profile()
    return time.perf_counter() - began, int(loaded.graph.macs[0])


def main() -> None:
    task = json.loads(sys.argv[1])
    runs = [once(task["model"]) for _ in range(task["repeats"])]
    print(json.dumps({"seconds": min(seconds for seconds, _ in runs), "macs": runs[0][1]}))


main()
