"""Mixtures of experts: each token through the few feed-forward networks that a router chooses (MoE, QMoE of ONNX
Runtime)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.dtypes import dtype
from codesign.graph import Op
from codesign.ops.activations import GELU_TANH, SIGMOID, gelu_tanh, sigmoid
from codesign.ops.arguments import bad, narrowed, operands, optional, required, text, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.quantised_weights import unpacked
from codesign.ops.softmax import softmax
from codesign.work import Contraction, Operand, Work

# Scalar operations an element of the hidden layer. SwiGLU: three limits, a scale, an addition and two products.
_ACTIVATION_FLOPS = {"relu": 1.0, "gelu": GELU_TANH, "silu": SIGMOID + 1, "identity": 0.0, "swiglu": SIGMOID + 6}
_INTERLEAVED, _SIDE_BY_SIDE = 1, 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Positions of the inputs: weights of the three layers, their biases, scales and zero points (quantised experts
    only), and the routing weights that stand for the probabilities."""

    weights: tuple[int, int, int]
    biases: tuple[int, int, int]
    scales: tuple[int, ...] = ()
    zeros: tuple[int, ...] = ()
    routing: int = -1


_LAYOUTS = {
    "MoE": Layout((2, 4, 6), (3, 5, 7)),
    "QMoE": Layout((2, 5, 8), (4, 7, 10), (3, 6, 9), (11, 12, 13), 14),
}


@dataclass(frozen=True, slots=True)
class Experts:
    """Extents: tokens, experts, experts a token, width of a token, of the hidden layer, and the hidden layer's widths
    that the first products make (two with a gate)."""

    tokens: int
    count: int
    chosen: int
    width: int
    hidden: int
    gates: int


