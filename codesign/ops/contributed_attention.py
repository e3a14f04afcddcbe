"""Multi-head attention as ONNX Runtime's fused operators write it (docs/ContribOperators.md, domain com.microsoft)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, narrowed, operands, optional, required, widened
from codesign.ops.attention import Heads, added, merge_heads, position_bias, split_heads
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.work import Work

BEFORE_SOFTMAX, AFTER_SOFTMAX = 2, 3
"""Stages of the scores as the kernel numbers them: with everything added, and the probabilities."""


def extent(op: Op, name: str) -> int:
    """A positive attribute. Raises BadModel when it is not."""
    found = int(op.attributes.get(name, 0))
    if found < 1:
        raise bad(op, f"attribute '{name}' is {found}, expected a positive number")
    return found


def key_mask_bias(op: Op, mask: Array | None, found: Heads, dtype: np.dtype[Any]) -> Array | None:
    """A mask of keys as numbers to add, `mask_filter_value` (-10000 when not given) where a key is hidden.

    Masks are lengths (batch,); ends and then starts (2 batch,); lengths and then running sums of queries and keys (3
    batch + 2,), which say the same; or ones where a key is seen, (batch, keys) or with queries (batch, queries, keys).
    """
    if mask is None:
        return None
    if mask.ndim == 2 and mask.shape[1] == 1 < found.kv_length:
        return None  # stands for no mask
    if mask.ndim == 1 and mask.size in (found.batch, 2 * found.batch, 3 * found.batch + 2):
        ends = mask[: found.batch]
        starts = mask[found.batch :] if mask.size == 2 * found.batch else np.zeros(0, mask.dtype)
        places = np.arange(found.kv_length)
        seen = places < ends[:, None]
        if starts.size:
            seen &= places >= starts[:, None]
        seen = seen[:, None, None]
    elif mask.ndim in (2, 3) and mask.shape[0] == found.batch:
        seen = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
        if seen.shape[-1] != found.kv_length:
            raise bad(op, f"mask {list(mask.shape)} does not cover {found.kv_length} keys")
    else:
        raise bad(op, f"mask {list(mask.shape)} is not (batch), (2 batch), (batch, keys) or (batch, queries, keys)")
    filtered = dtype.type(op.attributes.get("mask_filter_value", -10000.0))
    return np.where(seen.astype(bool), dtype.type(0), filtered)


def attended(
    op: Op,
    found: Heads,
    heads: tuple[Array, Array, Array],
    bias: Array | None,
    sink: Array | None = None,
    keep: int | None = None,
) -> list[Array]:
    """The result (batch, length, heads * value width) in the type of the query, and the scores at stage `keep`."""
    from codesign.executor.kernels.attention import attend

    scale = float(op.attributes.get("scale", 0.0)) or 1 / math.sqrt(found.head_dim)
    softcap = float(op.attributes.get("softcap", 0.0))
    query, key, value = (widened(array) for array in heads)
    result, scores = attend(query, key, value, bias, scale, softcap, keep=keep, sink=sink)
    outputs = [narrowed(merge_heads(result), heads[0].dtype)]
    return outputs if scores is None else [*outputs, narrowed(scores, heads[0].dtype)]


@operator("MultiHeadAttention", domain="com.microsoft")
class MultiHeadAttention(Operator):
    """Inputs: query (batch, length, hidden), key and value likewise or already split into heads, bias of all three,
    mask of keys, bias of the scores, past key, past value, past length, cache indirection. Outputs: result, present
    key, present value, scores before the softmax.

    The query may hold all three, (batch, length, heads, 3, width), or the key both it and the value. With a past length
    the caches are buffers that hold more than the past: the present is the buffer with the new key in it. The
    indirection (batch, beams, buffer) says of which beam each token of the past is.
    """

    mask_index, bias_index, past_index, length_index, indirection_index = 4, 5, 6, 8, 9
    input_bias_index = 3

    def _parts(self, op: Op, inputs: Sequence[Any]) -> list[tuple[int, ...]]:
        """Shapes of query, key and value with heads apart: (batch, heads, length, width)."""
        heads, query = extent(op, "num_heads"), required(op, inputs, 0, "query").shape
        shapes: list[tuple[int, ...]]
        key, value = optional(inputs, 1), optional(inputs, 2)
        if len(query) == 5:
            batch, length, own, three, width = query
            shapes = [(batch, own, length, width)] * 3 if three == 3 and own == heads else []
        elif key is not None and len(key.shape) == 5:
            batch, length, own, two, width = key.shape
            shapes = [(batch, own, length, width)] * 2 if two == 2 and own == heads else []
            shapes = [self._split_shape(query, heads), *shapes]
        elif key is not None and value is not None:
            shapes = [self._split_shape(shape, heads) for shape in (query, key.shape, value.shape)]
        else:
            shapes = []
        if (
            len(shapes) != 3
            or shapes[0][3] != shapes[1][3]
            or shapes[1][2] != shapes[2][2]
            or not all(map(min, shapes))
        ):
            given = [list(one.shape) for one in (inputs[0], key, value) if one is not None]
            raise bad(op, f"query, key, value {given} and {heads} heads do not fit together")
        return shapes

    @staticmethod
    def _split_shape(shape: tuple[int, ...], heads: int) -> tuple[int, ...]:
        if len(shape) == 4:
            return shape
        if len(shape) != 3 or shape[2] % heads:
            return (0, 0, 0, 0)
        return shape[0], heads, shape[1], shape[2] // heads

    def _heads(self, op: Op, inputs: Sequence[Any]) -> Heads:
        (batch, heads, length, width), key, value = self._parts(op, inputs)
        past = optional(inputs, self.past_index)
        past_length = 0 if past is None else past.shape[2]
        if self._buffered(inputs):
            # How much of the buffer is filled only the run tells.
            past_length = max(past_length - key[2], 0)
        return Heads(batch, heads, heads, length, past_length, past_length + key[2], width, value[3])

    def _buffered(self, inputs: Sequence[Any]) -> bool:
        return optional(inputs, self.length_index) is not None and optional(inputs, self.past_index) is not None

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        found, dtype = self._heads(op, inputs), required(op, inputs, 0, "query").dtype
        cache = (found.batch, found.heads, found.kv_length)
        result: tuple[int, ...] = (found.batch, found.query_length, found.heads * found.value_dim)
        scores = (found.batch, found.heads, found.query_length, found.kv_length)
        shapes = (result, (*cache, found.head_dim), (*cache, found.value_dim), scores)
        return [(shape, dtype) for shape in shapes][: len(op.outputs)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        found = self._heads(op, inputs)
        query, key, value = self._split(op, inputs, found)
        caches = [optional(inputs, self.past_index + offset) for offset in (0, 1)]
        if self._buffered(inputs):
            length = int(required(op, inputs, self.length_index, "past_sequence_length").reshape(-1)[0])
            return self._from_buffers(op, inputs, (query, key, value), caches, length)
        keys, values = (
            new if past is None else np.concatenate((past, new), axis=2)
            for past, new in zip(caches, (key, value), strict=True)
        )
        bias = self._bias(op, inputs, found, widened(query).dtype)
        return self._outputs(op, found, (query, keys, values), bias, [keys, values])

    @staticmethod
    def _outputs(
        op: Op, found: Heads, heads: tuple[Array, Array, Array], bias: Array | None, presents: Sequence[Array]
    ) -> list[Array]:
        """The result, the present key and value, and the scores, the lowest number where a key is hidden."""
        result, *scores = attended(op, found, heads, bias, keep=BEFORE_SOFTMAX if len(op.outputs) > 3 else None)
        finite = [np.maximum(one, np.finfo(one.dtype).min) for one in scores]
        return [result, *presents, *finite][: len(op.outputs)]

    def _bias(self, op: Op, inputs: Sequence[Array | None], found: Heads, dtype: np.dtype[Any]) -> Array | None:
        bias = key_mask_bias(op, optional(inputs, self.mask_index), found, dtype)
        scores = optional(inputs, self.bias_index)
        bias = added(bias, None if scores is None else scores.astype(dtype))
        causal = bool(op.attributes.get("unidirectional", 0))
        offsets = np.array([found.past_length])
        return added(bias, position_bias(offsets, found.query_length, found.kv_length, causal, -1, -1, dtype))

    def _from_buffers(
        self,
        op: Op,
        inputs: Sequence[Array | None],
        new: tuple[Array, Array, Array],
        caches: Sequence[Array | None],
        length: int,
    ) -> list[Array]:
        """The new key and value written into their buffers at `length`, and attention over what these hold then."""
        query, *fresh = new
        total = length + fresh[0].shape[2]
        presents = [np.array(cache) for cache in caches if cache is not None]
        if len(presents) != 2 or total > presents[0].shape[2]:
            raise bad(op, f"a past of {length} and {fresh[0].shape[2]} new keys do not fit the buffers")
        for present, part in zip(presents, fresh, strict=True):
            present[:, :, length:total] = part
        batch, heads, queries, width = query.shape
        found = Heads(batch, heads, heads, queries, length, total, width, presents[1].shape[3])
        keys, values = (
            self._of_beams(op, present[:, :, :total], optional(inputs, self.indirection_index), length)
            for present in presents
        )
        bias = self._bias(op, inputs, found, widened(query).dtype)
        return self._outputs(op, found, (query, keys, values), bias, presents)

    @staticmethod
    def _of_beams(op: Op, cache: Array, indirection: Array | None, length: int) -> Array:
        """The cache (batch * beams, heads, length, width) with each token of the past taken from the beam it is of."""
        if indirection is None:
            return cache
        batch, beams = indirection.shape[:2]
        if batch * beams != cache.shape[0]:
            raise bad(op, f"an indirection {list(indirection.shape)} of caches of {cache.shape[0]} sequences")
        rows = (np.arange(batch)[:, None, None] * beams + indirection[:, :, :length]).reshape(batch * beams, length)
        chosen = cache.copy()
        chosen[:, :, :length] = cache[rows, :, np.arange(length)].swapaxes(1, 2)
        return chosen

    def _split(self, op: Op, inputs: Sequence[Array | None], found: Heads) -> list[Array]:
        """Query, key and value with their biases, split into heads."""
        query, key = required(op, inputs, 0, "query"), optional(inputs, 1)
        if query.ndim == 5:
            arrays = list(np.moveaxis(query, 3, 0))
        elif key is not None and key.ndim == 5:
            arrays = [query, *np.moveaxis(key, 3, 0)]
        else:
            arrays = [query, required(op, inputs, 1, "key"), required(op, inputs, 2, "value")]
        # Parts of a packed tensor are (batch, length, heads, width) still.
        first = 0 if query.ndim == 5 else 1 if key is not None and key.ndim == 5 else 3
        flat = [array.reshape(*array.shape[:2], -1) if index >= first else array for index, array in enumerate(arrays)]
        bias = optional(inputs, self.input_bias_index)
        if bias is not None:
            width = found.heads * found.head_dim
            parts = np.split(bias, (width, 2 * width))
            flat = [array + part if array.ndim == 3 else array for array, part in zip(flat, parts, strict=True)]
        return [split_heads(array, found.heads) if array.ndim == 3 else array for array in flat]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        found = self._heads(op, inputs)
        # Keys of an encoder may be more than the queries: then the mask is not aligned at the end.
        at_end = found.past_length + found.query_length == found.kv_length
        flops = found.scores * sum(optional(inputs, index) is not None for index in (self.mask_index, self.bias_index))
        bias = optional(inputs, self.input_bias_index)
        if bias is not None:
            flops += sum(math.prod(shape) for shape in self._parts(op, inputs))
        return found.work(
            op,
            operands(inputs),
            found.written(outputs, found.kv_length - found.past_length),
            required(op, inputs, 0, "query").dtype,
            bool(op.attributes.get("unidirectional", 0)) and at_end,
            flops,
        )


@operator("DecoderMaskedMultiHeadAttention", domain="com.microsoft")
class DecoderMaskedMultiHeadAttention(MultiHeadAttention):
    """One step of a decoder: MultiHeadAttention on buffers, with its inputs in another order. Inputs: query, key, value
    (of an encoder already split into heads), mask, bias of the scores, past key, past value, past length, beams, cache
    indirection, bias of the three."""

    mask_index, bias_index, past_index, length_index, indirection_index = 3, 4, 5, 7, 9
    input_bias_index = 10
