"""Linear attention and its gates, as hybrid decoders have them (LinearAttention, LinearAttentionGate)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.dtypes import dtype as element_type
from codesign.graph import Op
from codesign.ops.activations import SIGMOID, SOFTPLUS, sigmoid, softplus
from codesign.ops.arguments import bad, narrowed, operands, optional, required, text, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.contributed_attention import extent
from codesign.work import Map, Scan, Work

_RULES = ("linear", "gated", "delta", "gated_delta")


@dataclass(frozen=True, slots=True)
class Extents:
    """Of the recurrence."""

    batch: int
    steps: int
    query_heads: int
    heads: int
    keys: int
    values: int

    @property
    def outputs(self) -> int:
        return max(self.query_heads, self.heads)


@operator("LinearAttention")
@operator("LinearAttention", domain="com.microsoft")
class LinearAttention(Operator):
    """Inputs: query, key, value (batch, steps, heads * width), past state (batch, heads, keys, values), decay as a
    logarithm, (batch, steps, heads) or of each key, and update rate (batch, steps, heads or 1). Outputs: result,
    present state. `update_rule`: plain sums, decayed ("gated"), corrected ("delta": Schlag et al. 2021,
    arXiv:2102.11174), both (Yang et al. 2024, arXiv:2412.06464).
    """

    @staticmethod
    def _rule(op: Op) -> str:
        rule = text(op, "update_rule", "gated_delta")
        if rule not in _RULES:
            raise bad(op, f"attribute 'update_rule' is '{rule}', expected one of {', '.join(_RULES)}")
        return rule

    def _extents(self, op: Op, inputs: Sequence[Any]) -> Extents:
        query, key, value = (required(op, inputs, index, "query, key, value").shape for index in range(3))
        query_heads, heads = extent(op, "q_num_heads"), extent(op, "kv_num_heads")
        rule = self._rule(op)
        if op.attributes.get("state_window", 0):
            raise bad(
                op, "attribute 'state_window' asks for states of the past, which no CPU kernel of onnxruntime keeps"
            )
        fits = len(query) == len(key) == len(value) == 3 and query[:2] == key[:2] == value[:2]
        fits = fits and query[2] * heads == key[2] * query_heads and not key[2] % heads and not value[2] % heads
        if not fits or max(query_heads, heads) % min(query_heads, heads):
            raise bad(
                op, f"query {list(query)} of {query_heads} heads, key {list(key)}, value {list(value)} of {heads}: "
                "these do not fit together"
            )  # fmt: skip
        for index, name, rules in ((4, "decay", "gated"), (5, "beta", "delta")):
            if rules in rule and optional(inputs, index) is None:
                raise bad(op, f"update rule '{rule}' needs input {index} ('{name}')")
        return Extents(key[0], key[1], query_heads, heads, key[2] // heads, value[2] // heads)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        found, value = self._extents(op, inputs), required(op, inputs, 0, "query")
        past = optional(inputs, 3)
        state: tuple[int, ...] = (found.batch, found.heads, found.keys, found.values)
        kind = value.dtype if past is None else past.dtype
        result = (found.batch, found.steps, found.outputs * found.values)
        return [(result, value.dtype), (state, kind)][: len(op.outputs)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        from codesign.executor.kernels.linear_attention import recur

        found, rule = self._extents(op, inputs), self._rule(op)
        given = [required(op, inputs, index, "query, key, value") for index in range(3)]
        heads = (found.query_heads, found.heads, found.heads)
        query, key, value = (
            np.ascontiguousarray(widened(array), np.float32).reshape(found.batch, found.steps, count, -1)
            for array, count in zip(given, heads, strict=True)
        )
        past, space = optional(inputs, 3), (found.batch, found.heads, found.keys, found.values)
        state = np.zeros(space, np.float32)
        if past is not None:
            state[:] = widened(past)
        lead = (found.batch, found.steps, found.heads)
        decay = np.ones((*lead, 1), np.float32)
        if "gated" in rule:
            decay = np.exp(widened(required(op, inputs, 4, "decay")).astype(np.float32).reshape(*lead, -1))
        rate = np.ones(lead, np.float32)
        if "delta" in rule:
            rate = np.ascontiguousarray(np.broadcast_to(widened(required(op, inputs, 5, "beta")), lead), np.float32)
        scale = np.float32(op.attributes.get("scale", 0.0) or 1 / math.sqrt(found.keys))
        result = np.empty((found.batch, found.steps, found.outputs, found.values), np.float32)
        recur(query, key, value, decay, rate, "delta" in rule, scale, state, result)
        kind = given[0].dtype if past is None else past.dtype
        outputs = narrowed(result.reshape(found.batch, found.steps, -1), given[0].dtype)
        return [outputs, narrowed(state, kind)][: len(op.outputs)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        found, rule = self._extents(op, inputs), self._rule(op)
        kind = required(op, inputs, 0, "query").dtype
        cells = found.batch * found.keys * found.values
        products = found.heads * (2 if "delta" in rule else 1) + found.outputs
        each = found.batch * found.heads * found.values * (2 if "delta" in rule else 0)
        return Scan(
            kind=op.kind,
            reads=operands(inputs),
            writes=operands(outputs),
            steps=found.steps,
            step_macs=cells * products,
            step_flops=each + (cells * found.heads if "gated" in rule else 0),
            state_bytes=element_type("float32").bytes_for(cells * found.heads),
            lanes=found.batch * found.heads,
            dtype=kind,
        )


@operator("LinearAttentionGate", domain="com.microsoft")
class LinearAttentionGate(Operator):
    """Inputs: a (batch, steps, heads), bias and scale of each head in float32, b like a. Outputs: the decay, scale
    softplus(a + bias), and the rate, sigmoid(b)."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        value = required(op, inputs, 0, "a")
        if len(op.outputs) > 1:
            required(op, inputs, 3, "b")
        return [(value.shape, value.dtype)] * len(op.outputs)

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        values, bias, scale = (required(op, inputs, index, "a, dt_bias, decay_scale") for index in range(3))
        outputs = [narrowed(scale * softplus(widened(values) + bias), values.dtype)]
        if len(op.outputs) > 1:
            rates = widened(required(op, inputs, 3, "b"))
            outputs.append(narrowed(sigmoid(rates), values.dtype))
        return outputs

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        value = required(op, inputs, 0, "a")
        return Map(
            kind=op.kind,
            reads=operands(inputs),
            writes=operands(outputs),
            elements=value.elements,
            flops_per_element=SOFTPLUS + 2.0 + SIGMOID * (len(outputs) - 1),
            dtype=value.dtype,
        )