@operator("MoE", "QMoE", domain="com.microsoft")
class MixtureOfExperts(Operator):
    """Inputs: tokens (..., width), router's logits (tokens, experts), and for each of the layers up, down and gate
    weights (experts, outputs, inputs) and bias; QMoE has scales and zero points for them too.

    The `k` experts with the largest logits weigh as the softmax over all logits says, or as the routing weights given
    do; normalised to a sum of 1 with `normalize_routing_weights`, which QMoE does to a softmax anyway. SwiGLU takes
    gate and value from one layer, interleaved or side by side, or from two.
    Quantised weights are bytes of 8 / bits values, the first lowest, with a scale for each output or for blocks of its
    inputs.
    """

    def _experts(self, op: Op, inputs: Sequence[Any]) -> Experts:
        layout, values = _LAYOUTS[op.kind], required(op, inputs, 0, "input").shape
        router = required(op, inputs, 1, "router_probs").shape
        up, down = (required(op, inputs, layout.weights[index], "weights").shape for index in (0, 1))
        width, tokens = values[-1], int(np.prod(values[:-1]))
        packed = [8 // self._bits(op, layer) if layout.scales else 1 for layer in (1, 2)]
        hidden = down[2] * packed[1]
        gates = up[1] // max(hidden, 1)
        fits = len(up) == len(down) == 3 and router == (tokens, up[0]) and up[0] == down[0] and down[1] == width
        if not fits or up[2] * packed[0] != width or up[1] != gates * hidden or gates not in (1, 2):
            raise bad(
                op,
                f"input {list(values)}, logits {list(router)}, weights {list(up)} and {list(down)} do not fit together",
            )
        activation = text(op, "activation_type", "relu")
        fusion, third = int(op.attributes.get("swiglu_fusion", 0)), optional(inputs, layout.weights[2])
        if activation not in _ACTIVATION_FLOPS:
            raise bad(op, f"activation '{activation}' is unknown; expected one of {', '.join(_ACTIVATION_FLOPS)}")
        if (activation == "swiglu") != (gates == 2 or third is not None) and activation == "swiglu":
            raise bad(op, "SwiGLU needs a gate: fused into the first weights, or the third weights")
        if gates == 2 and fusion not in (_INTERLEAVED, _SIDE_BY_SIDE):
            raise bad(op, f"attribute 'swiglu_fusion' is {fusion}, expected 1 or 2 for weights {list(up)}")
        chosen = min(int(op.attributes.get("k", 1)), up[0])
        return Experts(tokens, up[0], chosen, width, hidden, 2 if gates == 2 or third is not None else 1)

    @staticmethod
    def _bits(op: Op, layer: int) -> int:
        bits = int(op.attributes.get(f"fc{layer}_expert_weight_bits", op.attributes.get("expert_weight_bits", 4)))
        if bits not in (2, 4, 8):
            raise bad(op, f"experts' weights have {bits} bits, expected 2, 4 or 8")
        return bits

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        self._experts(op, inputs)
        value = required(op, inputs, 0, "input")
        return [(value.shape, value.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        found, values = self._experts(op, inputs), required(op, inputs, 0, "input")
        tokens = widened(values).reshape(found.tokens, found.width)
        shares = self._shares(op, inputs, found)
        result = np.zeros_like(tokens)
        for expert in range(found.count):
            rows = np.flatnonzero(shares[:, expert])
            if rows.size:
                outputs = self._through(op, inputs, expert, tokens[rows])
                result[rows] += shares[rows, expert, None] * outputs
        return [narrowed(result.reshape(values.shape), values.dtype)]

    @staticmethod
    def _shares(op: Op, inputs: Sequence[Array | None], found: Experts) -> Array:
        """How much of each expert goes into each token (tokens, experts), zero where it is not chosen."""
        logits = widened(required(op, inputs, 1, "router_probs"))
        given = optional(inputs, _LAYOUTS[op.kind].routing) if _LAYOUTS[op.kind].routing >= 0 else None
        weights = softmax(logits, -1) if given is None else widened(given)
        best = np.argsort(-logits, axis=1, kind="stable")[:, : found.chosen]
        shares = np.zeros_like(weights)
        np.put_along_axis(shares, best, np.take_along_axis(weights, best, 1), 1)
        if op.attributes.get("normalize_routing_weights", 0) or (op.kind == "QMoE" and given is None):
            shares /= shares.sum(axis=1, keepdims=True)
        return shares

    def _through(self, op: Op, inputs: Sequence[Array | None], expert: int, tokens: Array) -> Array:
        """The tokens (rows, width) through one expert."""
        activation = text(op, "activation_type", "relu")
        hidden = self._layer(op, inputs, 0, expert, tokens)
        third = optional(inputs, _LAYOUTS[op.kind].weights[2])
        if activation == "swiglu":
            if third is not None:
                gate, value = hidden, self._layer(op, inputs, 2, expert, tokens)
            elif int(op.attributes.get("swiglu_fusion", 0)) == _INTERLEAVED:
                gate, value = hidden[:, 0::2], hidden[:, 1::2]
            else:
                gate, value = np.split(hidden, 2, axis=1)
            hidden = _swiglu(op, gate, value)
        else:
            hidden = _PLAIN[activation](hidden)
            hidden = hidden if third is None else hidden * self._layer(op, inputs, 2, expert, tokens)
        return self._layer(op, inputs, 1, expert, hidden)

    def _layer(self, op: Op, inputs: Sequence[Array | None], layer: int, expert: int, values: Array) -> Array:
        layout = _LAYOUTS[op.kind]
        weights, bias = required(op, inputs, layout.weights[layer], "weights")[expert], optional(
            inputs, layout.biases[layer]
        )  # fmt: skip
        whole = self._dequantised(op, inputs, layer, expert, weights) if layout.scales else widened(weights)
        product = values @ whole.T
        return np.asarray(product if bias is None else product + widened(bias[expert]))

    def _dequantised(self, op: Op, inputs: Sequence[Array | None], layer: int, expert: int, packed: Array) -> Array:
        layout, bits = _LAYOUTS[op.kind], self._bits(op, layer + 1)
        whole = unpacked(packed, bits).astype(np.float32)
        scale = widened(required(op, inputs, layout.scales[layer], "scales")[expert]).astype(np.float32)
        zeros = optional(inputs, layout.zeros[layer])
        if scale.ndim == 1:
            zero = float(1 << bits - 1) if zeros is None else unpacked(zeros[expert], bits)[: len(whole), None]
            return np.asarray((whole - zero) * scale[:, None])
        blocks = whole.reshape(*scale.shape, -1)
        zero = float(1 << bits - 1) if zeros is None else unpacked(zeros[expert], bits)[:, : scale.shape[1], None]
        return np.asarray(((blocks - zero) * scale[..., None]).reshape(whole.shape))

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """The products of the experts chosen; of the weights as many experts are read as tokens can choose, or as
        statistics of the router's logits say that they do."""
        found, layout = self._experts(op, inputs), _LAYOUTS[op.kind]
        value, rows = required(op, inputs, 0, "input"), found.tokens * found.chosen
        experts, routed = min(found.count, rows), required(op, inputs, 1, "router_probs").distinct
        if routed is not None:
            experts = min(experts, math.ceil(routed))

        def share(index: int) -> Operand:
            given = inputs[index]
            assert given is not None
            return given.operand(-(-given.elements * experts // found.count))

        others = (*layout.weights, *layout.biases, *layout.scales, *layout.zeros)
        read = tuple(share(index) for index in sorted(others) if optional(inputs, index) is not None)
        # Activation, mixing, biases; and for packed weights a subtraction and a product for each weight read.
        each = _ACTIVATION_FLOPS[text(op, "activation_type", "relu")] + found.gates
        flops = rows * (found.hidden * each + 3 * found.width)
        if layout.scales:
            flops += 2.0 * experts * found.width * found.hidden * (found.gates + 1)
        assert dtype(value.dtype).is_float
        return Contraction(
            kind=op.kind,
            reads=(value.operand(), *read, *operands(inputs, 1)),
            writes=operands(outputs),
            epilogue_flops=int(flops),
            batch=1,
            m=rows,
            n=found.hidden * (found.gates + 1),
            k=found.width,
            dtype=value.dtype,
        )


def _silu(values: Array) -> Array:
    return np.asarray(values * sigmoid(values))


_PLAIN: dict[str, Any] = {
    "relu": lambda values: np.maximum(values, 0),
    "gelu": gelu_tanh,
    "silu": _silu,
    "identity": lambda values: values,
}


def _swiglu(op: Op, gate: Array, value: Array) -> Array:
    """gate sigmoid(alpha gate) (value + beta), both limited to `swiglu_limit` when it is given."""
    kind, attributes = gate.dtype.type, op.attributes
    if "swiglu_limit" in attributes:
        limit = kind(attributes["swiglu_limit"])
        gate, value = np.minimum(gate, limit), np.clip(value, -limit, limit)
    scaled = sigmoid(np.ascontiguousarray(gate * kind(attributes.get("activation_alpha", 1.0))))
    return np.asarray(gate * scaled * (value + kind(attributes.get("activation_beta", 0.0))))
