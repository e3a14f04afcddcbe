"""The executor beside onnxruntime on whole networks: time, processor time and memory of each in processes of its own.

Both get the same threads and take turns, so that a machine that others use slows both alike; the best of all turns
counts. Memory is the most a process held; what it holds beyond that for a network of one small operation is the
network's own, while the rest is the interpreter, libraries and the compiler.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codesign.study import peers

NETWORKS = {"vit_tiny": 2.0, "bert_base": 2.0, "resnet50": 3.0, "mobilenetv2": 3.0}
"""Times onnxruntime's time that the executor may take."""
QUANTISED = {"QUInt8": "mobilenetv2 u8", "QInt8": "mobilenetv2 s8"}
"""By the type of activations, as onnxruntime's quantiser calls it; weights are int8."""
QUANTISED_BOUND, MEMORY_BOUND = 3.0, 1.5
CALIBRATION_INPUTS = 2
SMALLEST = "mlperf_tiny_kws"
"""Its own memory, a few hundred kilobytes, does not show beside the libraries'."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model and its inputs in files, and times onnxruntime's time that the executor may take."""

    name: str
    model: str
    inputs: str
    bound: float


@dataclass(frozen=True, slots=True)
class Cost:
    """The least of several runs."""

    seconds: float
    processor: float
    bytes: float

    def less(self, other: Cost) -> Cost:
        return Cost(
            min(self.seconds, other.seconds), min(self.processor, other.processor), min(self.bytes, other.bytes)
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours and onnxruntime's cost of one case, on all threads and on one, less the memory of the smallest network."""

    case: Case
    threads: int
    ours: Cost
    theirs: Cost
    ours_alone: Cost
    theirs_alone: Cost
    our_base: float
    their_base: float
    reference: float | None


def threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def comparisons(turns: int, repeats: int, reference: bool) -> Iterator[Comparison]:
    """One network after the other. With `reference` one run by ONNX's ReferenceEvaluator too. Raises PeerFailed."""
    count = threads()
    with tempfile.TemporaryDirectory() as folder:
        smallest = _exported(SMALLEST, 0.0, Path(folder))
        # The least of two: a first run may compile kernels, which takes memory of its own.
        bases = [min(_cost(smallest, by, count, 1).bytes for _ in range(2)) for by in ("codesign", "onnxruntime")]
        for case in _cases(Path(folder)):
            ours, theirs = _taking_turns(case, count, turns, repeats)
            alone = _taking_turns(case, 1, turns, repeats)
            seconds = _cost(case, "reference", 1, 1).seconds if reference else None
            yield Comparison(case, count, ours, theirs, alone[0], alone[1], bases[0], bases[1], seconds)


def _taking_turns(case: Case, count: int, turns: int, repeats: int) -> tuple[Cost, Cost]:
    """Ours and onnxruntime's cost on `count` threads, the least of all turns."""
    found = [
        (_cost(case, "codesign", count, repeats), _cost(case, "onnxruntime", count, repeats)) for _ in range(turns)
    ]
    ours, theirs = zip(*found, strict=True)
    return functools.reduce(Cost.less, ours), functools.reduce(Cost.less, theirs)


def _cost(case: Case, by: str, count: int, repeats: int) -> Cost:
    task = {"model": case.model, "inputs": case.inputs, "by": by, "threads": count, "repeats": repeats}
    found = peers.run_script("execute", task, threads=count)
    return Cost(found["seconds"], found["processor"], found["bytes"])


def _cases(folder: Path) -> Iterator[Case]:
    cases = {}
    for name, bound in NETWORKS.items():
        cases[name] = _exported(name, bound, folder)
        yield cases[name]
    source = cases["mobilenetv2"]
    paths = [str(_inputs(source.model, seed, folder)) for seed in range(1, 1 + CALIBRATION_INPUTS)]
    for activations, name in QUANTISED.items():
        model = str(folder / f"mobilenetv2_{activations}.onnx")
        peers.run_script("quantise", {"model": source.model, "to": model, "inputs": paths, "activations": activations})
        yield Case(name, model, source.inputs, QUANTISED_BOUND)


def _exported(name: str, bound: float, folder: Path) -> Case:
    import workloads

    model = str(workloads.save(name, folder / f"{name}.onnx", seed_weights=0))
    return Case(name, model, str(_inputs(model, 0, folder)), bound)


def _inputs(model: str, seed: int, folder: Path) -> Path:
    import codesign

    path = folder / f"{Path(model).stem}_{seed}.npz"
    inputs: dict[str, Any] = codesign.random_inputs(codesign.load(model), seed=seed)
    np.savez(path, **inputs)
    return path
