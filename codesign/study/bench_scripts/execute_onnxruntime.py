"""One run of a model by onnxruntime on one thread: argument {"model", "repeats"}, the best is printed."""

import json
import sys
import time

import onnxruntime

import codesign


def main() -> None:
    task = json.loads(sys.argv[1])
    inputs = codesign.random_inputs(codesign.load(task["model"]), seed=0)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(task["model"], options, providers=["CPUExecutionProvider"])
    session.run(None, inputs)
    seconds = []
    for _ in range(task["repeats"]):
        began = time.perf_counter()
        session.run(None, inputs)
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": min(seconds)}))


main()
