"""The operations fused behind another: each reads the value so far as "@" and, where it can, writes into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import optional, text
from codesign.ops.base import Array, find


def follow(
    followers: Sequence[Op], value: Array, inputs: Sequence[Array | None], read: Callable[[str], Array]
) -> Array:
    """`value` after all `followers`. `inputs` are those of the operation before, of which `value` may be a view."""
    own = value.flags.writeable and all(array is None or not np.may_share_memory(array, value) for array in inputs)
    for follower in followers:
        operands = [value if name == "@" else read(name) if name else None for name in follower.inputs]
        in_place = _IN_PLACE.get(follower.kind) if own and not follower.domain else None
        if in_place is None or not in_place(follower, value, operands):
            value = find(follower).compute(follower, operands)[0]
            own = own and not any(operand is value for operand in operands)
    return value


def _fits(value: Array, operands: Sequence[Array | None]) -> bool:
    """True when a result of all `operands` has the shape and the type of `value`."""
    return all(
        operand is None
        or (operand.dtype == value.dtype and np.broadcast_shapes(operand.shape, value.shape) == value.shape)
        for operand in operands
    )


def _binary(function: Callable[..., Any]) -> Callable[[Op, Array, Sequence[Array | None]], bool]:
    def in_place(op: Op, value: Array, operands: Sequence[Array | None]) -> bool:
        if not _fits(value, operands) or len(operands) != 2:
            return False
        function(*operands, out=value)
        return True

    return in_place


def _activation(name: str) -> Callable[[Op, Array, Sequence[Array | None]], bool]:
    def in_place(op: Op, value: Array, operands: Sequence[Array | None]) -> bool:
        if value.dtype != np.float32 or not value.flags.c_contiguous or len(operands) != 1:
            return False
        from codesign.executor.kernels.activations import activate

        activate(name, value)
        return True

    return in_place


def _relu(op: Op, value: Array, operands: Sequence[Array | None]) -> bool:
    np.maximum(value, value.dtype.type(0), out=value)
    return True


def _clip(op: Op, value: Array, operands: Sequence[Array | None]) -> bool:
    low, high = (optional(operands, index) for index in (1, 2))
    if operands[0] is not value or not _fits(value, operands) or "min" in op.attributes or "max" in op.attributes:
        return False
    np.clip(value, low, high, out=value)
    return True


def _gelu(op: Op, value: Array, operands: Sequence[Array | None]) -> bool:
    return _activation("gelu_tanh" if text(op, "approximate", "none") == "tanh" else "gelu")(op, value, operands)


def _swish(op: Op, value: Array, operands: Sequence[Array | None]) -> bool:
    return op.attributes.get("alpha", 1.0) == 1.0 and _activation("swish")(op, value, operands)


_IN_PLACE: dict[str, Callable[[Op, Array, Sequence[Array | None]], bool]] = {
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Relu": _relu,
    "Clip": _clip,
    "Gelu": _gelu,
    "Swish": _swish,
    "Sigmoid": _activation("sigmoid"),
}
"""Each writes its result into the value it follows and says so, or does nothing and says that."""
