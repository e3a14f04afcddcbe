"""Sequences and optionals whose length or presence comes from data: values of a run, as Python lists and None.

Where they are known while loading, the front end resolves them and none of these operators is left. The items are not
copied: a sequence costs what its list of references costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.errors import UnboundDimension
from codesign.executor.bodies import run_body
from codesign.graph import Op
from codesign.ops.arguments import bad, normal_axis, optional, required
from codesign.ops.base import Operator, ShapeAndType, Value, operator


class OfItems(Operator):
    """An operator that makes or reads a sequence: nothing of its result is known before it runs."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        raise UnboundDimension(f"node '{op.name}' ({op.kind}): the items of a sequence are known only when it runs")


def _position(op: Op, given: Any, size: int, default: int) -> int:
    """A position counted from the front. Raises BadModel when it is outside -size..size-1."""
    place = default if given is None else int(np.asarray(given).item())
    last = size if op.kind == "SequenceInsert" else size - 1
    if given is not None and not -size <= place <= last:
        raise bad(op, f"position {place} is outside a sequence of {size}")
    return place + (size if place < 0 else 0)


@operator("SequenceConstruct", "SequenceEmpty")
class Construct(OfItems):
    def compute(self, op: Op, inputs: Sequence[Any]) -> list[Any]:
        return [list(inputs)]


@operator("SequenceAt")
class At(OfItems):
    def compute(self, op: Op, inputs: Sequence[Any]) -> list[Any]:
        items = required(op, inputs, 0, "input_sequence")
        return [items[_position(op, inputs[1], len(items), 0)]]


@operator("SequenceInsert")
class Insert(OfItems):
    """At the end when no position is given."""

    def compute(self, op: Op, inputs: Sequence[Any]) -> list[Any]:
        items = required(op, inputs, 0, "input_sequence")
        place = _position(op, optional(inputs, 2), len(items), len(items))
        return [[*items[:place], required(op, inputs, 1, "tensor"), *items[place:]]]


@operator("SequenceErase")
class Erase(OfItems):
    """The last item when no position is given."""

    def compute(self, op: Op, inputs: Sequence[Any]) -> list[Any]:
        items = required(op, inputs, 0, "input_sequence")
        if not items:
            raise bad(op, "the sequence is empty")
        place = _position(op, optional(inputs, 1), len(items), len(items) - 1)
        return [[*items[:place], *items[place + 1 :]]]


@operator("SequenceLength")
class Length(OfItems):
    def compute(self, op: Op, inputs: Sequence[Any]) -> list[Any]:
        return [np.asarray(len(required(op, inputs, 0, "input_sequence")), np.int64)]


@operator("ConcatFromSequence")
class Joined(OfItems):
    """Items along an axis of theirs, or along a new one."""

    def compute(self, op: Op, inputs: Sequence[Any]) -> list[Any]:
        items = required(op, inputs, 0, "input_sequence")
        if not items:
            raise bad(op, "the sequence is empty")
        if "axis" not in op.attributes:
            raise bad(op, "has no 'axis'")
        stack = bool(op.attributes.get("new_axis", 0))
        axis = normal_axis(op, int(op.attributes["axis"]), items[0].ndim + stack)
        return [np.stack(items, axis) if stack else np.concatenate(items, axis)]


@operator("SplitToSequence")
class Split(OfItems):
    """Parts of the lengths given, of one length (the last may be shorter), or of length one."""

    def compute(self, op: Op, inputs: Sequence[Any]) -> list[Any]:
        source, given = required(op, inputs, 0, "input"), optional(inputs, 1)
        axis = normal_axis(op, int(op.attributes.get("axis", 0)), source.ndim)
        extent = source.shape[axis]
        size = 1 if given is None else int(given.item()) if given.ndim == 0 else 0
        if given is not None and given.ndim:
            ends = np.cumsum(given)
            if given.min(initial=0) < 0 or (ends[-1] if ends.size else 0) != extent:
                raise bad(op, f"lengths {given.tolist()} do not add up to the {extent} of axis {axis}")
        elif size < 1:
            raise bad(op, f"parts of length {size}")
        else:
            ends = np.arange(size, extent + size, size)
        parts = np.split(source, ends[:-1], axis) if len(ends) else []
        if given is None and not op.attributes.get("keepdims", 1):
            parts = [part.squeeze(axis) for part in parts]
        return [parts]


@operator("SequenceMap")
class Map(OfItems):
    """The body's outputs for each item of the first sequence, further sequences taken item by item beside it."""

    def compute(self, op: Op, inputs: Sequence[Any]) -> list[Any]:
        items = required(op, inputs, 0, "input_sequence")
        if any(isinstance(value, list) and len(value) != len(items) for value in inputs):
            raise bad(op, "its sequences have different lengths")
        results = [
            run_body(op.bodies["body"], [value[number] if isinstance(value, list) else value for value in inputs])
            for number in range(len(items))
        ]
        return [[result[position] for result in results] for position in range(len(op.outputs))]


@operator("Optional")
class MakeOptional(OfItems):
    def compute(self, op: Op, inputs: Sequence[Any]) -> list[Any]:
        return [optional(inputs, 0)]


@operator("OptionalGetElement")
class OptionalElement(OfItems):
    def compute(self, op: Op, inputs: Sequence[Any]) -> list[Any]:
        held = optional(inputs, 0)
        if held is None:
            raise bad(op, "the optional holds nothing")
        return [held]


@operator("OptionalHasElement")
class OptionalHolds(OfItems):
    def compute(self, op: Op, inputs: Sequence[Any]) -> list[Any]:
        return [np.asarray(optional(inputs, 0) is not None)]
