"""Values of weights while a graph executes: read when first needed, made from a seed when absent, kept to a limit."""

from __future__ import annotations

from codesign.errors import BadModel
from codesign.graph import Graph
from codesign.ops.base import Array

CACHE_BYTES = 4 << 30
"""Weights kept between operations and runs. What does not fit is read again each time it is used."""


class WeightStore:
    """The weights of one graph by name. A weight once kept stays: a graph is walked in order, so that dropping the
    oldest to keep the newest would read every weight again in each run."""

    def __init__(self, graph: Graph, seed: int | None = None, limit: int = CACHE_BYTES) -> None:
        self._graph = graph
        self._seed = seed
        self._limit = limit
        self._kept: dict[str, Array] = {}
        self._bytes = 0

    def __contains__(self, name: str) -> bool:
        return name in self._graph.weights

    def kept(self) -> list[Array]:
        """The arrays held in memory."""
        return list(self._kept.values())

    @property
    def kept_bytes(self) -> int:
        return self._bytes

    def __getitem__(self, name: str) -> Array:
        """The array called `name`. Raises BadModel when its values are absent and no seed was given."""
        found = self._kept.get(name)
        if found is None:
            found = self.read(name)
            if self.admit(found.nbytes):
                self._kept[name] = found
        return found

    def admit(self, size: int) -> bool:
        """True, and counted, when `size` more bytes may be kept."""
        fits = self._bytes + size <= self._limit
        self._bytes += size * fits
        return fits

    def read(self, name: str) -> Array:
        """The array called `name`, not kept here: for one that is kept in another form. Raises as above."""
        weight = self._graph.weights[name]
        found = weight.array(self._seed)
        if found is None:
            absent = next(weight.absent())
            stored = self._graph.weights.get(absent, weight).tensor
            raise BadModel(
                f"weight '{absent}' {list(stored.shape)} {stored.dtype} of "
                f"'{self._graph.source or self._graph.name}' has no values in the model; provide "
                "its data file, or use seed_weights to make values up"
            )
        return found
