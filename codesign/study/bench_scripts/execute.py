"""Runs of a model in a process of its own: argument {"model", "inputs": .npz, "by", "threads", "repeats"}, `by` one of
codesign, onnxruntime, reference (ONNX's ReferenceEvaluator). Prints the best time, the best processor time, and the
most memory the process held. Whoever computes is imported alone, so that memory is its own."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Inputs = dict[str, np.ndarray[Any, Any]]


def by_codesign(model: str, threads: int) -> Callable[[Inputs], object]:
    import codesign
    from codesign.transforms import optimise

    executor = codesign.Executor(optimise(codesign.load(model)))
    return executor.run


def by_onnxruntime(model: str, threads: int) -> Callable[[Inputs], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)


def by_reference(model: str, threads: int) -> Callable[[Inputs], object]:
    from onnx.reference import ReferenceEvaluator

    session = ReferenceEvaluator(model)
    return lambda inputs: session.run(None, inputs)


def peak_bytes() -> int:
    """Most memory this process has held. Linux's getrusage counts the parent's before exec too, /proc does not."""
    status = Path("/proc/self/status")
    if status.is_file():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def main() -> None:
    task = json.loads(sys.argv[1])
    with np.load(task["inputs"]) as stored:
        inputs = {name: stored[name] for name in stored.files}
    makers = {"codesign": by_codesign, "onnxruntime": by_onnxruntime, "reference": by_reference}
    run = makers[task["by"]](task["model"], task["threads"])
    seconds, processor = [], []
    for _ in range(task["repeats"] + (task["by"] != "reference")):
        began, busy = time.perf_counter(), time.process_time()
        run(inputs)
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - busy)
    print(json.dumps({"seconds": min(seconds), "processor": min(processor), "bytes": peak_bytes()}))


main()
