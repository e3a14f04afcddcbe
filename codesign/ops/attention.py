"""Scaled dot-product attention as one operation: heads that share keys, caches, masks, windows and soft caps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.dtypes import numpy_dtype
from codesign.graph import Op
from codesign.ops.arguments import bad, element_type, narrowed, operands, optional, required, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.work import Attention as AttentionWork
from codesign.work import Operand, Work

# Scalar operations a score, beyond the five that the work counts: division, tanh (6) and product; and an addition.
_SOFTCAP_FLOPS = 8
_BIAS_FLOPS = 1


@dataclass(frozen=True, slots=True)
class Heads:
    """Extents of an attention: `kv_length` counts the keys of the past too."""

    batch: int
    heads: int
    kv_heads: int
    query_length: int
    past_length: int
    kv_length: int
    head_dim: int
    value_dim: int

    @property
    def scores(self) -> int:
        return self.batch * self.heads * self.query_length * self.kv_length

    def written(self, outputs: Sequence[Value], new_length: int) -> tuple[Operand, ...]:
        """The operands written: of present keys and values only `new_length` tokens, since room for the tokens to come
        is kept beside each cache and the past stays where it lies."""
        new = self.batch * self.kv_heads * new_length
        sizes = (None, new * self.head_dim, new * self.value_dim, None)
        return tuple(value.operand(size) for value, size in zip(outputs, sizes, strict=False))

    def work(
        self, op: Op, reads: tuple[Any, ...], writes: tuple[Any, ...], dtype: str, causal: bool, flops: int
    ) -> AttentionWork:
        """`causal` must mean a mask aligned at the end; `flops` are those beside products and softmax."""
        return AttentionWork(
            kind=op.kind,
            reads=reads,
            writes=writes,
            epilogue_flops=flops,
            batch=self.batch,
            heads=self.heads,
            kv_heads=self.kv_heads,
            query_length=self.query_length,
            kv_length=self.kv_length,
            head_dim=self.head_dim,
            value_dim=self.value_dim,
            dtype=dtype,
            causal=causal,
        )


def split_heads(values: Array, heads: int) -> Array:
    """(batch, length, heads * width) as (batch, heads, length, width), a view."""
    batch, length, hidden = values.shape
    return values.reshape(batch, length, heads, hidden // heads).transpose(0, 2, 1, 3)


def merge_heads(values: Array) -> Array:
    """(batch, heads, length, width) as (batch, length, heads * width)."""
    batch, heads, length, width = values.shape
    return values.transpose(0, 2, 1, 3).reshape(batch, length, heads * width)


def position_bias(
    offsets: Array, query_length: int, kv_length: int, causal: bool, left: int, right: int, dtype: np.dtype[Any]
) -> Array | None:
    """0 where the query at `offset + row` may see the key, -inf elsewhere; None when every query sees every key.

    `offsets` (batch or 1,); `left` and `right` limit the distance to keys before and after, -1 does not. The result is
    (len(offsets), 1, query_length, kv_length).
    """
    right = 0 if causal else right
    if left < 0 and right < 0:
        return None
    ahead = np.arange(kv_length) - (np.arange(query_length)[:, None] + offsets.reshape(-1, 1, 1, 1))
    hidden = np.zeros(ahead.shape, bool)
    if right >= 0:
        hidden |= ahead > right
    if left >= 0:
        hidden |= ahead < -left
    return np.where(hidden, -np.inf, 0).astype(dtype)


def mask_bias(mask: Array, kv_length: int, dtype: np.dtype[Any]) -> Array:
    """A mask (booleans that are true where a key is seen, or numbers to add) as numbers to add; keys it lacks are
    hidden."""
    bias = np.where(mask, 0, -np.inf).astype(dtype) if mask.dtype == np.bool_ else mask.astype(dtype)
    missing = kv_length - bias.shape[-1]
    if missing > 0 and bias.shape[-1] > 0:
        bias = np.pad(bias, [(0, 0)] * (bias.ndim - 1) + [(0, missing)], constant_values=-np.inf)
    return bias


def added(first: Array | None, second: Array | None) -> Array | None:
    """The sum of those that are given."""
    if first is None or second is None:
        return second if first is None else first
    return first + second


@operator("Attention")
class Attention(Operator):
    """Inputs: query, key, value, mask, past key, past value, number of valid keys; 3-D with heads side by side or 4-D.

    Outputs: result, present key, present value, scores at the stage that `qk_matmul_output_mode` names.
    """

    @staticmethod
    def heads(op: Op, inputs: Sequence[Any]) -> Heads:
        query, key, value = (required(op, inputs, index, "QKV"[index]).shape for index in range(3))
        past = optional(inputs, 4)
        if not len(query) == len(key) == len(value) or len(query) not in (3, 4):
            raise bad(op, f"expected Q, K and V all 3-D or all 4-D, got {list(query)}, {list(key)}, {list(value)}")
        if len(query) == 3:
            heads, kv_heads = int(op.attributes.get("q_num_heads", 0)), int(op.attributes.get("kv_num_heads", 0))
            if heads < 1 or kv_heads < 1 or query[2] % heads or key[2] % kv_heads or value[2] % kv_heads:
                raise bad(op, f"'q_num_heads' {heads}, 'kv_num_heads' {kv_heads} do not divide {query[2]}, {key[2]}")
            lengths, widths = (query[1], key[1]), (query[2] // heads, key[2] // kv_heads, value[2] // kv_heads)
        else:
            heads, kv_heads = query[1], key[1]
            lengths, widths = (query[2], key[2]), (query[3], key[3], value[3])
        if kv_heads < 1 or heads % kv_heads or widths[0] != widths[1] or value[-2] != key[-2]:
            raise bad(op, f"Q {list(query)}, K {list(key)} and V {list(value)} do not fit together")
        past_length = past.shape[2] if past is not None else 0
        return Heads(query[0], heads, kv_heads, lengths[0], past_length, past_length + lengths[1], widths[0], widths[2])

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        found, dtype = self.heads(op, inputs), required(op, inputs, 0, "Q").dtype
        result: tuple[int, ...] = (found.batch, found.heads, found.query_length, found.value_dim)
        if len(required(op, inputs, 0, "Q").shape) == 3:
            result = (found.batch, found.query_length, found.heads * found.value_dim)
        cache = (found.batch, found.kv_heads, found.kv_length)
        scores = (found.batch, found.heads, found.query_length, found.kv_length)
        keys, values = ((*cache, found.head_dim), dtype), ((*cache, found.value_dim), dtype)
        return [(result, dtype), keys, values, (scores, dtype)][: len(op.outputs)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        from codesign.executor.kernels.attention import attend

        found = self.heads(op, inputs)
        given = [required(op, inputs, index, "QKV"[index]) for index in range(3)]
        flat, dtype = given[0].ndim == 3, given[0].dtype
        query, key, value = given
        if flat:
            query, key, value = (
                split_heads(array, heads)
                for array, heads in zip(given, (found.heads, found.kv_heads, found.kv_heads), strict=True)
            )
        past_key, past_value = optional(inputs, 4), optional(inputs, 5)
        if past_key is not None and past_value is not None:
            key, value = np.concatenate((past_key, key), axis=2), np.concatenate((past_value, value), axis=2)
        scale = op.attributes.get("scale") or 1 / math.sqrt(found.head_dim)
        softcap, mode = op.attributes.get("softcap", 0.0), int(op.attributes.get("qk_matmul_output_mode", 0))
        precision = numpy_dtype(element_type(op, "softmax_precision", "float32"))
        wide = widened(query)
        result, scores = attend(
            wide,
            widened(key),
            widened(value),
            self.bias(op, inputs, found, wide.dtype),
            scale,
            softcap,
            precision if "softmax_precision" in op.attributes else None,
            mode if len(op.outputs) > 3 else None,
        )
        outputs = [narrowed(merge_heads(result) if flat else result, dtype), key, value]
        return [*outputs, narrowed(scores, dtype)] if scores is not None else outputs[: len(op.outputs)]

    @staticmethod
    def bias(op: Op, inputs: Sequence[Array | None], found: Heads, dtype: np.dtype[Any]) -> Array | None:
        """Everything added to the scores: mask, keys hidden by their position, padding of an external cache."""
        mask, valid = optional(inputs, 3), optional(inputs, 6)
        bias = None if mask is None else mask_bias(mask, found.kv_length, dtype)
        offsets = np.array([found.past_length]) if valid is None else valid.reshape(-1) - found.query_length
        left, right = (int(op.attributes.get(f"{side}_window_size", -1)) for side in ("left", "right"))
        causal = bool(op.attributes.get("is_causal", 0))
        bias = added(bias, position_bias(offsets, found.query_length, found.kv_length, causal, left, right, dtype))
        if valid is None:
            return bias
        padding = mask_bias(np.arange(found.kv_length) < valid.reshape(-1, 1, 1, 1), found.kv_length, dtype)
        return added(bias, padding)

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        found = self.heads(op, inputs)
        # Without a past the standard aligns the mask at the start, which is the same only for a square.
        at_end = found.past_length + found.query_length == found.kv_length or optional(inputs, 6) is not None
        each = _SOFTCAP_FLOPS * bool(op.attributes.get("softcap", 0.0))
        each += _BIAS_FLOPS * (optional(inputs, 3) is not None)
        return found.work(
            op,
            operands(inputs),
            found.written(outputs, found.kv_length - found.past_length),
            required(op, inputs, 0, "Q").dtype,
            bool(op.attributes.get("is_causal", 0)) and at_end,
            each * found.scores,
        )
