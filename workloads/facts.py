"""What the catalogue says of a workload, as a typed document."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Published(BaseModel):
    """Figures published for a network, at the catalogue's dimensions and batch 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: float = Field(description="learned values; running statistics of batch norms are not counted")
    macs: float = Field(description="multiply-accumulates of one inference, attention products included")
    source: str = Field(description="where the figures stand, and what they rest on")
    recalled: bool = Field(default=False, description="a figure from memory: a soft target")


class WorkloadInfo(BaseModel):
    """A built-in network: what it is, what it reads, and what was published about it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    family: str = Field(description="module of `workloads` that defines it")
    year: int
    reference: str = Field(description="the paper that introduced it")
    task: str
    inputs: dict[str, str] = Field(description="shape and element type of each input, in the names of `dimensions`")
    dimensions: dict[str, int] = Field(default_factory=dict, description="sizes that `bind` replaces, with defaults")
    published: Published
