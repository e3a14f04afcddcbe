"""Linear layers, normalisations over the last dimension, and the two-layer perceptrons of transformers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workloads.blocks.activation import Activation, activate
from workloads.builder import Builder, Value


def linear(graph: Builder, value: Value, features: int, name: str, bias: bool = True) -> Value:
    """`value` (..., n) times a weight (n, features), plus a bias (features): MatMul and Add, as exporters emit."""
    with graph.scope(name):
        result = graph.matmul(value, graph.weight("weight", value.shape[-1], features))
        return graph.add(result, graph.weight("bias", features)) if bias else result


def classifier(graph: Builder, value: Value, classes: int, name: str = "head", bias: bool = True) -> Value:
    """`value` (rows, n) times a weight (classes, n), as one Gemm."""
    with graph.scope(name):
        inputs = [value, graph.weight("weight", classes, value.shape[-1])]
        inputs += [graph.weight("bias", classes)] if bias else []
        [logits] = graph.node("Gemm", inputs, [(value.shape[0], classes)], transB=1)
        return logits


def mean_of(graph: Builder, values: Sequence[Value], name: str = "mean_logits") -> Value:
    """The mean of values of one shape."""
    total = values[0]
    for value in values[1:]:
        total = graph.add(total, value)
    return graph.multiply(total, graph.scalar("share", 1 / len(values)), name)


def tied_logits(graph: Builder, value: Value, table: Value, name: str = "head") -> Value:
    """`value` (batch, tokens, n) against every row of an embedding `table` (vocabulary, n), with no copy of it."""
    with graph.scope(name):
        rows = graph.flatten_rows(value)
        [logits] = graph.node("Gemm", [rows, table], [(rows.shape[0], table.shape[0])], transB=1)
        return graph.unflatten_rows(logits, value.shape[:-1])


def layer_norm(graph: Builder, value: Value, name: str, epsilon: float = 1e-5, bias: bool = True) -> Value:
    with graph.scope(name):
        inputs = [value, graph.weight("weight", value.shape[-1])]
        inputs += [graph.weight("bias", value.shape[-1])] if bias else []
        [result] = graph.node("LayerNormalization", inputs, [value.shape], axis=-1, epsilon=epsilon)
        return result


def rms_norm(graph: Builder, value: Value, name: str, epsilon: float) -> Value:
    with graph.scope(name):
        scale = graph.weight("weight", value.shape[-1])
        [result] = graph.node("RMSNormalization", [value, scale], [value.shape], axis=-1, epsilon=epsilon)
        return result


def unit_rms_norm(graph: Builder, value: Value, name: str, epsilon: float) -> Value:
    """Each row of the last dimension divided by its root mean square, without a learned scale."""
    with graph.scope(name):
        ones = graph.constant("ones", np.ones(value.shape[-1], dtype=np.float32))
        [result] = graph.node("RMSNormalization", [value, ones], [value.shape], axis=-1, epsilon=epsilon)
        return result


def unit_layer_norm(graph: Builder, value: Value, name: str, epsilon: float = 1e-5) -> Value:
    """Each row of the last dimension less its mean, divided by its deviation, without a learned scale."""
    with graph.scope(name):
        width = value.shape[-1]
        ones = graph.once(f"ones_{width}", lambda: graph.constant("values", np.ones(width, dtype=np.float32)))
        [result] = graph.node("LayerNormalization", [value, ones], [value.shape], axis=-1, epsilon=epsilon)
        return result


def mlp(graph: Builder, value: Value, hidden: int, name: str = "mlp", approximate: str = "none") -> Value:
    """Two linear layers with a GELU between; `approximate` is ONNX's: "none" (erf) or "tanh"."""
    return feed_forward(graph, value, hidden, name, "gelu" if approximate == "none" else "gelu_tanh")


def gated_mlp(graph: Builder, value: Value, hidden: int, name: str = "mlp") -> Value:
    """SwiGLU without biases: down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""
    return feed_forward(graph, value, hidden, name, "silu", gated=True, bias=False)


def feed_forward(
    graph: Builder,
    value: Value,
    hidden: int,
    name: str = "mlp",
    activation: Activation = "gelu",
    gated: bool = False,
    bias: bool = True,
) -> Value:
    """down(activation(up(x))), or `gated` down(activation(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""
    with graph.scope(name):
        if gated:
            gate = activate(graph, linear(graph, value, hidden, "gate", bias), activation)
            inner = graph.multiply(gate, linear(graph, value, hidden, "up", bias), "gated")
        else:
            inner = activate(graph, linear(graph, value, hidden, "up", bias), activation)
        return linear(graph, inner, value.shape[-1], "down", bias)
