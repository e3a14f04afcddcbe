"""Rows looked up in tables that are quantised in blocks (GatherBlockQuantized of ONNX Runtime)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from codesign.dtypes import dtype
from codesign.graph import Op
from codesign.ops.arguments import bad, normal_axis, operands, optional, required, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import gather_work, inner_elements
from codesign.ops.quantised_weights import unpacked
from codesign.work import Work


@dataclass(frozen=True, slots=True)
class Table:
    """How a quantised table is laid out: the axis that is looked up, the axis that is cut into blocks, the values of a
    block, the bits of a value, and how many of them share a byte of the last axis."""

    looked_up: int
    cut: int
    block: int
    bits: int
    packed: int


@operator("GatherBlockQuantized", domain="com.microsoft")
class GatherBlockQuantized(Operator):
    """(data[indices] - zero point) scale. Inputs: data, indices, scales, zero points.

    Data of 4-bit types or small floats hold one value an element, bytes hold 8 / `bits` of them, the first in the
    lowest bits of the last axis; so do zero points, which are half the range of bytes and 0 else when not given. An
    index outside the table gives zeros.
    """

    @staticmethod
    def _table(op: Op, data: Value, scales: Value) -> Table:
        rank, kind = len(data.shape), dtype(data.dtype)
        bytes_of_values = data.dtype == "uint8"
        bits = int(op.attributes.get("bits", 4)) if bytes_of_values else kind.bits
        packed = 8 // bits if bytes_of_values else 1
        looked_up = normal_axis(op, int(op.attributes.get("gather_axis", 0)), rank)
        cut = normal_axis(op, int(op.attributes.get("quantize_axis", 1)), rank)
        extent = data.shape[cut] * (packed if cut == rank - 1 else 1)
        block = int(op.attributes.get("block_size", 128)) or extent
        if len(scales.shape) != rank or scales.shape[cut] != -(-extent // block) or bits not in (2, 4, 8):
            raise bad(
                op,
                f"data {list(data.shape)} of {bits} bits and scales {list(scales.shape)} do not fit blocks of {block} "
                f"along axis {cut}",
            )
        return Table(looked_up, cut, block, bits, packed)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        data, indices, scales = (
            required(op, inputs, index, name) for index, name in enumerate(("data", "indices", "scales"))
        )
        table = self._table(op, data, scales)
        shape = (*data.shape[:-1], data.shape[-1] * table.packed)
        return [((*shape[: table.looked_up], *indices.shape, *shape[table.looked_up + 1 :]), scales.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        from codesign.dtypes import name_of

        data, indices, scales = (
            required(op, inputs, index, name) for index, name in enumerate(("data", "indices", "scales"))
        )
        zeros = optional(inputs, 3)
        found = self._table(op, Value(data.shape, name_of(data.dtype)), Value(scales.shape, name_of(scales.dtype)))
        extent = data.shape[found.looked_up]
        chosen = np.where(indices < 0, indices + extent, indices).astype(np.int64)
        inside = (chosen >= 0) & (chosen < extent)
        chosen = np.where(inside, chosen, 0)
        whole = self._values(data, chosen, found)
        offset = np.float32(1 << found.bits - 1 if found.packed > 1 or data.dtype == np.uint8 else 0)
        scale = self._by_block(scales, chosen, found, whole.shape)
        zero = offset if zeros is None else self._by_block(self._unpacked(zeros, found), chosen, found, whole.shape)
        real = (whole.astype(np.float32) - zero) * scale
        place = (slice(None),) * found.looked_up + (~inside,)
        real[place] = 0
        return [real.astype(scales.dtype)]

    @staticmethod
    def _unpacked(values: Array, found: Table) -> Array:
        return unpacked(values, found.bits) if found.packed > 1 else widened(values)

    def _values(self, data: Array, chosen: Array, found: Table) -> Array:
        return self._unpacked(np.take(data, chosen, axis=found.looked_up), found)

    @staticmethod
    def _by_block(parameters: Array, chosen: Array, found: Table, shape: tuple[int, ...]) -> Array:
        """Scales or zero points of the values looked up, in float32."""
        axis = found.looked_up
        if parameters.shape[axis] == 1:
            chosen = np.zeros_like(chosen)
        elif axis == found.cut:
            chosen = chosen // found.block
        taken = widened(np.take(parameters, chosen, axis=axis)).astype(np.float32)
        if axis == found.cut:
            return taken
        cut = found.cut + (chosen.ndim - 1 if found.cut > axis else 0)
        spread = np.repeat(taken, found.block, axis=cut)
        return spread[(slice(None),) * cut + (slice(shape[cut]),)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """Of the table and its parameters only what is looked up is read."""
        data, indices, scales = (
            required(op, inputs, index, name) for index, name in enumerate(("data", "indices", "scales"))
        )
        found = self._table(op, data, scales)
        share = outputs[0].elements / max(data.elements * found.packed, 1)
        gathered = gather_work(op, data, (indices,), outputs, inner_elements(data.shape, found.looked_up))
        read = data.operand(min(data.elements, -(-outputs[0].elements // found.packed)))
        others = tuple(
            value.operand(min(value.elements, int(value.elements * share) + 1))
            for value in (scales, optional(inputs, 3))
            if value is not None
        )
        return replace(gathered, reads=(read, *operands(inputs, 1), *others))
