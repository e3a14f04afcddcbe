"""Attention in float32: heads side by side or apart, shared keys, caches and masks."""

from __future__ import annotations

import math

import numpy as np

from codesign.executor.epilogue import follow
from codesign.executor.kernels.attend import attend_rows, pack_heads, padded_width, tile_of
from codesign.executor.kernels.threads import share, thread_count
from codesign.executor.kernels.tile import PANEL
from codesign.executor.prepared.step import Prepared, Read, address
from codesign.executor.weights import WeightStore
from codesign.graph import Graph, Op
from codesign.ops.arguments import required
from codesign.ops.attention import Attention, split_heads
from codesign.ops.base import Array

_ZEROS = np.zeros(PANEL, np.float32)
TASK_MACS = 1_000_000


def prepare(op: Op, graph: Graph, weights: WeightStore) -> Prepared | None:
    plain = not op.attributes.get("softcap", 0.0) and "softmax_precision" not in op.attributes
    if not plain or len(op.outputs) > 3 or any(graph.tensors[name].dtype != "float32" for name in op.inputs[:3]):
        return None
    return _Attention(op)


class _Attention:
    def __init__(self, op: Op) -> None:
        self._op = op

    def __call__(self, read: Read) -> list[Array] | None:
        op = self._op
        inputs = [read(name) if name else None for name in op.inputs]
        found = Attention.heads(op, inputs)
        query, key, value = (required(op, inputs, index, "QKV"[index]) for index in range(3))
        if any(array.dtype != np.float32 or array.size == 0 for array in (query, key, value)):
            return None
        flat = query.ndim == 3
        if flat:
            query, key, value = (
                split_heads(array, heads)
                for array, heads in ((query, found.heads), (key, found.kv_heads), (value, found.kv_heads))
            )
        if len(inputs) > 5 and inputs[4] is not None and inputs[5] is not None:
            key, value = np.concatenate((inputs[4], key), axis=2), np.concatenate((inputs[5], value), axis=2)
        query, key, value = (_with_rows(array) for array in (query, key, value))
        bias = Attention.bias(op, inputs, found, np.dtype(np.float32))
        if bias is not None:
            bias = np.broadcast_to(bias, (found.batch, found.heads, found.query_length, found.kv_length))
            bias = bias if bias.strides[-1] == 4 else np.ascontiguousarray(bias)
        result = np.empty(
            (found.batch, found.query_length, found.heads, found.value_dim)
            if flat
            else (found.batch, found.heads, found.query_length, found.value_dim),
            np.float32,
        )
        apart = result.transpose(0, 2, 1, 3) if flat else result
        scale = op.attributes.get("scale") or 1 / math.sqrt(found.head_dim)
        attend_heads(query, key, value, bias, float(scale), apart)
        outcome = result.reshape(found.batch, found.query_length, -1) if flat else result
        if op.epilogue:
            outcome = follow(op.epilogue, outcome, inputs, read)
        return [outcome, key, value][: len(op.outputs)]


def attend_heads(query: Array, key: Array, value: Array, bias: Array | None, scale: float, result: Array) -> None:
    """Write softmax(scale query key' + bias) value into `result`; all (batch, heads, length, width) with any steps but
    along the last axis, where they are contiguous."""
    batch, heads, queries, width = query.shape
    shared, keys, value_width = key.shape[1], key.shape[2], value.shape[3]
    tile = tile_of(queries)
    effort = batch * heads * queries * keys * (width + value_width) // TASK_MACS
    wanted = max(min(4 * thread_count(), effort), 1)
    blocks = max(min(-(-wanted // (batch * heads)), -(-queries // tile)), 1)
    steps = [step for array in (query, key, value) for step in array.strides[:3]]
    steps += (bias.strides[:3] if bias is not None else (0, 0, 0)) + result.strides[:3]
    table = np.array([batch, heads, shared, queries, keys, width, value_width, *steps, tile, blocks], np.int64)
    packed_keys = np.empty(batch * shared * padded_width(keys) * width, np.float32)
    packed_values = np.empty(batch * shared * padded_width(value_width) * keys, np.float32)
    place, many = address(table), effort > 1
    share(
        pack_heads, batch * shared if many else 1, place, address(key), address(value), address(packed_keys),
        address(packed_values),
    )  # fmt: skip
    share(
        attend_rows, batch * heads * blocks if many else 1, place, address(query), address(packed_keys),
        address(packed_values), 0 if bias is None else address(bias), address(result), scale, address(_ZEROS),
    )  # fmt: skip


def _with_rows(array: Array) -> Array:
    """The array itself where its last axis is contiguous, else a copy."""
    return array if array.strides[-1] == array.itemsize else np.ascontiguousarray(array)
