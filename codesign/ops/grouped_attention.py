"""Attention of decoders whose query heads share key and value heads (GroupQueryAttention of ONNX Runtime)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, narrowed, operands, optional, required, text, widened
from codesign.ops.attention import Heads, added, mask_bias, position_bias, split_heads
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.contributed_attention import AFTER_SOFTMAX, BEFORE_SOFTMAX, attended, extent
from codesign.ops.quantised_weights import unpacked
from codesign.ops.rotary import FLOPS_PER_ELEMENT, rotate
from codesign.work import Work

_SINK_FLOPS = 2
"""An exponential's argument and an addition for each row of scores."""


@operator("GroupQueryAttention", domain="com.microsoft")
class GroupQueryAttention(Operator):
    """Attention that owns its cache. Inputs: query, key, value (or all three in the query), past key, past value, index
    of the last valid key of each sequence, total length, cosines, sines, positions, bias of the scores, sink of each
    head, scales of a quantised cache (keys, values), two that no CPU kernel knows, number of queries of each sequence.
    Outputs: result, present key, present value, scores before or after the softmax.

    The cache may be longer than what it holds; the present is as long as the longer of it and the total length. Rows of
    queries beyond a sequence's end and of caches beyond what they hold have no meaning. A sink is one more score in the
    denominator of the softmax; `smooth_softmax` is a sink of zero. Quantised caches hold integers of 8 bits, or of 4 in
    pairs, the first in the lower half of a byte and moved up by 8. Scores of keys that a query does not see are given
    out as 0.
    """

    @staticmethod
    def _heads(op: Op, inputs: Sequence[Any]) -> Heads:
        query, past, total = required(op, inputs, 0, "query").shape, optional(inputs, 3), optional(inputs, 6)
        heads, kv_heads = extent(op, "num_heads"), extent(op, "kv_num_heads")
        packed = optional(inputs, 1) is None
        across = heads + 2 * kv_heads if packed else heads
        if len(query) != 3 or query[2] % across or heads % kv_heads:
            raise bad(op, f"query {list(query)} does not split into {heads} heads that share {kv_heads}")
        past_length = past.shape[2] if past is not None else 0
        constant = total.constant if isinstance(total, Value) else total
        length = past_length + query[1] if constant is None else max(past_length, int(constant.reshape(-1)[0]))
        width = query[2] // across
        return Heads(query[0], heads, kv_heads, query[1], past_length, length, width, width)

    @staticmethod
    def _total(op: Op, inputs: Sequence[Any], found: Heads) -> int:
        """Keys that scores are made for: the total length, which a longer cache does not count for."""
        total = optional(inputs, 6)
        constant = total.constant if isinstance(total, Value) else total
        return found.kv_length if constant is None else int(constant.reshape(-1)[0])

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        self._check(op, inputs)
        found, dtype = self._heads(op, inputs), required(op, inputs, 0, "query").dtype
        past = optional(inputs, 3)
        stored = found.head_dim if past is None else past.shape[3]
        cache = ((found.batch, found.kv_heads, found.kv_length, stored), dtype if past is None else past.dtype)
        result = ((found.batch, found.query_length, found.heads * found.head_dim), dtype)
        scores = ((found.batch, found.heads, found.query_length, self._total(op, inputs, found)), dtype)
        return [result, cache, cache, scores][: len(op.outputs)]

    @staticmethod
    def _check(op: Op, inputs: Sequence[Any]) -> None:
        unknown = [f"input {index}" for index in (14, 15) if optional(inputs, index) is not None]
        unknown += ["sliding_window_cache"] if op.attributes.get("sliding_window_cache", 0) else []
        for side in ("k", "v"):
            kind, bits = text(op, f"{side}_quant_type", "NONE"), _cache_bits(op)
            if kind not in ("NONE", "PER_TENSOR", "PER_CHANNEL") or (kind != "NONE" and bits not in (4, 8)):
                unknown.append(f"{side}_quant_type {kind} of {bits} bits")
        if unknown:
            raise bad(op, f"{', '.join(unknown)}: not known; expected whole caches, plain or of 4 or 8 bits")

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        self._check(op, inputs)
        found = self._heads(op, inputs)
        query, key, value = self._split(op, inputs, found)
        lengths = required(op, inputs, 5, "seqlens_k").reshape(-1).astype(np.int64) + 1
        given = optional(inputs, 16)
        counts = np.minimum(found.query_length, lengths) if given is None else given.reshape(-1).astype(np.int64)
        starts = lengths - counts
        if op.attributes.get("do_rotary", 0):
            query, key = self._rotated(op, inputs, starts, query), self._rotated(op, inputs, starts, key)
        presents = [
            _appended(optional(inputs, index), self._stored(op, inputs, side, new), starts, counts, found)
            for side, index, new in (("k", 3, key), ("v", 4, value))
        ]
        total = self._total(op, inputs, found)
        keys, values = (
            self._read(op, inputs, side, present[:, :, :total], query.dtype)
            for side, present in zip("kv", presents, strict=True)
        )
        keep = {1: BEFORE_SOFTMAX, 2: AFTER_SOFTMAX}.get(int(op.attributes.get("qk_output", 0)))
        bias = self._bias(op, inputs, found, starts, lengths, total, widened(query).dtype)
        result = attended(op, found, (query, keys, values), bias, self._sink(op, inputs, found), keep)
        scores = [np.where(np.isneginf(one), one.dtype.type(0), one) for one in result[1:]]
        return [result[0], *presents, *scores][: len(op.outputs)]

    @staticmethod
    def _sink(op: Op, inputs: Sequence[Array | None], found: Heads) -> Array | None:
        sink = optional(inputs, 11)
        if sink is None and int(op.attributes.get("smooth_softmax", 0)) > 0:
            return np.zeros(found.heads, np.float32)
        return None if sink is None else widened(sink)

    @staticmethod
    def _bias(
        op: Op,
        inputs: Sequence[Array | None],
        found: Heads,
        starts: Array,
        lengths: Array,
        total: int,
        dtype: np.dtype[Any],
    ) -> Array | None:
        window, causal = int(op.attributes.get("local_window_size", -1)), bool(op.attributes.get("causal", 1))
        left = window - 1 if window > 0 else -1
        bias = position_bias(starts, found.query_length, total, causal, left, -1, dtype)
        if not causal:
            bias = added(bias, mask_bias(np.arange(total) < lengths.reshape(-1, 1, 1, 1), total, dtype))
        scores = optional(inputs, 10)
        return added(bias, None if scores is None else mask_bias(scores, total, dtype)[..., :total])

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
        tables = [widened(required(op, inputs, index, "cache")) for index in (7, 8)]
        # Rows beyond a sequence's end may lie beyond the tables.
        cosine, sine = (table[np.minimum(positions, len(table) - 1)][:, None] for table in tables)
        turned = rotate(widened(values), cosine, sine, bool(op.attributes.get("rotary_interleaved", 0)))
        return narrowed(turned, values.dtype)

    @staticmethod
    def _cache_scale(op: Op, inputs: Sequence[Array | None], side: str, heads: int) -> Array | None:
        """The scale of a quantised cache, to broadcast over (batch, heads, length, width); None when it is plain."""
        kind = text(op, f"{side}_quant_type", "NONE")
        if kind == "NONE":
            return None
        scale = widened(required(op, inputs, 12 + "kv".index(side), f"{side}_scale")).astype(np.float32)
        return scale.reshape(()) if kind == "PER_TENSOR" else scale.reshape(1, heads, 1, -1)

    def _stored(self, op: Op, inputs: Sequence[Array | None], side: str, values: Array) -> Array:
        scale = self._cache_scale(op, inputs, side, values.shape[1])
        if scale is None:
            return values
        limit = 1 << _cache_bits(op) - 1
        whole = np.clip(np.rint(widened(values) / scale), -limit, limit - 1).astype(np.int8)
        if _cache_bits(op) == 8:
            return whole
        codes = (whole + 8).astype(np.uint8)
        return codes[..., 0::2] | codes[..., 1::2] << 4

    def _read(self, op: Op, inputs: Sequence[Array | None], side: str, cache: Array, dtype: np.dtype[Any]) -> Array:
        scale = self._cache_scale(op, inputs, side, cache.shape[1])
        if scale is None:
            return cache
        whole = cache if _cache_bits(op) == 8 else unpacked(cache, 4).astype(np.int8) - 8
        return (whole.astype(np.float32) * scale).astype(dtype)

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        found, flops = self._heads(op, inputs), 0
        if op.attributes.get("do_rotary", 0):
            turned = found.batch * found.query_length * (found.heads + found.kv_heads) * found.head_dim
            flops = int(FLOPS_PER_ELEMENT * turned)
        if optional(inputs, 11) is not None or int(op.attributes.get("smooth_softmax", 0)) > 0:
            flops += _SINK_FLOPS * found.batch * found.heads * found.query_length
        causal, dtype = bool(op.attributes.get("causal", 1)), required(op, inputs, 0, "query").dtype
        return found.work(op, operands(inputs), found.written(outputs, found.query_length), dtype, causal, flops)


def _cache_bits(op: Op) -> int:
    return int(op.attributes.get("kv_cache_bit_width", 0)) or 8


def _appended(past: Array | None, new: Array, starts: Array, counts: Array, found: Heads) -> Array:
    """The cache with the first of `new` written behind what each sequence holds already."""
    result = np.zeros((found.batch, found.kv_heads, found.kv_length, new.shape[3]), new.dtype)
    if past is not None:
        result[:, :, : past.shape[2]] = past
    for sequence, (start, count) in enumerate(zip(starts, counts, strict=True)):
        result[sequence, :, start : start + count] = new[sequence, :, :count]
    return result
