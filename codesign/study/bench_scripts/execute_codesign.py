"""One run of a model by the executor: argument {"model", "repeats"}, the best is printed."""

import json
import sys
import time

import codesign


def main() -> None:
    task = json.loads(sys.argv[1])
    graph = codesign.load(task["model"])
    executor, inputs = codesign.Executor(graph), codesign.random_inputs(graph, seed=0)
    executor.run(inputs)
    seconds = []
    for _ in range(task["repeats"]):
        began = time.perf_counter()
        executor.run(inputs)
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": min(seconds)}))


main()
