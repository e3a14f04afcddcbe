"""The bench: what must be fast, timed beside its target and, where one can be had, beside a peer on the same work.

Times are the best of a few repeats after one that warms caches up. A peer that cannot be installed or run is a line
that says why.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.errors import BadParameter, nearest
from codesign.report import units
from codesign.study import peers as other
from codesign.study.bench_engine import SHAPES, pipeline, simpy_pipeline
from codesign.study.bench_numerics import ELEMENTS, format_work
from codesign.study.peers import Peer, PeerFailed

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SECONDS, BYTES = "s", "B"
LEAST_MEMORY = 4e6
"""Bytes; less is lost in what the libraries themselves hold, which differs by as much from run to run."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: a time, a size, or how many of `unit` a second; `theirs` is the peer's on the same work."""

    name: str
    ours: float
    unit: str = SECONDS
    target: float | None = None
    peer: str = ""
    theirs: float | None = None
    failure: str = ""

    @property
    def less_is_better(self) -> bool:
        return self.unit in (SECONDS, BYTES)

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.ours <= self.target if self.less_is_better else self.ours >= self.target

    @property
    def times_better(self) -> float | None:
        """How many times faster (or smaller) ours is than the peer's."""
        if self.theirs is None:
            return None
        return self.theirs / self.ours if self.less_is_better else self.ours / self.theirs


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is timed: repeats of each figure, firings of an engine's program, points of a sweep, turns of
    processes."""

    repeats: int = 5
    firings: int = 1_000_000
    points: int = 100
    turns: int = 2


def bench(console: Console, peers: bool, sections: Collection[str] = ()) -> None:
    """Print the figures section by section, as each is ready: of all, or of those named. `peers` installs those that
    are no dependency. Raises BadParameter for a section that there is not."""
    for name in sections:
        if name not in SECTIONS:
            raise BadParameter(f"bench has no section '{name}'{nearest(name, SECTIONS)}; it has {', '.join(SECTIONS)}")
    console.print(machine(), style="dim")
    effort, failures = Effort(), list(other.NOT_RUN if peers else ())
    for name in sections or SECTIONS:
        title, section = SECTIONS[name]
        found = []
        with console.status(title) as status:
            for figure in section(effort, peers):
                found.append(figure)
                status.update(f"{title}: {figure.name} done")
        console.print(table(title, found), "")
        failures += [f"{figure.peer}: {figure.failure}" for figure in found if figure.failure]
    for failure in dict.fromkeys(failures):
        console.print(f"no peer {failure}", style="yellow", markup=False)


def machine() -> str:
    """What the figures were measured on."""
    import os
    import platform

    import numba
    import numpy

    versions = f"Python {platform.python_version()}, numpy {numpy.__version__}, numba {numba.__version__}"
    return f"{_processor()}, {os.cpu_count()} threads, {platform.system()}, {versions}"


def command_figures(effort: Effort, peers: bool) -> Iterator[Figure]:
    """Commands as a user types them, each in a fresh process."""
    command = "import sys; from codesign.cli import main; main(sys.argv[1:])"
    simulate = ("simulate", "zoo:vit_tiny", "--device", "h200")
    for name, target, arguments in (
        ("import codesign", 0.3, ("import codesign",)),
        ("codesign --help", 0.3, (command, "--help")),
        (f"codesign {' '.join(simulate)}", 2.0, (command, *simulate)),
    ):
        yield Figure(name, _best(partial(_process, arguments), effort.repeats), target=target)


def simulation_figures(effort: Effort, peers: bool) -> Iterator[Figure]:
    """Whole networks, in this process."""
    from codesign.model import load
    from codesign.registry import device, device_names
    from codesign.simulation import simulate

    graph = load("zoo:bert_base")
    for name in device_names():
        found = device(name)
        again = _best(partial(simulate, graph, found), effort.repeats)
        yield Figure(f"simulate bert_base again on {name}", again, target=0.05)
    batch = _best(lambda: simulate(load("zoo:resnet50", batch=64), device("h200")), effort.repeats)
    yield Figure("load, lower and simulate resnet50, batch 64", batch, target=1.5)
    yield _sweep(effort)


def model_figures(effort: Effort, peers: bool) -> Iterator[Figure]:
    """Definition of a large network, and reading of a file, beside another reader."""
    built = other.run_script("build_model", {"model": "llama3_8b"})
    yield Figure("define llama3_8b", built["seconds"], target=1.0)
    yield Figure("peak memory of that process", built["bytes"], BYTES, target=200e6)

    from codesign.model import load
    from codesign.study.inspect import inspect

    with tempfile.TemporaryDirectory() as folder:
        path = _exported("resnet50", folder)
        ours = _best(lambda: inspect(load(path)), effort.repeats)
        task = {"model": path, "repeats": effort.repeats}
        yield _beside(
            Figure("load resnet50.onnx, count its MACs", ours), peers, other.ONNX_TOOL, "onnx_tool_macs", task
        )


def mapping_figures(effort: Effort, peers: bool) -> Iterator[Figure]:
    """Single operators on an edge NPU, mapped and simulated for the first time, beside other simulators."""
    products = [(197, 576, 192), (197, 192, 192), (197, 768, 192), (197, 192, 768)]
    array = {"rows": 16, "columns": 16}
    settings = {f"array.{name}": value for name, value in array.items()} | {"array.dataflow": "output_stationary"}
    _operator_seconds("gemm", [{"b": 1, "m": 20, "n": 20, "k": 20}], settings, "cycle")
    rows = [{"b": 1, "m": m, "n": n, "k": k} for m, n, k in products]
    ours = _operator_seconds("gemm", rows, settings, "cycle")
    figure = Figure("walk four products of vit_tiny, cycle by cycle", ours)
    yield _beside(figure, peers, other.SCALESIM, "scalesim_products", {"products": products, **array})

    layer = {"n": 1, "c": 64, "h": 56, "w": 56, "o": 64, "k": 3, "s": 1, "p": 1, "g": 1}
    ours = min(_operator_seconds("conv2d", [layer], {}, "event") for _ in range(effort.repeats + 1))
    figure = Figure("map and estimate a convolution of resnet18", ours)
    task = {"channels": 64, "kernels": 64, "size": 56, "kernel": 3}
    yield _beside(figure, peers, other.ZIGZAG, "zigzag_convolution", task)


def engine_figures(effort: Effort, peers: bool) -> Iterator[Figure]:
    """Firings a second of the event engine, none skipped."""
    from codesign.engine import run

    for name, shape in SHAPES.items():
        program = shape(effort.firings)
        firings = int(program.count.sum())
        ours = firings / _best(partial(run, program, skip=False), effort.repeats)
        if shape is not pipeline:
            yield Figure(name, ours, "firings", target=5e6)
            continue
        fewer = max(effort.firings // 20, 3)
        theirs = fewer / _best(partial(simpy_pipeline, fewer), 1)
        yield Figure(name, ours, "firings", 5e6, "simpy", theirs)


def executor_figures(effort: Effort, peers: bool) -> Iterator[Figure]:
    """The executor beside onnxruntime, both with the same threads: the best time of all threads, processor time on one
    thread, the most memory the process held, and that beyond what it holds for a network that is hardly there."""
    from codesign.study.bench_executor import MEMORY_BOUND, comparisons

    try:
        for found in comparisons(effort.turns, effort.repeats, peers):
            name, bound = found.case.name, found.case.bound

            def row(what: str, ours: float, theirs: float, bound: float, unit: str = SECONDS) -> Figure:
                return Figure(what, ours, unit, bound * theirs, "onnxruntime", theirs)

            yield row(f"{name}, {found.threads} threads", found.ours.seconds, found.theirs.seconds, bound)
            yield row(f"{name}, processor", found.ours_alone.processor, found.theirs_alone.processor, bound)
            yield row(f"{name}, memory", found.ours.bytes, found.theirs.bytes, MEMORY_BOUND, BYTES)
            own, other = found.ours.bytes - found.our_base, found.theirs.bytes - found.their_base
            if min(own, other) > LEAST_MEMORY:
                yield row(f"{name}, own memory", own, other, MEMORY_BOUND, BYTES)
            if found.reference is not None:
                ours = found.ours_alone.seconds
                yield Figure(f"{name}, 1 thread", ours, peer="ReferenceEvaluator", theirs=found.reference)
    except PeerFailed as error:
        yield Figure("networks", 0.0, peer="onnxruntime", failure=str(error))


def format_figures(effort: Effort, peers: bool) -> Iterator[Figure]:
    """Values a second that number formats take on one thread, beside other conversions to the same codes."""
    for name, work, target, peer, theirs in format_work():
        ours = ELEMENTS / _best(work, effort.repeats)
        figure = Figure(name, ours, "values", target, peer)
        yield figure if theirs is None else replace(figure, theirs=ELEMENTS / _best(theirs, effort.repeats))


Section = Callable[[Effort, bool], Iterator[Figure]]
SECTIONS: dict[str, tuple[str, Section]] = {
    "commands": ("Commands, each in a fresh process", command_figures),
    "simulation": ("Simulation of networks", simulation_figures),
    "models": ("Models", model_figures),
    "mapping": ("Operators on an edge NPU", mapping_figures),
    "engine": ("Event engine, nothing skipped", engine_figures),
    "executor": ("Execution, each in processes of its own that take turns", executor_figures),
    "formats": ("Number formats on one thread", format_figures),
}


def table(title: str, figures: list[Figure]) -> RenderableType:
    """Ours, the target, the peer's, and how many times better ours is."""
    from rich.console import Group
    from rich.text import Text

    from codesign.report.tables import add_names, add_numbers, add_words, heading, plain_table, shrinking

    found = plain_table()
    add_names(found, "what")
    add_numbers(found, "ours", "target")
    add_words(found, "met")
    add_words(found, "peer", 20)
    add_numbers(found, "peer's", "ratio")
    for figure in figures:
        met = {None: Text(""), True: Text("yes", "green"), False: Text("NO", "bold red")}[figure.met]
        ratio = figure.times_better
        found.add_row(
            shrinking(figure.name), _amount(figure.ours, figure), _amount(figure.target, figure), met,
            figure.peer, _amount(figure.theirs, figure), _times(ratio),
        )  # fmt: skip
    return Group(heading(title), found)


