"""What a prepared operation is, and how it holds the weights that it keeps in an order of its own."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Protocol

from codesign.executor.weights import WeightStore
from codesign.graph import Graph
from codesign.ops.base import Array

Read = Callable[[str], Array]


_HEAD = object.__basicsize__


class Prepared(Protocol):
    """One operation, its epilogue included."""

    def __call__(self, read: Read) -> list[Array] | None:
        """The outputs, for inputs that `read` gives by name; None when these inputs are not what it is made for."""


class Packed:
    """What `make` makes of weights, made when first needed and kept as far as the store keeps anything."""

    def __init__(self, store: WeightStore, names: tuple[str, ...], make: Callable[..., tuple[Array, ...]]) -> None:
        self._store, self._names, self._make = store, names, make
        self._kept: tuple[tuple[Array, int], ...] | None = None

    def __call__(self) -> tuple[tuple[Array, int], ...]:
        """Each array with its address."""
        if self._kept is not None:
            return self._kept
        arrays = self._make(*(self._store.read(name) for name in self._names))
        made = tuple((array, address(array)) for array in arrays)
        if self._store.admit(sum(array.nbytes for array in arrays)):
            self._kept = made
        return made


def address(array: Array) -> int:
    """Where the first element of an array lies: the first field behind the head of numpy's C object, which its stable
    interface fixes (PyArrayObject_fields). Ten times as fast as `array.ctypes.data`, and asked for at each step."""
    return ctypes.c_ssize_t.from_address(id(array) + _HEAD).value


def is_weight(graph: Graph, name: str, rank: int | None = None) -> bool:
    """True for a weight of float32, of that rank if one is named."""
    tensor = graph.tensors.get(name)
    return (
        name in graph.weights and tensor is not None and tensor.dtype == "float32"
        and (rank is None or len(tensor.shape) == rank)
    )  # fmt: skip


def number(graph: Graph, name: str) -> float | None:
    """The value of a weight of one element, when it is in memory already."""
    found = inline(graph, name)
    return float(found.item()) if found is not None and found.size == 1 else None


def inline(graph: Graph, name: str) -> Array | None:
    """The values of a weight that are in memory already."""
    weight = graph.weights.get(name)
    return None if weight is None else weight.inline
