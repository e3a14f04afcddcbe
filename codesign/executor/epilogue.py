"""The operations fused behind another: each reads the value so far as "@" and, where it can, writes into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.base import Array, find


def follow(
    followers: Sequence[Op], value: Array, inputs: Sequence[Array | None], read: Callable[[str], Array]
) -> Array:
    """`value` after all `followers`. `inputs` are those of the operation before, which a view may still show."""
    own = all(array is None or not np.may_share_memory(array, value) for array in inputs) and value.flags.writeable
    for follower in followers:
        operands = [value if name == "@" else read(name) if name else None for name in follower.inputs]
        formula = _IN_PLACE.get(follower.kind) if own and not follower.domain else None
        if formula is None or not _same_type(value, operands):
            value = find(follower).compute(follower, operands)[0]
            own = False
        else:
            formula(value, *(operand for operand in operands if operand is not value))
    return value


def _same_type(value: Array, operands: Sequence[Array | None]) -> bool:
    """True when a binary operation with these operands can be written into `value`."""
    return len(operands) <= 2 and all(
        operand is not None
        and operand.dtype == value.dtype
        and np.broadcast_shapes(operand.shape, value.shape) == value.shape
        for operand in operands
    )


def _relu(value: Array) -> None:
    np.maximum(value, 0, out=value)


def _add(value: Array, *other: Array) -> None:
    np.add(value, other[0] if other else value, out=value)


def _multiply(value: Array, *other: Array) -> None:
    np.multiply(value, other[0] if other else value, out=value)


_IN_PLACE: dict[str, Callable[..., Any]] = {"Relu": _relu, "Add": _add, "Mul": _multiply}
