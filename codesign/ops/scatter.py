"""Operators that write at addresses found in data: Scatter, ScatterElements, ScatterND, TensorScatter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.dtypes import dtype
from codesign.graph import Op
from codesign.ops.arguments import bad, normal_axis, operands, optional, required, text
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import scatter_work
from codesign.ops.indexing import bounded
from codesign.work import Gather, Work

_REDUCTIONS: dict[str, Any] = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _write(op: Op, target: Array, address: tuple[Array, ...], updates: Array) -> None:
    """Store `updates`, or combine them with what stands there, repeated addresses in order."""
    reduction = text(op, "reduction", "none")
    if reduction == "none":
        target[address] = updates
    elif reduction in _REDUCTIONS:
        _REDUCTIONS[reduction].at(target, address, updates)
    else:
        raise bad(op, f"reduction '{reduction}' is unknown; expected none, {', '.join(_REDUCTIONS)}")


class _Scattering(Operator):
    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        data = required(op, inputs, 0, "data")
        return [(data.shape, data.dtype)]


@operator("ScatterElements", "Scatter")
class ScatterElements(_Scattering):
    """One element for each index, along one axis."""

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        data, indices = required(op, inputs, 0, "data"), required(op, inputs, 1, "indices")
        axis = normal_axis(op, int(op.attributes.get("axis", 0)), data.ndim)
        address: list[Array] = list(np.indices(indices.shape, sparse=True))
        address[axis] = bounded(op, indices, data.shape[axis])
        result = data.copy()
        _write(op, result, tuple(address), required(op, inputs, 2, "updates"))
        return [result]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        data, indices = required(op, inputs, 0, "data"), required(op, inputs, 1, "indices")
        updates = required(op, inputs, 2, "updates")
        return scatter_work(op, data, (indices, updates), outputs, 1, updates.elements)


@operator("ScatterND")
class ScatterND(_Scattering):
    """Slices at index tuples, the last axis of the indices."""

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        data, indices = required(op, inputs, 0, "data"), required(op, inputs, 1, "indices")
        address = [bounded(op, indices[..., axis], data.shape[axis]) for axis in range(indices.shape[-1])]
        result = data.copy()
        _write(op, result, tuple(address), required(op, inputs, 2, "updates"))
        return [result]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        data, indices = required(op, inputs, 0, "data"), required(op, inputs, 1, "indices")
        updates = required(op, inputs, 2, "updates")
        run = math.prod(data.shape[indices.shape[-1] :])
        return scatter_work(op, data, (indices, updates), outputs, run, updates.elements)


@operator("TensorScatter")
class TensorScatter(_Scattering):
    """New entries of a key or value cache written at `write_indices`, past the end wrapping round if `circular`."""

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        cache, update = required(op, inputs, 0, "past_cache"), required(op, inputs, 1, "update")
        starts = optional(inputs, 2)
        axis = self._axis(op, cache.ndim)
        starts = np.zeros(cache.shape[0], np.int64) if starts is None else starts
        places = starts[:, None] + np.arange(update.shape[axis])
        if text(op, "mode", "linear") == "circular":
            places = places % cache.shape[axis]
        result = np.moveaxis(cache.copy(), axis, 1)
        result[np.arange(cache.shape[0])[:, None], bounded(op, places, cache.shape[axis])] = np.moveaxis(
            update, axis, 1
        )
        return [np.ascontiguousarray(np.moveaxis(result, 1, axis))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """The standard describes it as the update of a cache in place, so only the new entries move."""
        update = required(op, inputs, 1, "update")
        run = math.prod(update.shape[self._axis(op, len(update.shape)) :])
        return Gather(
            kind=op.kind,
            reads=operands(inputs, 1, 2),
            writes=(outputs[0].operand(update.elements),),
            lookups=update.elements // max(run, 1),
            run_bytes=dtype(update.dtype).bytes_for(run),
            scatter=True,
        )

    @staticmethod
    def _axis(op: Op, rank: int) -> int:
        axis = normal_axis(op, int(op.attributes.get("axis", -2)), rank)
        if axis == 0:
            raise bad(op, "axis 0 is the batch's, expected a later one")
        return axis
