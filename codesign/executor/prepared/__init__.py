"""Operations made ready once for a graph that runs many times: weights packed, epilogue compiled, shapes planned.

`Operator.compute` says what an operation means, for any shape and type. Here are the few that take nearly all time, on
kernels that want their weights in another order. A module holds one family; `prepare` looks it up by kind. What a
prepared step is not made for it refuses, and the executor computes as everywhere else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from codesign.executor.prepared.step import Prepared
from codesign.executor.weights import WeightStore
from codesign.graph import Graph, Op

_MODULES = {
    "MatMul": "products", "Gemm": "products", "Conv": "convolutions", "MaxPool": "pooling", "AveragePool": "pooling",
    "GlobalAveragePool": "pooling", "GlobalMaxPool": "pooling", "LayerNormalization": "normalisations",
    "RMSNormalization": "normalisations", "Attention": "attention", "QLinearConv": "quantised",
    "QuantizeLinear": "quantised", "QLinearAdd": "quantised", "QLinearMul": "quantised", "QGemm": "quantised",
}  # fmt: skip
_CONTRIBUTED = {"QLinearConv", "QuantizeLinear", "QLinearAdd", "QLinearMul", "QGemm"}
"""Those that have, or may have, onnxruntime's domain."""

Prepare = Callable[[Op, Graph, WeightStore], Prepared | None]


def prepare(op: Op, graph: Graph, weights: WeightStore) -> Prepared | None:
    """`op` made ready, or None when nothing here is made for it, or its shapes come from data. Reads no weights yet."""
    ours = not op.domain or (op.domain == "com.microsoft" and op.kind in _CONTRIBUTED)
    module = _MODULES.get(op.kind) if ours else None
    if module is None or (graph.unknown and any(name in graph.unknown for name in (*op.reads(), *op.outputs))):
        return None
    found: Prepare = importlib.import_module(f"codesign.executor.prepared.{module}").prepare
    return found(op, graph, weights)