def _amount(value: float | None, figure: Figure) -> str:
    if value is None:
        return ""
    if figure.unit == SECONDS:
        return units.seconds(value)
    return units.bytes_(value) if figure.unit == BYTES else units.rate(value, figure.unit)


def _times(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


def _beside(figure: Figure, run: bool, peer: Peer | str, script: str, task: dict[str, Any]) -> Figure:
    """The figure with the peer's time, or with why there is none. A peer given by name alone is in this environment."""
    if not run:
        return figure
    name = peer if isinstance(peer, str) else peer.name
    try:
        python = None if isinstance(peer, str) else peer.python()
        return replace(figure, peer=name, theirs=float(other.run_script(script, task, python)["seconds"]))
    except PeerFailed as error:
        return replace(figure, peer=name, failure=str(error))


def _best(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats` calls after one more that warms up."""
    work()
    return min(_seconds(work) for _ in range(repeats))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _process(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", *arguments]
    subprocess.run(command, env=other.clean_environment(), check=True, capture_output=True)


def _sweep(effort: Effort) -> Figure:
    from codesign.model import load
    from codesign.study.sweep import sweep

    graph = load("zoo:vit_tiny")
    bandwidths = max(effort.points // 10, 1)
    axes: dict[str, list[Any]] = {
        "array.rows": [4, 8, 16, 32, 64],
        "array.columns": [8, 16],
        "dram.bandwidth": [1e9 * (1 + step) for step in range(bandwidths)],
    }
    points = 10 * bandwidths
    seconds = _best(lambda: sweep(graph, "ethos-u65-256", axes, processes=1), min(effort.repeats, 2))
    return Figure(f"sweep of vit_tiny over {points} NPUs, one process", points / seconds, "points")


def _operator_seconds(op: str, rows: list[dict[str, int]], settings: dict[str, Any], fidelity: str) -> float:
    """Seconds to map and simulate operators on a device that has seen none."""
    from codesign.hardware import MappedOp
    from codesign.registry import device
    from codesign.simulation import run_ops
    from codesign.study.operators import OperatorRow, works_of_row

    npu = device("ethos-u65-256", **settings)
    works = [works_of_row(OperatorRow(op, "int8", tuple(sorted(row.items())), "bench")) for row in rows]
    ops = [MappedOp(op, work, (False,) * len(work.reads)) for group in works for work in group]
    return _seconds(lambda: run_ops(npu, ops, fidelity))


def _exported(name: str, folder: str) -> str:
    import workloads

    return str(workloads.save(name, Path(folder) / f"{name}.onnx", seed_weights=0))


def _processor() -> str:
    """The processor's name where the system tells it."""
    import platform

    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
