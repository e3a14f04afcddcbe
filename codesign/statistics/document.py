"""The statistics document: what was measured of a graph's tensors, typed, versioned, and kept with the Graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from codesign.errors import BadParameter
from codesign.graph import Graph

STATISTICS_VERSION: Literal["1.0"] = "1.0"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Histogram(_Record):
    """Counts of finite values in bins of equal width, a power of two, from the first occupied bin to the last."""

    low: float = Field(description="lower edge of the first bin")
    width: float = Field(gt=0, description="width of a bin; a value on an edge belongs to the upper bin")
    counts: tuple[int, ...] = Field(description="values in each bin")


class TensorStatistics(_Record):
    """One tensor over all samples."""

    role: Literal["input", "weight", "activation"]
    dtype: str = Field(description="element type it was measured in")
    shape: tuple[int, ...] = Field(description="shape in one sample")
    elements: int = Field(ge=0, description="values seen, over all samples")
    density: float = Field(ge=0, le=1, description="fraction of the values that do not stand for zero")
    zero: int = Field(default=0, description="the stored value that stands for zero: a quantised tensor's zero point")
    not_finite: int = Field(default=0, ge=0, description="infinities and values that are no number")
    minimum: float | None = Field(description="of the finite values, as stored; null when there is none")
    maximum: float | None
    mean: float | None
    standard_deviation: float | None
    histogram: Histogram | None = Field(description="of the finite values; null when there is none")
    filled: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="fraction of the slices along the first axis with a value that is not zero, mean over the samples: "
        "of the rows of experts, those of experts that a token chose; null where no product needs it",
    )
    patterns: tuple[tuple[int, int], ...] = Field(
        default=(),
        description="(N, M) pairs: each M consecutive values along the axis that a product sums over hold at most N "
        "that are not zero, N the least such number and below M",
    )


class Routing(_Record):
    """Where the indices of one tensor point: rows of a table, experts, classes."""

    op: str = Field(description="operation that makes the indices or looks up by them")
    choices: int = Field(ge=1, description="how many there are to point at")
    indices: int = Field(ge=0, description="indices in one sample")
    distinct: float = Field(ge=0, description="different ones in a sample, mean over the samples")
    counts: dict[int, int] = Field(description="how often each was pointed at, over all samples; absent: never")

    @property
    def imbalance(self) -> float:
        """How often the most wanted is pointed at, over the mean of all choices: 1 when all are wanted alike."""
        total = sum(self.counts.values())
        return max(self.counts.values()) * self.choices / total if total else 1.0


class Statistics(_Record):
    """Everything measured of one model."""

    version: Literal["1.0"] = STATISTICS_VERSION
    model: str
    samples: int = Field(ge=1, description="runs that were observed")
    tensors: dict[str, TensorStatistics] = Field(description="by the tensor's name in the graph")
    routing: dict[str, Routing] = Field(default_factory=dict, description="by the name of the tensor of indices")

    def to_json(self) -> str:
        return self.model_dump_json(indent=1)


def read_statistics(path: str | Path) -> Statistics:
    """The document in a JSON file. Raises BadParameter, naming the file, when it is none."""
    try:
        return Statistics.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise BadParameter(f"statistics {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadParameter(f"statistics {path}: {where + ': ' if where else ''}{first['msg']}") from error


def attach(graph: Graph, statistics: Statistics) -> Graph:
    """The graph with `statistics` kept in it, and in the bodies of its control flow.

    Raises BadParameter when they are another model's: they lack one of its weights, or it has another shape.
    """
    stranger = _stranger(graph, statistics)
    if stranger:
        raise BadParameter(
            f"statistics of '{statistics.model}' are not of '{graph.source or graph.name}', {stranger}; measure it"
        )
    return _attached(graph, statistics)


def _stranger(graph: Graph, statistics: Statistics) -> str:
    """What of the graph the statistics do not know; "" when they are its own."""
    for name, weight in graph.weights.items():
        found = statistics.tensors.get(name)
        if weight.is_parameter and (found is None or found.shape != weight.tensor.shape):
            return f"whose weight '{name}' {'they lack' if found is None else 'has another shape'}"
    return "" if any(name in statistics.tensors for name in graph.tensors) else "none of whose tensors they name"


def _attached(graph: Graph, statistics: Statistics) -> Graph:
    ops = tuple(
        replace(op, bodies={name: _attached(body, statistics) for name, body in op.bodies.items()}) if op.bodies else op
        for op in graph.ops
    )
    return replace(graph, ops=ops, statistics=statistics)
