"""Operators that only rename memory: Reshape, Flatten, Squeeze, Unsqueeze, Identity, and Dropout at inference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, before_opset, integers, normal_axis, optional, required
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import map_work, view_work
from codesign.work import Work

Shape = tuple[int, ...]


class View(Operator):
    """The first input under the shape that `shape` tells."""

    def shape(self, op: Op, source: Shape, inputs: Sequence[Any]) -> Shape:
        return source

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "data")
        return [(self.shape(op, source.shape, inputs), source.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "data")
        return [source.reshape(self.shape(op, source.shape, inputs))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return view_work(op, inputs, outputs)


@operator("Identity")
class Identity(View):
    """The input itself, be it a tensor, a sequence or an absent optional."""

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        return list(inputs[:1])  # type: ignore[arg-type]


@operator("Reshape")
class Reshape(View):
    """0 keeps the extent of the same axis (unless `allowzero`), one -1 takes what is left."""

    def shape(self, op: Op, source: Shape, inputs: Sequence[Any]) -> Shape:
        wanted = integers(op, inputs, 1, "shape")
        if wanted is None:
            raise bad(op, "has no 'shape'")
        if not op.attributes.get("allowzero", 0):
            if any(extent == 0 and axis >= len(source) for axis, extent in enumerate(wanted)):
                raise bad(op, f"shape {list(wanted)} keeps an axis that the input's {list(source)} does not have")
            wanted = tuple(source[axis] if extent == 0 else extent for axis, extent in enumerate(wanted))
        total, given = math.prod(source), math.prod(extent for extent in wanted if extent != -1)
        if wanted.count(-1) == 1 and given and total % given == 0:
            wanted = tuple(total // given if extent == -1 else extent for extent in wanted)
        if min(wanted, default=0) < 0 or math.prod(wanted) != total:
            raise bad(op, f"{total} elements of shape {list(source)} cannot take the shape {list(wanted)}")
        return wanted


@operator("Flatten")
class Flatten(View):
    """A matrix: the axes before `axis` as rows, the others as columns."""

    def shape(self, op: Op, source: Shape, inputs: Sequence[Any]) -> Shape:
        axis = int(op.attributes.get("axis", 1))
        if not -len(source) <= axis <= len(source):
            raise bad(op, f"axis {axis} is outside the {len(source)} dimensions of the input")
        axis += len(source) if axis < 0 else 0
        return (math.prod(source[:axis]), math.prod(source[axis:]))


@operator("Squeeze")
class Squeeze(View):
    """Without the named axes of extent 1; without all of them when none is named."""

    def shape(self, op: Op, source: Shape, inputs: Sequence[Any]) -> Shape:
        axes = integers(op, inputs, 1, "axes")
        if axes is None:
            return tuple(extent for extent in source if extent != 1)
        dropped = {normal_axis(op, axis, len(source)) for axis in axes}
        if any(source[axis] != 1 for axis in dropped):
            raise bad(op, f"axes {list(axes)} of shape {list(source)} are not all of extent 1")
        return tuple(extent for axis, extent in enumerate(source) if axis not in dropped)


@operator("ExpandDims", domain="com.microsoft")
@operator("Unsqueeze")
class Unsqueeze(View):
    """With axes of extent 1 inserted, counted in the result."""

    def shape(self, op: Op, source: Shape, inputs: Sequence[Any]) -> Shape:
        axes = integers(op, inputs, 1, "axes")
        if axes is None:
            raise bad(op, "has no 'axes'")
        rank = len(source) + len(axes)
        added = {normal_axis(op, axis, rank) for axis in axes}
        if len(added) != len(axes):
            raise bad(op, f"axes {list(axes)} name one axis twice")
        extents = iter(source)
        return tuple(1 if axis in added else next(extents) for axis in range(rank))


@operator("Dropout")
class Dropout(Operator):
    """The input itself, and a mask of ones, unless `training_mode` (input 2, since opset 12) is true."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "data")
        mask = source.dtype if before_opset(op, 10) else "bool"
        return [(source.shape, source.dtype), (source.shape, mask)][: len(op.outputs)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        data, ratio, training = required(op, inputs, 0, "data"), optional(inputs, 1), optional(inputs, 2)
        mask: Array = np.ones(data.shape, data.dtype if before_opset(op, 10) else np.bool_)
        rate = 0.5 if ratio is None else float(ratio)
        if training is not None and bool(training) and rate:
            seed = op.attributes.get("seed")
            mask = np.asarray(np.random.RandomState(seed).uniform(0, 1, data.shape)) >= rate
            data = (data * mask / data.dtype.type(1 - rate)).astype(data.dtype)
        return [data, mask][: len(op.outputs)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        training = optional(inputs, 2)
        if training is None or (training.constant is not None and not training.constant.any()):
            return view_work(op, inputs, outputs)
        return map_work(op, inputs, outputs, 3)
