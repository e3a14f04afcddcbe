"""Self-attention with its own projection, in floats and in integers (Attention and QAttention of ONNX Runtime)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, operands, optional, required, widened
from codesign.ops.attention import Heads, added, position_bias, split_heads
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.contributed_attention import attended, extent, key_mask_bias
from codesign.ops.quantised import integer_product
from codesign.work import Contraction, Work

_DEQUANTISE_FLOPS = 2
"""A conversion and a product for each sum of the integer projection."""


@operator("Attention", domain="com.microsoft")
class ProjectedAttention(Operator):
    """Inputs: values (batch, length, width), weights (width, query + key + value widths), bias, mask of keys, past (2,
    batch, heads, length, head width), bias of the scores.

    The work is that of the projection, whose weights weigh most; attention's arithmetic is counted as its epilogue.
    """

    mask_index, past_index, bias_index = 3, 4, 5

    def _heads(self, op: Op, inputs: Sequence[Any]) -> tuple[Heads, tuple[int, int, int]]:
        """Extents, and the widths of query, key and value."""
        values, weights = required(op, inputs, 0, "input").shape, required(op, inputs, 1, "weights").shape
        past, heads = optional(inputs, self.past_index), extent(op, "num_heads")
        third = weights[1] // 3
        widths = tuple(int(width) for width in op.attributes.get("qkv_hidden_sizes", ()) or (third, third, third))
        for name in ("do_rotary", "past_present_share_buffer"):
            if op.attributes.get(name, 0):
                raise bad(op, f"attribute '{name}' is 1, which no CPU kernel of onnxruntime knows either")
        if len(values) != 3 or values[2] != weights[0] or sum(widths) != weights[1]:
            raise bad(
                op, f"input {list(values)}, weights {list(weights)} and widths {list(widths)} do not fit together"
            )
        past_length = past.shape[3] if past is not None else 0
        total = past_length + values[1]
        found = Heads(values[0], heads, heads, values[1], past_length, total, widths[0] // heads, widths[2] // heads)
        return found, (widths[0], widths[1], widths[2])

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        found, widths = self._heads(op, inputs)
        result: tuple[int, ...] = (found.batch, found.query_length, widths[2])
        present: tuple[int, ...] = (2, found.batch, found.heads, found.kv_length, found.head_dim)
        return [(shape, self._real(op, inputs).dtype) for shape in (result, present)][: len(op.outputs)]

    @staticmethod
    def _real(op: Op, inputs: Sequence[Any]) -> Any:
        """An input of the type that attention is computed in."""
        return required(op, inputs, 0, "input")

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        found, widths = self._heads(op, inputs)
        past, scores, bias = optional(inputs, self.past_index), optional(inputs, self.bias_index), optional(inputs, 2)
        projected = self._projected(op, inputs)
        projected = projected if bias is None else projected + bias
        parts = np.split(projected, (widths[0], widths[0] + widths[1]), axis=-1)
        query, key, value = (split_heads(part, found.heads) for part in parts)
        if past is not None:
            key, value = np.concatenate((past[0], key), axis=2), np.concatenate((past[1], value), axis=2)
        dtype = widened(query).dtype
        total = key_mask_bias(op, optional(inputs, self.mask_index), found, dtype)
        causal = bool(op.attributes.get("unidirectional", 0))
        offsets = np.array([found.past_length])
        total = added(total, position_bias(offsets, found.query_length, found.kv_length, causal, -1, -1, dtype))
        total = added(total, None if scores is None else scores.astype(dtype))
        outputs = attended(op, found, (query, key, value), total)
        return [*outputs, np.stack((key, value))] if len(op.outputs) > 1 else outputs

    @staticmethod
    def _projected(op: Op, inputs: Sequence[Array | None]) -> Array:
        values, weights = required(op, inputs, 0, "input"), required(op, inputs, 1, "weights")
        return np.asarray(values @ weights)

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        (found, widths), value = self._heads(op, inputs), required(op, inputs, 0, "input")
        causal = bool(op.attributes.get("unidirectional", 0))
        attention = found.work(op, (), (), outputs[0].dtype, causal, 0)
        additions = (optional(inputs, 2) is not None) * found.batch * found.query_length * sum(widths)
        given = (self.mask_index, self.bias_index)
        additions += found.scores * sum(optional(inputs, index) is not None for index in given)
        return Contraction(
            kind=op.kind,
            reads=operands(inputs),
            writes=tuple(output.operand() for output in outputs),
            epilogue_flops=attention.flops + additions,
            batch=1,
            m=found.batch * found.query_length,
            n=sum(widths),
            k=value.shape[2],
            dtype=value.dtype,
        )


@operator("QAttention", domain="com.microsoft")
class QuantisedAttention(ProjectedAttention):
    """The projection in integers, attention in floats. Inputs: values and weights of 8 bits, bias, scale of the values,
    scale of the weights (of all or of each column), mask of keys, zero points of both, past."""

    mask_index, past_index, bias_index = 5, 8, 9

    @staticmethod
    def _real(op: Op, inputs: Sequence[Any]) -> Any:
        return required(op, inputs, 2, "bias")

    @staticmethod
    def _projected(op: Op, inputs: Sequence[Array | None]) -> Array:
        values, weights = required(op, inputs, 0, "input"), required(op, inputs, 1, "weight")
        scale = required(op, inputs, 3, "input_scale") * required(op, inputs, 4, "weight_scale")
        sums = integer_product(values, weights, optional(inputs, 6), optional(inputs, 7))
        return np.asarray(sums.astype(np.float32) * scale)

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        product = super().work(op, inputs, outputs)
        (found, widths) = self._heads(op, inputs)
        scaled = _DEQUANTISE_FLOPS * found.batch * found.query_length * sum(widths)
        return replace(product, epilogue_flops=product.epilogue_flops + scaled)
