"""Fourier transforms: DFT along one axis and STFT over sliding frames. Complex numbers are a last axis of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import (
    bad,
    before_opset,
    integers,
    narrowed,
    normal_axis,
    operands,
    optional,
    required,
    widened,
)
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.work import Transform, Work


def _complex(values: Array) -> Array:
    return values[..., 0] + 1j * values[..., 1] if values.shape[-1] == 2 else values[..., 0]


def _pairs(values: Array) -> Array:
    return np.stack([values.real, values.imag], axis=-1)


@operator("DFT")
class DFT(Operator):
    """Of `dft_length` points (the signal cut or filled with zeros); `onesided` drops what symmetry tells.

    The axis is an attribute before opset 20, an input since.
    """

    @staticmethod
    def _plan(op: Op, shape: tuple[int, ...], inputs: Sequence[Any]) -> tuple[int, int]:
        """Axis and number of points."""
        if len(shape) < 2 or shape[-1] not in (1, 2):
            raise bad(op, f"input {list(shape)}, expected a last axis of 1 (real) or 2 (complex)")
        old = before_opset(op, 20)
        named = integers(op, () if old else inputs, 2, "axis")
        axis = normal_axis(op, named[0] if named else (1 if old else -2), len(shape))
        length = integers(op, inputs, 1, "dft_length")
        points = length[0] if length else shape[axis]
        onesided_inverse = op.attributes.get("inverse", 0) and op.attributes.get("onesided", 0)
        return axis, 2 * (points - 1) if onesided_inverse and not length else points

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "input")
        axis, points = self._plan(op, source.shape, inputs)
        onesided, inverse = op.attributes.get("onesided", 0), op.attributes.get("inverse", 0)
        shape = list(source.shape)
        shape[axis] = points // 2 + 1 if onesided and not inverse else points
        shape[-1] = 1 if onesided and inverse else 2
        return [(tuple(shape), source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "input")
        axis, points = self._plan(op, source.shape, inputs)
        onesided, inverse = op.attributes.get("onesided", 0), op.attributes.get("inverse", 0)
        signal = _complex(widened(source))
        if onesided and inverse:
            result = np.fft.irfft(signal, points, axis)[..., None]
        elif onesided:
            result = _pairs(np.fft.rfft(signal, points, axis))
        else:
            result = _pairs((np.fft.ifft if inverse else np.fft.fft)(signal, points, axis))
        return [narrowed(result, source.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source = required(op, inputs, 0, "input")
        axis, points = self._plan(op, source.shape, inputs)
        rows = source.elements // max(source.shape[axis] * source.shape[-1], 1)
        return Transform(
            kind=op.kind, reads=operands(inputs, 0), writes=operands(outputs), rows=rows, length=points,
            dtype=source.dtype,
        )  # fmt: skip


@operator("STFT")
class STFT(Operator):
    """Transforms of frames that start `frame_step` apart, each times the window."""

    @staticmethod
    def _frames(op: Op, signal: tuple[int, ...], inputs: Sequence[Any]) -> tuple[int, int, int]:
        """Step, length and number of frames."""
        step, length, frame = integers(op, inputs, 1, "frame_step"), integers(op, inputs, 3, "frame_length"), None
        if optional(inputs, 2) is not None:
            frame = required(op, inputs, 2, "window").shape[0]
        frame = length[0] if length else frame
        if len(signal) != 3 or step is None or step[0] < 1 or not frame or frame > signal[1]:
            raise bad(op, f"frames of {frame} every {step} do not lie in a signal of shape {list(signal)}")
        return step[0], frame, (signal[1] - frame) // step[0] + 1

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "signal")
        _, length, frames = self._frames(op, source.shape, inputs)
        points = length // 2 + 1 if op.attributes.get("onesided", 1) else length
        return [((source.shape[0], frames, points, 2), source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source, window = required(op, inputs, 0, "signal"), optional(inputs, 2)
        step, length, _ = self._frames(op, source.shape, inputs)
        signal = _complex(widened(source))
        frames = np.lib.stride_tricks.sliding_window_view(signal, length, axis=1)[:, ::step]
        if window is not None:
            frames = frames * window
        transform = np.fft.rfft if op.attributes.get("onesided", 1) else np.fft.fft
        return [narrowed(_pairs(transform(frames, axis=-1)), source.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source, (batch, frames, points, _) = required(op, inputs, 0, "signal"), outputs[0].shape
        length = 2 * (points - 1) if op.attributes.get("onesided", 1) else points
        window = optional(inputs, 2)
        return Transform(
            kind=op.kind, reads=operands(inputs, 0, 2), writes=operands(outputs), rows=batch * frames, length=length,
            dtype=source.dtype, epilogue_flops=0 if window is None else batch * frames * length,
        )  # fmt: skip
