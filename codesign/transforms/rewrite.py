"""Edits of a graph, collected first and then applied together in one pass over its operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from codesign.dtypes import name_of
from codesign.graph import Graph, Op, Tensor, Weight
from codesign.transforms.match import View

Array = np.ndarray[Any, Any]
EAGER_ELEMENTS = 1024
"""Derived constants up to this size are computed at once, so that shapes and scales stay known."""


class Rewriter:
    """New operations, tensors and constants for a graph. `graph` stays as it is; `build` returns the edited copy."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._tensors = dict(view.graph.tensors)
        self._weights = dict(view.graph.weights)
        self._removed: set[int] = set()
        self._inserted: dict[int, list[Op]] = {}
        self._renamed: dict[str, str] = {}
        self._absorbed: dict[str, tuple[str, ...]] = {}
        self._numbers: dict[str, int] = {}

    def is_removed(self, op: Op) -> bool:
        return id(op) in self._removed

    def touches(self, ops: Iterable[Op]) -> bool:
        """True when one of `ops` is already replaced or removed."""
        return any(id(op) in self._removed for op in ops)

    def replace(self, old: Sequence[Op], new: Sequence[Op], also: Sequence[Op] = ()) -> None:
        """`new` in the place of `old`, at the last of them, with all their sources on each new operation.

        `also` names operations that stay for other readers but whose part the new ones do. New operations without a
        name are named after the last of the old ones. Nothing but `new` may read what `old` wrote, except results that
        `new` writes too.
        """
        last = self._in_order(old)[-1]
        sources = sources_of(self._in_order([*old, *also]))
        self._removed.update(id(op) for op in old)
        placed = self._inserted.setdefault(id(last), [])
        for number, op in enumerate(reversed(new)):
            name = op.name or (f"{last.name}.{number}" if number else last.name)
            placed.insert(0, replace(op, name=name, sources=sources))

    def remove(self, chain: Sequence[Op], value: str) -> bool:
        """Drop a chain of operations whose last result is `value` under another name. False when both names must stay.

        Their sources go to the operation that writes the value or, when none does, to the first that reads it.
        """
        result = chain[-1].outputs[0]
        value = self._current(value)
        if result not in self.view.pinned:
            self._renamed[result] = value
            kept = value
        elif value in self.view.pinned or self.view.producer(value) is None:
            return False
        else:
            self._renamed[value] = result
            kept = result
        self._removed.update(id(op) for op in chain)
        self._absorbed[kept] = (*self._absorbed.get(kept, ()), *sources_of(chain))
        return True

    def tensor(self, like: str, shape: tuple[int, ...], dtype: str | None = None) -> str:
        """A new tensor, its name made of the name of one `like` it, whose element type it has unless told."""
        name = self._unused(like)
        self._tensors[name] = Tensor(name, shape, dtype or self._tensors[like].dtype)
        return name

    def constant(self, like: str, values: Array) -> str:
        """A new constant that is no learned parameter."""
        name = self._unused(like)
        tensor = Tensor(name, tuple(values.shape), name_of(values.dtype))
        self._tensors[name] = tensor
        self._weights[name] = Weight(tensor, value=values, is_parameter=False)
        return name

    def derived(
        self,
        sources: Sequence[str],
        shape: tuple[int, ...],
        function: Callable[..., Array],
        is_parameter: bool | None = None,
    ) -> str:
        """A constant computed from the constants `sources`, of the first one's type, when its values are asked for.

        It is absent when one of them is. It counts as a parameter when the first does, unless told.
        """
        weights = [self._weights[name] for name in sources]
        first = weights[0]
        name = self._unused(sources[0])
        tensor = Tensor(name, shape, first.tensor.dtype)
        counts = first.is_parameter if is_parameter is None else is_parameter

        def derive(*arrays: Array) -> Array:
            return np.ascontiguousarray(function(*arrays)).reshape(shape)

        at_hand = [weight.inline for weight in weights if weight.inline is not None]
        eager = tensor.elements <= EAGER_ELEMENTS and len(at_hand) == len(weights)
        self._tensors[name] = tensor
        self._weights[name] = (
            Weight(tensor, derive(*at_hand), is_parameter=counts)
            if eager
            else Weight(tensor, is_parameter=counts, sources=weights, derive=derive)
        )
        return name

    def shape_of(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def build(self) -> Graph:
        """The graph with all edits; the same graph when there are none."""
        graph = self.view.graph
        if not (self._removed or self._inserted or self._renamed):
            return graph
        ops: list[Op] = []
        for op in graph.ops:
            ops += self._inserted.get(id(op), ())
            if id(op) not in self._removed:
                ops.append(op)
        renamed = tuple(self._rename(op) for op in ops) if self._renamed else tuple(ops)
        return graph.with_ops(self._credit(renamed), tensors=self._tensors, weights=self._weights)

    def _in_order(self, ops: Sequence[Op]) -> list[Op]:
        return sorted(ops, key=lambda op: self._positions[id(op)])

    @cached_property
    def _positions(self) -> dict[int, int]:
        return {id(op): index for index, op in enumerate(self.view.graph.ops)}

    def _current(self, name: str) -> str:
        while name in self._renamed:
            name = self._renamed[name]
        return name

    def _rename(self, op: Op) -> Op:
        inputs = tuple(self._current(name) for name in op.inputs)
        outputs = tuple(self._current(name) for name in op.outputs)
        epilogue = tuple(self._rename(follower) for follower in op.epilogue)
        if inputs == op.inputs and outputs == op.outputs and epilogue == op.epilogue:
            return op
        return replace(op, inputs=inputs, outputs=outputs, epilogue=epilogue)

    def _credit(self, ops: tuple[Op, ...]) -> tuple[Op, ...]:
        """Give the sources of removed operations to those that write, or else first read, the value that stayed."""
        waiting = {self._current(name): sources for name, sources in self._absorbed.items() if sources}
        if not waiting:
            return ops
        written = {name for op in ops for name in op.outputs}
        result = []
        for op in ops:
            names = [*op.outputs, *(name for name in op.reads() if name not in written)]
            gained = [source for name in dict.fromkeys(names) for source in waiting.pop(name, ())]
            result.append(replace(op, sources=tuple(dict.fromkeys((*op.sources, *gained)))) if gained else op)
        return tuple(result)

    def _unused(self, like: str) -> str:
        number = self._numbers.get(like, 0) + 1
        while f"{like}.{number}" in self._tensors:
            number += 1
        self._numbers[like] = number
        return f"{like}.{number}"


def sources_of(ops: Iterable[Op]) -> tuple[str, ...]:
    """Names of the nodes that `ops` came from, in order, each once."""
    return tuple(dict.fromkeys(source for op in ops for source in op.sources))
