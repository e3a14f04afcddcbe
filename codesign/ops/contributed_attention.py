"""Attention as ONNX Runtime's fused operators of the com.microsoft domain write it (docs/ContribOperators.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, narrowed, operands, optional, required, widened
from codesign.ops.attention import Heads, added, mask_bias, merge_heads, position_bias, split_heads
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.rotary import FLOPS_PER_ELEMENT, rotate
from codesign.work import Contraction, Work


def _extent(op: Op, name: str) -> int:
    found = int(op.attributes.get(name, 0))
    if found < 1:
        raise bad(op, f"attribute '{name}' is {found}, expected a positive number")
    return found


def _scale(op: Op, found: Heads) -> float:
    return float(op.attributes.get("scale", 0.0)) or 1 / math.sqrt(found.head_dim)


def key_mask_bias(op: Op, mask: Array | None, kv_length: int, dtype: np.dtype[Any]) -> Array | None:
    """A mask of keys as numbers to add: lengths (batch,), or ones where a key is seen, (batch, keys) or with queries
    (batch, queries, keys)."""
    if mask is None:
        return None
    if mask.ndim == 1:
        return mask_bias(np.arange(kv_length) < mask.reshape(-1, 1, 1, 1), kv_length, dtype)
    if mask.ndim not in (2, 3):
        raise bad(op, f"mask {list(mask.shape)} is not (batch), (batch, keys) or (batch, queries, keys)")
    seen = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
    return mask_bias(seen.astype(bool), kv_length, dtype)


def _attend(op: Op, found: Heads, query: Array, key: Array, value: Array, bias: Array | None) -> Array:
    """(batch, length, heads * value width), in the type of the query."""
    from codesign.executor.kernels.attention import attend

    softcap = float(op.attributes.get("softcap", 0.0))
    result, _ = attend(widened(query), widened(key), widened(value), bias, _scale(op, found), softcap)
    return narrowed(merge_heads(result), query.dtype)


@operator("MultiHeadAttention", domain="com.microsoft")
class MultiHeadAttention(Operator):
    """Inputs: query (batch, length, hidden), key and value likewise or already split into heads, bias of all three,
    mask of keys, bias of the scores, past key, past value. Outputs: result, present key, present value.
    """

    @staticmethod
    def _heads(op: Op, inputs: Sequence[Any]) -> Heads:
        query, key, value = (required(op, inputs, index, "query, key, value").shape for index in range(3))
        heads, past = _extent(op, "num_heads"), optional(inputs, 6)
        if len(query) != 3 or len(key) not in (3, 4) or len(key) != len(value) or query[2] % heads:
            raise bad(op, f"query {list(query)}, key {list(key)}, value {list(value)} and {heads} heads do not fit")
        length = key[1] if len(key) == 3 else key[2]
        value_dim = value[2] // heads if len(value) == 3 else value[3]
        past_length = past.shape[2] if past is not None else 0
        return Heads(query[0], heads, heads, query[1], past_length, past_length + length, query[2] // heads, value_dim)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        found, dtype = self._heads(op, inputs), required(op, inputs, 0, "query").dtype
        cache = (found.batch, found.heads, found.kv_length)
        shapes = [(found.batch, found.query_length, found.heads * found.value_dim)]
        return [(shape, dtype) for shape in (*shapes, (*cache, found.head_dim), (*cache, found.value_dim))][
            : len(op.outputs)
        ]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        found = self._heads(op, inputs)
        query, key, value = self._split(op, inputs, found)
        past_key, past_value = optional(inputs, 6), optional(inputs, 7)
        if past_key is not None and past_value is not None:
            key, value = np.concatenate((past_key, key), axis=2), np.concatenate((past_value, value), axis=2)
        dtype = widened(query).dtype
        bias = key_mask_bias(op, optional(inputs, 4), found.kv_length, dtype)
        scores = optional(inputs, 5)
        bias = added(bias, None if scores is None else scores.astype(dtype))
        causal = bool(op.attributes.get("unidirectional", 0))
        offsets = np.array([found.kv_length - found.query_length])
        bias = added(bias, position_bias(offsets, found.query_length, found.kv_length, causal, -1, -1, dtype))
        return [_attend(op, found, query, key, value, bias), key, value][: len(op.outputs)]

    @staticmethod
    def _split(op: Op, inputs: Sequence[Array | None], found: Heads) -> list[Array]:
        """Query, key and value with their biases, split into heads."""
        arrays = [required(op, inputs, index, "query, key, value") for index in range(3)]
        bias = optional(inputs, 3)
        if bias is not None:
            width = found.heads * found.head_dim
            parts = np.split(bias, (width, 2 * width))
            arrays = [array + part if array.ndim == 3 else array for array, part in zip(arrays, parts, strict=True)]
        return [split_heads(array, found.heads) if array.ndim == 3 else array for array in arrays]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        found = self._heads(op, inputs)
        flops = found.scores * sum(optional(inputs, index) is not None for index in (4, 5))
        if optional(inputs, 3) is not None:
            flops += sum(required(op, inputs, index, "query, key, value").elements for index in range(3))
        return found.work(
            op,
            operands(inputs),
            found.written(outputs, found.kv_length - found.past_length),
            required(op, inputs, 0, "query").dtype,
            bool(op.attributes.get("unidirectional", 0)),
            flops,
        )


@operator("GroupQueryAttention", domain="com.microsoft")
class GroupQueryAttention(Operator):
    """Causal attention that owns its cache. Inputs: query, key, value (or all three in the query), past key, past
    value, index of the last valid key a sequence, total length, cosines, sines. Outputs: result, present key and value.

    The cache may be longer than what it holds; the present is as long as the longer of it and the total length.
    """

    @staticmethod
    def _heads(op: Op, inputs: Sequence[Any]) -> Heads:
        query, past, total = required(op, inputs, 0, "query").shape, optional(inputs, 3), optional(inputs, 6)
        heads, kv_heads = _extent(op, "num_heads"), _extent(op, "kv_num_heads")
        packed = optional(inputs, 1) is None
        across = heads + 2 * kv_heads if packed else heads
        if len(query) != 3 or query[2] % across or heads % kv_heads:
            raise bad(op, f"query {list(query)} does not split into {heads} heads that share {kv_heads}")
        past_length = past.shape[2] if past is not None else 0
        constant = total.constant if isinstance(total, Value) else total
        length = past_length + query[1] if constant is None else max(past_length, int(constant.reshape(-1)[0]))
        width = query[2] // across
        return Heads(query[0], heads, kv_heads, query[1], past_length, length, width, width)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        self._check(op, inputs)
        found, dtype = self._heads(op, inputs), required(op, inputs, 0, "query").dtype
        cache: tuple[int, ...] = (found.batch, found.kv_heads, found.kv_length, found.head_dim)
        result: tuple[int, ...] = (found.batch, found.query_length, found.heads * found.head_dim)
        return [(shape, dtype) for shape in (result, cache, cache)][: len(op.outputs)]

    @staticmethod
    def _check(op: Op, inputs: Sequence[Any]) -> None:
        quantised = [name for name in ("k_quant_type", "v_quant_type") if op.attributes.get(name, "NONE") != "NONE"]
        wanted = [name for name in ("smooth_softmax", "qk_output") if int(op.attributes.get(name, 0)) > 0]
        extra = [index for index in range(11, len(inputs)) if inputs[index] is not None]
        if quantised or wanted or extra:
            what = ", ".join([*quantised, *wanted, *(f"input {index}" for index in extra)])
            raise bad(op, f"{what}: not known; expected plain caches and a plain softmax")

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        self._check(op, inputs)
        found = self._heads(op, inputs)
        query, key, value = self._split(op, inputs, found)
        lengths = required(op, inputs, 5, "seqlens_k").reshape(-1).astype(np.int64) + 1
        starts = np.maximum(lengths - found.query_length, 0)
        if op.attributes.get("do_rotary", 0):
            query, key = self._rotated(op, inputs, starts, query), self._rotated(op, inputs, starts, key)
        keys, values = (_appended(optional(inputs, index), new, starts, found) for index, new in ((3, key), (4, value)))
        dtype, window = widened(query).dtype, int(op.attributes.get("local_window_size", -1))
        bias = position_bias(
            starts, found.query_length, found.kv_length, True, window - 1 if window > 0 else -1, -1, dtype
        )
        scores = optional(inputs, 10)
        bias = added(bias, None if scores is None else mask_bias(scores, found.kv_length, dtype))
        return [_attend(op, found, query, keys, values, bias), keys, values][: len(op.outputs)]

    @staticmethod
    def _split(op: Op, inputs: Sequence[Array | None], found: Heads) -> list[Array]:
        query = required(op, inputs, 0, "query")
        if optional(inputs, 1) is None:
            width, kv_width = found.heads * found.head_dim, found.kv_heads * found.head_dim
            query, key, value = np.split(query, (width, width + kv_width), axis=-1)
        else:
            key, value = required(op, inputs, 1, "key"), required(op, inputs, 2, "value")
        return [split_heads(query, found.heads), *(split_heads(array, found.kv_heads) for array in (key, value))]

    @staticmethod
    def _rotated(op: Op, inputs: Sequence[Array | None], starts: Array, values: Array) -> Array:
        positions = optional(inputs, 9)
        if positions is None:
            positions = starts[:, None] + np.arange(values.shape[2])
        cosine, sine = (widened(required(op, inputs, index, "cache"))[positions][:, None] for index in (7, 8))
        turned = rotate(widened(values), cosine, sine, bool(op.attributes.get("rotary_interleaved", 0)))
        return narrowed(turned, values.dtype)

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        found = self._heads(op, inputs)
        flops = 0
        if op.attributes.get("do_rotary", 0):
            turned = found.batch * found.query_length * (found.heads + found.kv_heads) * found.head_dim
            flops = int(FLOPS_PER_ELEMENT * turned)
        dtype = required(op, inputs, 0, "query").dtype
        return found.work(op, operands(inputs), found.written(outputs, found.query_length), dtype, True, flops)


def _appended(past: Array | None, new: Array, starts: Array, found: Heads) -> Array:
    """The cache with `new` written behind what each sequence holds already."""
    result = np.zeros((found.batch, found.kv_heads, found.kv_length, found.head_dim), new.dtype)
    if past is not None:
        result[:, :, : past.shape[2]] = past
    for sequence, start in enumerate(starts):
        result[sequence, :, start : start + new.shape[2]] = new[sequence]
    return result


@operator("Attention", domain="com.microsoft")
class ProjectedAttention(Operator):
    """Self-attention with its own projection. Inputs: values (batch, length, width), weights (width, query + key +
    value widths), bias, mask of keys, past (2, batch, heads, length, head width), bias of the scores.

    The work is that of the projection, whose weights weigh most; attention's arithmetic is counted as its epilogue.
    """

    @staticmethod
    def _heads(op: Op, inputs: Sequence[Any]) -> tuple[Heads, tuple[int, int, int]]:
        """Extents, and the widths of query, key and value."""
        values, weights = required(op, inputs, 0, "input").shape, required(op, inputs, 1, "weights").shape
        past, heads = optional(inputs, 4), _extent(op, "num_heads")
        third = weights[1] // 3
        widths = tuple(int(width) for width in op.attributes.get("qkv_hidden_sizes", ()) or (third, third, third))
        if (
            len(values) != 3
            or values[2] != weights[0]
            or sum(widths) != weights[1]
            or op.attributes.get("do_rotary", 0)
        ):
            raise bad(
                op, f"input {list(values)}, weights {list(weights)} and widths {list(widths)} do not fit together"
            )
        past_length = past.shape[3] if past is not None else 0
        total = past_length + values[1]
        found = Heads(values[0], heads, heads, values[1], past_length, total, widths[0] // heads, widths[2] // heads)
        return found, (widths[0], widths[1], widths[2])

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        (found, widths), dtype = self._heads(op, inputs), required(op, inputs, 0, "input").dtype
        result = (found.batch, found.query_length, widths[2])
        present = (2, found.batch, found.heads, found.kv_length, found.head_dim)
        return [(result, dtype), (present, dtype)][: len(op.outputs)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        found, widths = self._heads(op, inputs)
        values, weights = required(op, inputs, 0, "input"), required(op, inputs, 1, "weights")
        bias, past, scores = optional(inputs, 2), optional(inputs, 4), optional(inputs, 5)
        projected = values.reshape(-1, values.shape[2]) @ weights
        projected = (projected if bias is None else projected + bias).reshape(*values.shape[:2], -1)
        parts = np.split(projected, (widths[0], widths[0] + widths[1]), axis=-1)
        query, key, value = (split_heads(part, found.heads) for part in parts)
        if past is not None:
            key, value = np.concatenate((past[0], key), axis=2), np.concatenate((past[1], value), axis=2)
        total = key_mask_bias(op, optional(inputs, 3), found.kv_length, values.dtype)
        causal = bool(op.attributes.get("unidirectional", 0))
        offsets = np.array([found.past_length])
        total = added(total, position_bias(offsets, found.query_length, found.kv_length, causal, -1, -1, values.dtype))
        total = added(total, scores)
        outputs = [_attend(op, found, query, key, value, total)]
        return [*outputs, np.stack((key, value))] if len(op.outputs) > 1 else outputs

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        (found, widths), value = self._heads(op, inputs), required(op, inputs, 0, "input")
        causal = bool(op.attributes.get("unidirectional", 0))
        attention = found.work(op, (), (), value.dtype, causal, 0)
        additions = (optional(inputs, 2) is not None) * found.batch * found.query_length * sum(widths)
        additions += found.scores * sum(optional(inputs, index) is not None for index in (3, 5))
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
