"""Depthwise convolution along time that carries the end of its input to the next call (CausalConvWithState)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.activations import SIGMOID, sigmoid
from codesign.ops.arguments import bad, narrowed, operands, optional, required, text, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.work import Contraction, Work

_GPU_ONLY = {
    "state_window": 0,
    "state_update_capacity": 0,
    "state_channels_last": -1,
    "state_length": 0,
    "input_channels": 0,
}


@operator("CausalConvWithState")
@operator("CausalConvWithState", domain="com.microsoft")
class CausalConvWithState(Operator):
    """Inputs: values (batch, channels, length), or (batch, length, channels...) with `channels_last`, weights
    (channels, 1, taps), bias, past (batch, channels, (taps - 1) dilation) in the layout of the values. Outputs: result,
    present."""

    @staticmethod
    def _last(op: Op) -> bool:
        return bool(op.attributes.get("channels_last", 0))

    def _extents(self, op: Op, inputs: Sequence[Any]) -> tuple[int, int, int, int, int]:
        """Batch, channels, length, taps and dilation."""
        values, weights = required(op, inputs, 0, "input").shape, required(op, inputs, 1, "weight").shape
        changed = [name for name, plain in _GPU_ONLY.items() if int(op.attributes.get(name, plain)) != plain]
        if int(op.attributes.get("ndim", 1)) != 1 or changed:
            raise bad(op, f"{', '.join(changed) or 'ndim'}: not known; expected one axis of time and plain states")
        if len(values) < 3 or (len(values) > 3 and not self._last(op)):
            raise bad(op, f"input {list(values)}: expected (batch, channels, length)")
        batch, channels, length = values[0], values[1], values[2]
        if self._last(op):
            channels, length = math.prod(values[2:]), values[1]
        if len(weights) != 3 or weights[:2] != (channels, 1):
            raise bad(op, f"weights {list(weights)} do not fit {channels} channels, expected [{channels}, 1, taps]")
        if text(op, "activation", "none") not in ("none", "silu", "swish"):
            raise bad(op, f"activation '{text(op, 'activation')}' is unknown; expected none, silu or swish")
        return batch, channels, length, weights[2], int(op.attributes.get("dilation", 1))

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        batch, channels, _, taps, dilation = self._extents(op, inputs)
        value, carried = required(op, inputs, 0, "input"), (taps - 1) * dilation
        state: tuple[int, ...] = (batch, channels, carried)
        if self._last(op):
            state = (batch, carried, *value.shape[2:])
        return [(value.shape, value.dtype), (state, value.dtype)][: len(op.outputs)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        batch, channels, length, taps, dilation = self._extents(op, inputs)
        values = required(op, inputs, 0, "input")
        past, carried = optional(inputs, 3), (taps - 1) * dilation
        before = np.zeros((batch, channels, carried), np.float32)
        if past is not None:
            before[:] = self._first(op, widened(past))
        whole = np.concatenate((before, self._first(op, widened(values))), axis=2)
        weights, bias = widened(required(op, inputs, 1, "weight"))[:, 0], optional(inputs, 2)
        result = np.zeros((batch, channels, length), np.float32)
        for tap in range(taps):
            result += whole[:, :, tap * dilation : tap * dilation + length] * weights[:, tap, None]
        if bias is not None:
            result += widened(bias)[:, None]
        if text(op, "activation", "none") != "none":
            result *= sigmoid(result)
        end = whole[:, :, length : length + carried]
        present = np.array(end)
        if self._last(op):
            present = np.ascontiguousarray(end.swapaxes(1, 2)).reshape(batch, carried, *values.shape[2:])
        output = (result.swapaxes(1, 2) if self._last(op) else result).reshape(values.shape)
        return [narrowed(output, values.dtype), narrowed(present, values.dtype)][: len(op.outputs)]

    def _first(self, op: Op, values: Array) -> Array:
        """(batch, channels, length)."""
        if not self._last(op):
            return values
        return values.reshape(*values.shape[:2], -1).swapaxes(1, 2)

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        batch, channels, length, taps, _ = self._extents(op, inputs)
        each = (optional(inputs, 2) is not None) + (SIGMOID + 1 if text(op, "activation", "none") != "none" else 0)
        return Contraction(
            kind=op.kind,
            reads=operands(inputs),
            writes=operands(outputs),
            epilogue_flops=int(each * outputs[0].elements),
            batch=channels,
            m=batch * length,
            n=1,
            k=taps,
            dtype=required(op, inputs, 0, "input").dtype,
        )
