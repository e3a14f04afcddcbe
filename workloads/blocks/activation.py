"""Elementwise nonlinearities by name."""

from __future__ import annotations

from typing import Literal

from workloads.builder import Builder, Value

Activation = Literal[
    "none", "relu", "relu6", "squared_relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "softplus", "prelu"
]

_OPERATORS = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "gelu": "Gelu",
}  # fmt: skip


def activate(graph: Builder, value: Value, activation: Activation, name: str = "") -> Value:
    """`value` through an activation. "squared_relu" is relu(x)^2 (So et al. 2021, arXiv:2109.08668); "gelu_tanh" the
    tanh approximation; "prelu" learns one slope for negative values (He et al. 2015, arXiv:1502.01852)."""
    if activation == "none":
        return value
    if activation == "relu6":
        limits = [graph.scalar("lowest", 0.0), graph.scalar("highest", 6.0)]
        [result] = graph.node("Clip", [value, *limits], [value.shape], name)
        return result
    if activation == "squared_relu":
        positive = graph.unary("Relu", value)
        return graph.multiply(positive, positive, name or "squared")
    if activation == "silu":
        return graph.multiply(value, graph.unary("Sigmoid", value), name or "silu")
    if activation == "gelu_tanh":
        return graph.unary("Gelu", value, name, approximate="tanh")
    if activation == "prelu":
        return graph.binary("PRelu", value, graph.weight("slope", 1), name)
    return graph.unary(_OPERATORS[activation], value, name)
