"""What was published about the networks: the files of `catalog/`, as typed documents."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from workloads.registry import CATALOG, index, module_of

MULTIPLES = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
FIGURE = re.compile(r"(\d+)(?:\.(\d+))?\s*([kMGT]?)")

PARAMETER_TOLERANCE = 0.01
MAC_TOLERANCE = 0.03


class Figure(BaseModel):
    """A count as it was printed: 4.5 G says a number between 4.45 and 4.55 G."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    half_digit: float = Field(description="half a unit of the last digit printed")

    def difference(self, count: float) -> float:
        """How far `count` lies from the figure, as a fraction of it."""
        return (count - self.value) / self.value

    def agrees(self, count: float, tolerance: float) -> bool:
        """Whether `count` is within `tolerance` of the figure, or is what was printed once it is rounded."""
        return abs(count - self.value) <= max(self.half_digit, tolerance * self.value)


def parse_figure(text: Any) -> Figure:
    """A figure from its text, as "13.2M" or "0.57G". Raises ValueError when it is none."""
    if isinstance(text, Figure):
        return text
    match = FIGURE.fullmatch(str(text))
    if match is None:
        raise ValueError(f"'{text}' is no count; expected one as 13.2M, 0.57G or 4306")
    whole, decimals, multiple = match[1], match[2] or "", match[3]
    unit = MULTIPLES[multiple]
    return Figure(value=float(f"{whole}.{decimals or 0}") * unit, half_digit=0.5 * unit * 10.0 ** -len(decimals))


Count = Annotated[Figure, BeforeValidator(parse_figure)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Claim(Strict):
    """A speed, time or energy that was published of networks of a family on one device."""

    metric: str = Field(description="what was measured: throughput (inputs a second), latency_ms, energy_mj, ...")
    device: str = Field(description="the device as we call it, or would: h200, rtx-4090")
    setting: str = Field(default="", description="how it was measured: software, layout, compiler")
    dtype: str | None = Field(default=None, description="element type; None: the device's own")
    batch: int = 1
    values: dict[str, float] = Field(description="the figure of each workload")
    known: str = Field(description="where the figures stand")


class WorkloadInfo(Strict):
    """A built-in network: what it is and what was published about it."""

    name: str
    family: str = Field(description="module of `workloads` that defines it")
    catalog_id: str | None = Field(default=None, description="number of the system in the catalogue of papers")
    title: str
    paper: str = Field(description="the paper that introduced it")
    year: int
    task: str
    dimensions: dict[str, int] = Field(default_factory=dict, description="sizes that `bind` replaces, with defaults")
    convention: str = Field(default="", description="what the source of the counts counts")
    params: Count | None = Field(default=None, description="published parameters: learned values, as printed")
    macs: Count | None = Field(default=None, description="published multiply-accumulates of one input, as printed")
    known: str = Field(default="configuration only", description="where the counts stand, and what they rest on")
    explanation: str | None = Field(default=None, description="why our counts differ from the published ones")

    @property
    def citation(self) -> str:
        """First authors and year."""
        return f"{self.paper.partition(',')[0]} {self.year}"

    def status(self, params: int, macs: int) -> str:
        """How counts stand to the published ones: "unpublished", "agrees", "explained" or "differs"."""
        figures = ((self.params, params, PARAMETER_TOLERANCE), (self.macs, macs, MAC_TOLERANCE))
        stated = [(figure, count, tolerance) for figure, count, tolerance in figures if figure is not None]
        if not stated:
            return "unpublished"
        if all(figure.agrees(count, tolerance) for figure, count, tolerance in stated):
            return "agrees"
        return "explained" if self.explanation else "differs"


def info(name: str) -> WorkloadInfo:
    """What was published about a workload. Raises BadParameter, with the nearest names, when there is none."""
    return _infos(module_of(name))[name]


def claims(name: str | None = None) -> list[Claim]:
    """Published hardware figures of the family of a workload, or (None) of every family."""
    families = sorted(set(index().values())) if name is None else [module_of(name)]
    return [Claim.model_validate(claim) for family in families for claim in _document(family).get("claims", ())]


@cache
def _document(family: str) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, Any] = yaml.load((CATALOG / f"{family}.yaml").read_text(encoding="utf-8"), loader)
    return found


@cache
def _infos(family: str) -> dict[str, WorkloadInfo]:
    """Facts of each member: its own over its family's."""
    document = _document(family)
    shared = {key: value for key, value in document.items() if key not in ("variants", "claims")}
    return {
        name: WorkloadInfo.model_validate({**shared, **(own or {}), "name": name, "family": family})
        for name, own in document["variants"].items()
    }
