"""Parameters and multiply-accumulates of the built-in networks, counted on their structure and remembered.

The counts of a network are kept in the user's cache folder under the hash of everything they follow from: the code
that defines the network and the code that lowers it. Nothing has to be deleted when either changes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from workloads.registry import build, module_of

if TYPE_CHECKING:
    from onnx import ModelProto

RUNNING_STATISTICS = {"BatchNormalization": (3, 4)}
"""Inputs that are not learned: means and variances collected in training, which published counts leave out."""

PACKAGE = Path(__file__).parent
LEAST_EACH = 16
"""Networks to count that are worth another process."""
LOWERING = ("frontend", "ops", "graph.py", "lower.py", "work.py")
"""What turns a model into work, within the package `codesign`."""


class Counts(NamedTuple):
    """What the structure of a network says of it at batch 1 and its default dimensions: learned values,
    multiply-accumulates, and the shape of each input."""

    params: int
    macs: int
    inputs: dict[str, list[int]]


def count(name: str) -> Counts:
    """Counts of a workload at batch 1. Raises BadParameter when there is none of that name."""
    path = _path(name)
    try:
        return Counts(*json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        pass
    model = build(name)
    found = Counts(parameters_of(model), macs_of(model), inputs_of(model))
    _remember(path, found)
    return found


def count_all(names: Sequence[str]) -> Iterator[Counts]:
    """Counts of workloads, in order; many that are not remembered are counted on all cores."""
    missing = sum(not _path(name).exists() for name in names)
    workers = min(os.cpu_count() or 1, missing // LEAST_EACH)
    if workers < 2:
        yield from map(count, names)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(count, names, chunksize=4)


def parameters_of(model: ModelProto) -> int:
    """Learned values of a model: its initialisers, less running statistics."""
    statistics = {node.input[index] for node in model.graph.node for index in RUNNING_STATISTICS.get(node.op_type, ())}
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.name not in statistics)


def macs_of(model: ModelProto) -> int:
    """Multiply-accumulates of a model: those of its contractions, attention products included."""
    from codesign.frontend import from_proto
    from codesign.lower import lower

    return sum(work.macs for work in lower(from_proto(model)))


def inputs_of(model: ModelProto) -> dict[str, list[int]]:
    """The shape of each input of a model."""
    return {
        value.name: [extent.dim_value for extent in value.type.tensor_type.shape.dim] for value in model.graph.input
    }


def cache_folder() -> Path:
    """The folder of remembered counts: `codesign/counts` in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "codesign" / "counts"


def _remember(path: Path, found: Counts) -> None:
    """Write the counts; a cache that cannot be written costs only time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(found), encoding="utf-8")
        unfinished.replace(path)
    except OSError:
        pass


def _path(name: str) -> Path:
    """Where the counts of a workload are kept: its name, and the hash of all that they follow from."""
    catalogue = PACKAGE / "catalog" / f"{module_of(name)}.yaml"
    digest = hashlib.sha256(_code_key() + catalogue.read_bytes()).hexdigest()
    return cache_folder() / f"{name}-{digest[:24]}.json"


@cache
def _code_key() -> bytes:
    """The hash of the code that defines the networks (families build on each other) and lowers them."""
    import codesign

    root = Path(codesign.__file__).parent
    sources = sorted(PACKAGE.rglob("*.py"))
    for part in LOWERING:
        path = root / part
        sources += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    return digest.digest()
