"""Operators that move data without arithmetic: Transpose, Concat, Split, Slice, Pad, Tile, Expand and their like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, integers, narrowed, normal_axis, optional, required, setting, text
from codesign.ops.base import Array, Operator, ShapeAndType, Value, broadcast, operator
from codesign.ops.costs import copy_work, inner_elements, trailing_run, view_work
from codesign.work import Work

Shape = tuple[int, ...]


@operator("Transpose")
class Transpose(Operator):
    """Axes in the order `perm`, reversed when it is not given."""

    @staticmethod
    def _order(op: Op, rank: int) -> Shape:
        order = tuple(int(axis) for axis in op.attributes.get("perm", range(rank - 1, -1, -1)))
        if sorted(order) != list(range(rank)):
            raise bad(op, f"attribute 'perm' is {list(order)}, expected an order of {rank} axes")
        return order

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "data")
        return [(tuple(source.shape[axis] for axis in self._order(op, len(source.shape))), source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "data")
        return [source.transpose(self._order(op, source.ndim)).copy()]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """Axes of extent 1 do not count; what stays last stays together; nothing moves when the order stays."""
        source = required(op, inputs, 0, "data")
        order = [axis for axis in self._order(op, len(source.shape)) if source.shape[axis] != 1]
        if order == sorted(order):
            return view_work(op, inputs, outputs)
        run = 1
        for axis, place in zip(reversed(order), sorted(order, reverse=True), strict=True):
            if axis != place:
                break
            run *= source.shape[axis]
        return copy_work(op, (source,), outputs, run)


@operator("Concat")
class Concat(Operator):
    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        values = [required(op, inputs, index, "inputs") for index in range(max(len(inputs), 1))]
        first = values[0].shape
        axis = self._axis(op, len(first))
        expected = (*first[:axis], *first[axis + 1 :])
        for value in values:
            if len(value.shape) != len(first) or (*value.shape[:axis], *value.shape[axis + 1 :]) != expected:
                shapes = ", ".join(str(list(value.shape)) for value in values)
                raise bad(op, f"shapes {shapes} differ in more than axis {axis}")
        total = sum(value.shape[axis] for value in values)
        return [((*first[:axis], total, *first[axis + 1 :]), values[0].dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        arrays = [required(op, inputs, index, "inputs") for index in range(len(inputs))]
        return [np.concatenate(arrays, axis=self._axis(op, arrays[0].ndim))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        values = [required(op, inputs, index, "inputs") for index in range(len(inputs))]
        axis = self._axis(op, len(values[0].shape))
        runs = [math.prod(value.shape[axis:]) for value in values if value.elements]
        return copy_work(op, values, outputs, min(runs, default=0))

    @staticmethod
    def _axis(op: Op, rank: int) -> int:
        if "axis" not in op.attributes:
            raise bad(op, "has no 'axis'")
        return normal_axis(op, int(op.attributes["axis"]), rank)


@operator("Split")
class Split(Operator):
    """In parts of the lengths `split`, or equal ones, of which the last is what is left."""

    @staticmethod
    def _parts(op: Op, source: Shape, inputs: Sequence[Any]) -> tuple[int, Shape]:
        axis = normal_axis(op, int(op.attributes.get("axis", 0)), len(source))
        lengths = integers(op, inputs, 1, "split")
        if lengths is None:
            count = int(op.attributes.get("num_outputs", len(op.outputs)))
            each = -(-source[axis] // max(count, 1))
            lengths = tuple(min(each, max(source[axis] - index * each, 0)) for index in range(count))
        if sum(lengths) != source[axis] or min(lengths, default=0) < 0:
            raise bad(op, f"lengths {list(lengths)} do not add up to the {source[axis]} of axis {axis}")
        return axis, lengths

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "input")
        axis, lengths = self._parts(op, source.shape, inputs)
        return [((*source.shape[:axis], length, *source.shape[axis + 1 :]), source.dtype) for length in lengths]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "input")
        axis, lengths = self._parts(op, source.shape, inputs)
        before = (slice(None),) * axis
        ends = list(accumulate(lengths))
        return [source[(*before, slice(end - length, end))] for length, end in zip(lengths, ends, strict=True)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source = required(op, inputs, 0, "input")
        axis = normal_axis(op, int(op.attributes.get("axis", 0)), len(source.shape))
        runs = [math.prod(output.shape[axis:]) for output in outputs if output.elements]
        return copy_work(op, (source,), outputs, min(runs, default=0), sum(output.elements for output in outputs))


@operator("Slice")
class Slice(Operator):
    """Bounds and axes are attributes before opset 10, inputs since."""

    @staticmethod
    def _cuts(op: Op, source: Shape, inputs: Sequence[Any]) -> tuple[slice, ...]:
        starts, ends = integers(op, inputs, 1, "starts"), integers(op, inputs, 2, "ends")
        if starts is None or ends is None:
            raise bad(op, "has no 'starts' or no 'ends'")
        axes, steps = integers(op, inputs, 3, "axes"), integers(op, inputs, 4, "steps")
        axes = tuple(range(len(starts))) if axes is None else axes
        steps = (1,) * len(starts) if steps is None else steps
        if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
            raise bad(op, f"starts {list(starts)}, ends {list(ends)}, axes {list(axes)}, steps {list(steps)} disagree")
        cuts = [slice(None)] * len(source)
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            axis = normal_axis(op, axis, len(source))
            below = step < 0 and end < -source[axis]
            cuts[axis] = slice(start, None if below else end, step)
        return tuple(cuts)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "data")
        cuts = self._cuts(op, source.shape, inputs)
        lengths = (len(range(*cut.indices(extent))) for cut, extent in zip(cuts, source.shape, strict=True))
        return [(tuple(lengths), source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "data")
        cut = source[self._cuts(op, source.shape, inputs)]
        return [cut.copy()]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source, result = required(op, inputs, 0, "data"), outputs[0]
        run = trailing_run(source.shape, result.shape)
        steps = optional(inputs, 4)
        if steps is not None and (steps.constant is None or (steps.constant != 1).any()):
            last_cut = max(
                (axis for axis, extent in enumerate(source.shape) if extent != result.shape[axis]), default=-1
            )
            run = inner_elements(source.shape, last_cut) if last_cut >= 0 else source.shape[-1]
        return copy_work(op, (source,), outputs, run, result.elements)


@operator("Pad", domain="com.microsoft")
@operator("Pad")
class Pad(Operator):
    """Lengths and value are attributes before opset 11, inputs since; negative lengths cut."""

    @staticmethod
    def _lengths(op: Op, rank: int, inputs: Sequence[Any]) -> tuple[list[int], list[int]]:
        pads, axes = integers(op, inputs, 1, "pads"), integers(op, inputs, 3, "axes")
        axes = tuple(range(rank)) if axes is None else tuple(normal_axis(op, axis, rank) for axis in axes)
        if pads is None or len(pads) != 2 * len(axes):
            raise bad(op, f"'pads' is {pads}, expected {2 * len(axes)} integers")
        before, after = [0] * rank, [0] * rank
        for index, axis in enumerate(axes):
            before[axis], after[axis] = pads[index], pads[len(axes) + index]
        return before, after

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "data")
        before, after = self._lengths(op, len(source.shape), inputs)
        shape = tuple(sum(extents) for extents in zip(before, source.shape, after, strict=True))
        if min(shape, default=0) < 0:
            raise bad(op, f"pads cut more than there is: the shape would be {list(shape)}")
        return [(shape, source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "data")
        before, after = self._lengths(op, source.ndim, inputs)
        box = tuple(
            slice(max(-low, 0), extent - max(-high, 0))
            for low, high, extent in zip(before, after, source.shape, strict=True)
        )
        added = [(max(low, 0), max(high, 0)) for low, high in zip(before, after, strict=True)]
        mode = text(op, "mode", "constant")
        if mode != "constant":
            return [np.pad(source[box], added, mode=mode)]  # type: ignore[call-overload]
        fill = setting(op, inputs, 2, "value")
        return [np.pad(source[box], added, constant_values=0 if fill is None or not fill.size else fill.item())]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source = required(op, inputs, 0, "data")
        return copy_work(op, (source,), outputs, trailing_run(source.shape, outputs[0].shape))


@operator("Tile")
class Tile(Operator):
    @staticmethod
    def _repeats(op: Op, rank: int, inputs: Sequence[Any]) -> Shape:
        repeats = integers(op, inputs, 1, "repeats")
        if repeats is None or len(repeats) != rank or min(repeats, default=0) < 0:
            raise bad(op, f"'repeats' is {repeats}, expected {rank} counts")
        return repeats

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "input")
        repeats = self._repeats(op, len(source.shape), inputs)
        return [(tuple(extent * count for extent, count in zip(source.shape, repeats, strict=True)), source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "input")
        return [np.tile(source, self._repeats(op, source.ndim, inputs))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source = required(op, inputs, 0, "input")
        return copy_work(op, (source,), outputs, trailing_run(source.shape, outputs[0].shape))


@operator("Expand")
class Expand(Operator):
    """Repeated along axes of extent 1, as broadcasting does, and written out."""

    @staticmethod
    def _shape(op: Op, source: Shape, inputs: Sequence[Any]) -> Shape:
        wanted = integers(op, inputs, 1, "shape")
        if wanted is None:
            raise bad(op, "has no 'shape'")
        try:
            return broadcast(source, wanted)
        except ValueError:
            raise bad(op, f"shape {list(source)} does not broadcast with {list(wanted)}") from None

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "input")
        return [(self._shape(op, source.shape, inputs), source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "input")
        return [np.broadcast_to(source, self._shape(op, source.shape, inputs)).copy()]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source = required(op, inputs, 0, "input")
        if source.elements == outputs[0].elements:
            return view_work(op, inputs, outputs)
        aligned = (1,) * (len(outputs[0].shape) - len(source.shape)) + source.shape
        return copy_work(op, (source,), outputs, trailing_run(outputs[0].shape, aligned))


@operator("ReverseSequence")
class ReverseSequence(Operator):
    """The first `sequence_lens[b]` steps of sequence b in reversed order."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "input")
        return [(source.shape, source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source, lengths = required(op, inputs, 0, "input"), required(op, inputs, 1, "sequence_lens")
        batch_axis, time_axis = int(op.attributes.get("batch_axis", 1)), int(op.attributes.get("time_axis", 0))
        steps = np.arange(source.shape[time_axis])
        order = np.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
        rows = np.moveaxis(source, (batch_axis, time_axis), (0, 1))
        reversed_rows = rows[np.arange(len(lengths))[:, None], order]
        return [np.ascontiguousarray(np.moveaxis(reversed_rows, (0, 1), (batch_axis, time_axis)))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source, lengths = required(op, inputs, 0, "input"), required(op, inputs, 1, "sequence_lens")
        last = max(int(op.attributes.get("batch_axis", 1)), int(op.attributes.get("time_axis", 0)))
        return copy_work(op, (source, lengths), outputs, inner_elements(source.shape, last))


@operator("Trilu", domain="com.microsoft")
@operator("Trilu")
class Trilu(Operator):
    """The upper or lower triangle of each matrix, zero elsewhere; `k` shifts the diagonal."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "input")
        if len(source.shape) < 2:
            raise bad(op, f"expected at least a matrix, got shape {list(source.shape)}")
        return [(source.shape, source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source, shift = required(op, inputs, 0, "input"), optional(inputs, 1)
        triangle = np.triu if op.attributes.get("upper", 1) else np.tril
        return [narrowed(triangle(source, 0 if shift is None else int(shift.item())), source.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source = required(op, inputs, 0, "input")
        return copy_work(op, (source,), outputs, source.shape[-1])


@operator("CenterCropPad")
class CenterCropPad(Operator):
    """Cut or padded with zeros about the centre, to `shape` on `axes`."""

    @staticmethod
    def _shape(op: Op, source: Shape, inputs: Sequence[Any]) -> Shape:
        wanted = integers(op, inputs, 1, "shape")
        axes = [normal_axis(op, axis, len(source)) for axis in op.attributes.get("axes", range(len(source)))]
        if wanted is None or len(wanted) != len(axes):
            raise bad(op, f"'shape' is {wanted}, expected {len(axes)} extents")
        extents = dict(zip(axes, wanted, strict=True))
        return tuple(extents.get(axis, extent) for axis, extent in enumerate(source))

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "input_data")
        return [(self._shape(op, source.shape, inputs), source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "input_data")
        shape = self._shape(op, source.shape, inputs)
        result = np.zeros(shape, source.dtype)
        taken, placed = [], []
        for old, new in zip(source.shape, shape, strict=True):
            common, cut, pad = min(old, new), max(old - new, 0) // 2, max(new - old, 0) // 2
            taken.append(slice(cut, cut + common))
            placed.append(slice(pad, pad + common))
        result[tuple(placed)] = source[tuple(taken)]
        return [result]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        source, result = required(op, inputs, 0, "input_data"), outputs[0]
        common = math.prod(min(old, new) for old, new in zip(source.shape, result.shape, strict=True))
        return copy_work(op, (source,), outputs, trailing_run(source.shape, result.shape), common)
