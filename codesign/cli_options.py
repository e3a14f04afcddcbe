"""What the commands of the command line share: their options, the reading of these, and what is written and shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from codesign.errors import BadParameter

if TYPE_CHECKING:
    from codesign.executor.limits import Limits
    from codesign.graph import Graph

Item = TypeVar("Item")

ModelArgument = Annotated[str, typer.Argument(help="path of an ONNX file, or zoo:NAME", metavar="MODEL")]
DeviceOption = Annotated[str, typer.Option("--device", "-d", help="device name, or path of a device's YAML file")]
DtypeOption = Annotated[
    str | None, typer.Option(help="element type: fp32, fp16, bf16, int8, ... (default: the device's)")
]
BatchOption = Annotated[int | None, typer.Option(min=1, help="batch size (default: as in the file, or 1)")]
BindOption = Annotated[list[str] | None, typer.Option(help="size of a symbolic dimension, as sequence=128; repeatable")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="device parameter, as dram.bandwidth=4e12; repeatable")
]
FidelityOption = Annotated[
    Literal["analytic", "event", "cycle"],
    typer.Option(help="analytic (lower bound), event, or cycle where the device has it"),
]
TopOption = Annotated[int, typer.Option(min=1, help="how many of the slowest operations to show")]
InputsOption = Annotated[Path | None, typer.Option(help="inputs by name (.npz)")]
SeedInputsOption = Annotated[int | None, typer.Option("--seed-inputs", help="make the inputs from this seed")]
SeedWeightsOption = Annotated[
    int | None, typer.Option("--seed-weights", help="fill weights that the model lacks from this seed")
]
StatisticsOption = Annotated[
    Path | None, typer.Option(help="densities and routing as `inspect --statistics --json` wrote them")
]


def load_model(
    model: str, batch: int | None, bind: list[str] | None, statistics: Path | None = None, **how: Any
) -> Graph:
    """The model by its path or zoo name, with statistics of its values attached from a file."""
    from codesign.model import load

    graph = load(model, batch=batch, bind=sizes(bind), **how)
    if statistics is None:
        return graph
    from codesign.statistics import attach, read_statistics

    return attach(graph, read_statistics(statistics))


def load_to_run(
    model: str, batch: int | None, bind: list[str] | None, inputs: Path | None, seed_inputs: int | None, **how: Any
) -> tuple[Graph, dict[str, Any]]:
    """The model, its symbolic dimensions as in the inputs given, and these inputs or ones made from the seed."""
    from codesign.executor import random_inputs
    from codesign.study.arrays import read_arrays

    if (inputs is None) == (seed_inputs is None):
        raise BadParameter("to run the model, give either --inputs FILE.npz or --seed-inputs N")
    given = read_arrays(inputs) if inputs is not None else {}
    graph = load_model(model, batch, bind, shapes={name: array.shape for name, array in given.items()}, **how)
    return graph, given if inputs is not None else random_inputs(graph, seed_inputs or 0)


def limits_of(trips: int | None, memory: str | None) -> Limits:
    from codesign.executor.limits import MOST_TRIPS, Limits
    from codesign.study.vary import parse_bytes

    bytes_ = None if memory is None else parse_bytes("--max-memory", memory)
    return Limits(MOST_TRIPS if trips is None else trips, bytes_)


def sizes(bind: list[str] | None) -> dict[str, int]:
    from codesign.study.vary import parse_sizes

    return parse_sizes(bind or [])


def warn(warnings: list[str] | tuple[str, ...]) -> None:
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)


def settings_of(texts: list[str] | None) -> dict[str, Any]:
    from codesign.study.vary import parse_settings

    return parse_settings(texts or [])


def check_writable(*paths: Path | None) -> None:
    """Refuse a path that cannot be written before anything is computed for it."""
    for path in paths:
        if path is not None and str(path) != "-":
            if path.is_dir():
                raise BadParameter(f"cannot write '{path}': it is a folder")
            if not path.parent.is_dir():
                raise BadParameter(f"cannot write '{path}': the folder '{path.parent}' does not exist; create it first")
            if not os.access(path if path.exists() else path.parent, os.W_OK):
                raise BadParameter(f"cannot write '{path}': permission denied")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error while something runs that tells how much is done, and of how much."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def with_progress(items: Iterable[Item], total: int, what: str) -> list[Item]:
    """All items, with a bar on standard error while they are made."""
    from rich.console import Console
    from rich.progress import track

    return list(track(items, what, total=total, console=Console(stderr=True), transient=True))


def write_text(path: Path, text: str) -> None:
    if str(path) == "-":
        typer.echo(text)
        return
    path.write_text(text + "\n", encoding="utf-8")
