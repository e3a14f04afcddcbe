"""Channels on the last axis: the layout of onnxruntime's NHWC forms, written as attribute `channels_last`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from codesign.graph import Op
from codesign.ops.base import Array, Value


def channels_last(op: Op) -> bool:
    """True when channels stand on the last axis of the image and of the result."""
    return bool(op.attributes.get("channels_last", 0))


def channels_first_op(op: Op) -> Op:
    """The same operation on channels in axis 1."""
    return replace(op, attributes={name: value for name, value in op.attributes.items() if name != "channels_last"})


def channels_first_value(op: Op, value: Value) -> Value:
    """What is known of an image, its channels moved to axis 1 when `op` has them last."""
    if not channels_last(op):
        return value
    batch, *space, channels = value.shape
    return replace(value, shape=(batch, channels, *space), constant=None)


def own_shape(op: Op, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape with channels in axis 1 in the layout of `op`."""
    if not channels_last(op):
        return shape
    batch, channels, *space = shape
    return (batch, *space, channels)


def computed_channels_first(
    op: Op, inputs: Sequence[Array | None], compute: Callable[[Op, Sequence[Array | None]], Array]
) -> Array:
    """What `compute` makes of an operation on channels in axis 1, in the layout of `op`; input 0 is the image."""
    if not channels_last(op) or inputs[0] is None:
        return compute(op, inputs)
    result = compute(channels_first_op(op), [np.moveaxis(inputs[0], -1, 1), *inputs[1:]])
    return np.ascontiguousarray(np.moveaxis(result, 1, -1))
