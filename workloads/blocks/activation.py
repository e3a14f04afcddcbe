"""Elementwise nonlinearities by name."""

from __future__ import annotations

from typing import Literal

from workloads.builder import Builder, Value

Activation = Literal[
    "none", "relu", "relu6", "squared_relu", "star_relu", "prelu", "leaky_relu", "gelu", "gelu_tanh", "quick_gelu",
    "silu", "softplus", "tanh", "sigmoid", "hard_sigmoid",
]  # fmt: skip

_OPERATORS = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "leaky_relu": "LeakyRelu",
    "gelu": "Gelu",
}  # fmt: skip


def activate(graph: Builder, value: Value, activation: Activation, name: str = "") -> Value:
    """`value` through an activation. "squared_relu" is relu(x)^2 (So et al. 2021, arXiv:2109.08668); "gelu_tanh" the
    tanh approximation, "quick_gelu" x sigmoid(1.702 x) (Hendrycks & Gimpel 2016, arXiv:1606.08415); "hard_sigmoid"
    clip(x / 6 + 1/2, 0, 1); "star_relu" s relu(x)^2 + b with both learned (Yu et al. 2024, arXiv:2210.13452); "prelu"
    learns one slope for negative values (He et al. 2015, arXiv:1502.01852), that of "leaky_relu" is 0.01."""
    if activation == "none":
        return value
    if activation == "relu6":
        limits = [graph.scalar("lowest", 0.0), graph.scalar("highest", 6.0)]
        [result] = graph.node("Clip", [value, *limits], [value.shape], name)
        return result
    if activation in ("squared_relu", "star_relu"):
        positive = graph.unary("Relu", value)
        squared = graph.multiply(positive, positive, name or "squared")
        if activation == "squared_relu":
            return squared
        scaled = graph.multiply(squared, graph.weight("star/scale", 1), "star/scaled")
        return graph.add(scaled, graph.weight("star/bias", 1), "star/shifted")
    if activation == "hard_sigmoid":
        return graph.unary("HardSigmoid", value, name, alpha=1 / 6, beta=0.5)
    if activation == "silu":
        return graph.multiply(value, graph.unary("Sigmoid", value), name or "silu")
    if activation == "quick_gelu":
        scaled = graph.multiply(value, graph.scalar("slope", 1.702))
        return graph.multiply(value, graph.unary("Sigmoid", scaled), name or "quick_gelu")
    if activation == "gelu_tanh":
        return graph.unary("Gelu", value, name, approximate="tanh")
    if activation == "prelu":
        return graph.binary("PRelu", value, graph.weight("slope", 1), name)
    return graph.unary(_OPERATORS[activation], value, name)
