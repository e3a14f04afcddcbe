"""What operator rules share in reading their inputs and attributes, and in saying what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from codesign.errors import BadModel
from codesign.graph import Op
from codesign.ops.base import Array, Value

Item = TypeVar("Item", Value, Array)


def bad(op: Op, message: str) -> BadModel:
    """The error to raise when `op` cannot be meant; the message names the node and its operator."""
    return BadModel(f"node '{op.name}' ({op.kind}): {message}")


def required(op: Op, inputs: Sequence[Item | None], index: int, what: str) -> Item:
    """Input `index`, called `what` in the standard. Raises BadModel when it is absent."""
    found = optional(inputs, index)
    if found is None:
        raise bad(op, f"input {index} ('{what}') is missing")
    return found


def optional(inputs: Sequence[Item | None], index: int) -> Item | None:
    """Input `index`, or None when the node does not give it."""
    return inputs[index] if index < len(inputs) else None


def operands(inputs: Sequence[Value | None], *indices: int) -> tuple[Any, ...]:
    """The operands of the inputs at `indices` that are given; of all given inputs when no index is named."""
    chosen = indices or range(len(inputs))
    return tuple(value.operand() for index in chosen if (value := optional(inputs, index)) is not None)


def normal_axis(op: Op, axis: int, rank: int) -> int:
    """`axis` counted from the front. Raises BadModel when it is outside -rank..rank-1."""
    if not -rank <= axis < max(rank, 1):
        raise bad(op, f"axis {axis} is outside the {rank} dimensions of the input")
    return axis % rank if rank else 0


def before_opset(op: Op, version: int) -> bool:
    """True when the node follows a version of the standard older than `version`; an unnamed version is the newest."""
    return 0 < op.opset < version
