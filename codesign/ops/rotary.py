"""Rotary position embedding (Su et al. 2021): pairs of channels turned by an angle that grows with the position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, narrowed, operands, optional, required, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.work import Map, Operand, Work

# Four products, an addition and a subtraction for each pair of elements.
FLOPS_PER_ELEMENT = 3.0


def rotate(values: Array, cosine: Array, sine: Array, interleaved: bool) -> Array:
    """Turn the first channels of `values`; pairs are neighbours when `interleaved`, else halves.

    values (..., width); cosine and sine (..., turned / 2), broadcast. Channels from `turned` on stay.
    """
    half = cosine.shape[-1]
    turned = values[..., : 2 * half]
    first, second = (turned[..., 0::2], turned[..., 1::2]) if interleaved else (turned[..., :half], turned[..., half:])
    result = values.copy()
    target = result[..., : 2 * half]
    real, imaginary = (
        (target[..., 0::2], target[..., 1::2]) if interleaved else (target[..., :half], target[..., half:])
    )
    np.subtract(cosine * first, sine * second, out=real)
    np.add(sine * first, cosine * second, out=imaginary)
    return result


@operator("RotaryEmbedding")
class RotaryEmbedding(Operator):
    """Inputs: values (batch, heads, length, width) or (batch, length, heads * width), cosines, sines, positions."""

    @staticmethod
    def _width(op: Op, shape: tuple[int, ...]) -> int:
        """Channels of a head."""
        heads = int(op.attributes.get("num_heads", 0))
        if len(shape) == 4:
            return shape[3]
        if len(shape) != 3 or heads < 1 or shape[2] % heads:
            raise bad(op, f"expected a 4-D input, or a 3-D one and 'num_heads', got {list(shape)} and {heads}")
        return shape[2] // heads

    def _turned(self, op: Op, shape: tuple[int, ...]) -> int:
        return int(op.attributes.get("rotary_embedding_dim", 0)) or self._width(op, shape)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        value, table = required(op, inputs, 0, "X"), required(op, inputs, 1, "cos_cache")
        turned = self._turned(op, value.shape)
        if table.shape[-1] * 2 != turned:
            raise bad(op, f"'cos_cache' {list(table.shape)} does not hold half of the {turned} channels turned")
        return [(value.shape, value.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values, positions = required(op, inputs, 0, "X"), optional(inputs, 3)
        tables = [widened(required(op, inputs, index, "cache")) for index in (1, 2)]
        cosine, sine = (table if positions is None else table[positions] for table in tables)
        flat = values.ndim == 3
        width = self._width(op, values.shape)
        wide = widened(values).reshape(*values.shape[:2], -1, width) if flat else widened(values)
        axis = 2 if flat else 1
        result = rotate(
            wide,
            np.expand_dims(cosine, axis),
            np.expand_dims(sine, axis),
            bool(op.attributes.get("interleaved", 0)),
        )
        return [narrowed(result.reshape(values.shape), values.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        value = required(op, inputs, 0, "X")
        share = self._turned(op, value.shape) / self._width(op, value.shape)
        return Map(
            kind=op.kind,
            reads=self._reads(op, inputs, value),
            writes=(outputs[0].operand(),),
            elements=value.elements,
            flops_per_element=FLOPS_PER_ELEMENT * share,
            dtype=value.dtype,
        )

    @staticmethod
    def _reads(op: Op, inputs: Sequence[Value | None], value: Value) -> tuple[Operand, ...]:
        """Of a table only the rows of the positions at hand are read."""
        positions = optional(inputs, 3)
        if positions is None:
            return operands(inputs)
        tables = [required(op, inputs, index, "cache") for index in (1, 2)]
        rows = tuple(table.operand(positions.elements * table.shape[-1]) for table in tables)
        return (value.operand(), *rows, positions.operand())


@operator("RotaryEmbedding", domain="com.microsoft")
class ContributedRotaryEmbedding(RotaryEmbedding):
    """As ONNX Runtime had it before the standard: positions, one first position for all or one a token, come before
    the tables, and a 3-D input has as many heads as its width holds when `num_heads` is not given."""

    @staticmethod
    def _standard(op: Op, inputs: Sequence[Any]) -> tuple[Op, list[Any]]:
        """The operation and its inputs in the standard's form, positions apart."""
        if op.attributes.get("is_packed_batching", 0):
            raise bad(op, "attribute 'is_packed_batching' is 1, expected sequences of one length")
        value, cosine, sine = (required(op, inputs, index, "input, cos_cache, sin_cache") for index in (0, 2, 3))
        attributes = dict(op.attributes)
        if len(value.shape) == 3 and not attributes.get("num_heads", 0):
            attributes["num_heads"] = max(value.shape[2] // (2 * cosine.shape[-1]), 1)
        return replace(op, attributes=attributes), [value, cosine, sine]

    @staticmethod
    def _tokens(shape: tuple[int, ...]) -> tuple[int, int]:
        """Batch and length."""
        return shape[0], shape[1] if len(shape) == 3 else shape[2]

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        return super().infer(*self._standard(op, inputs))

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        inner, arrays = self._standard(op, inputs)
        positions, (batch, length) = required(op, inputs, 1, "position_ids"), self._tokens(arrays[0].shape)
        if positions.size == 1 and positions.ndim < 2:
            positions = positions.reshape(1, 1) + np.arange(length)
        return super().compute(inner, [*arrays, np.broadcast_to(positions, (batch, length))])

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        inner, values = self._standard(op, inputs)
        positions = replace(required(op, inputs, 1, "position_ids"), shape=self._tokens(values[0].shape))
        return super().work(inner, [*values, positions], outputs)


@operator("MRotaryEmbedding", domain="com.microsoft")
class MultimodalRotaryEmbedding(ContributedRotaryEmbedding):
    """Rotation by three positions of each token, in time, height and width (Wang et al. 2024, Qwen2-VL,
    arXiv:2409.12191): positions (3, batch, length). `mrope_section` says how many angles are turned by each, one after
    the other, or in turns with `mrope_layout` 1."""

    def _sections(self, op: Op, half: int) -> Array:
        """Which of the three positions turns each angle."""
        time, height, width = (int(one) for one in op.attributes.get("mrope_section", (half, 0, 0)))
        if time + height + width != half:
            raise bad(op, f"sections {time}, {height} and {width} do not make up {half} angles")
        if not int(op.attributes.get("mrope_layout", 0)):
            return np.repeat([0, 1, 2], (time, height, width))
        axis = np.zeros(half, np.int64)
        axis[1 : 3 * height : 3], axis[2 : 3 * width : 3] = 1, 2
        return axis

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        inner, (values, cosine, sine) = self._standard(op, inputs)
        positions, (batch, length) = required(op, inputs, 1, "position_ids"), self._tokens(values.shape)
        axis = self._sections(op, cosine.shape[-1])
        chosen = np.broadcast_to(positions, (3, batch, length))[axis].transpose(1, 2, 0)
        angles = np.arange(len(axis))
        tables = [table[chosen, angles].reshape(batch * length, -1) for table in (cosine, sine)]
        order = np.arange(batch * length).reshape(batch, length)
        return RotaryEmbedding.compute(self, inner, [values, *tables, order])
