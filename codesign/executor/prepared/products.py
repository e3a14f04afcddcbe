"""MatMul and Gemm with a weight on the right, in float32."""

from __future__ import annotations

import math

import numpy as np

from codesign.executor.epilogue import follow
from codesign.executor.kernels.product import pack, pack_columns
from codesign.executor.prepared.epilogue import Epilogue, is_vector, split
from codesign.executor.prepared.panels import Finish, Layout, Panels, Sliding
from codesign.executor.prepared.step import Packed, Prepared, Read, is_weight
from codesign.executor.weights import WeightStore
from codesign.graph import Graph, Op
from codesign.ops.base import Array


def prepare(op: Op, graph: Graph, weights: WeightStore) -> Prepared | None:
    left, right = op.inputs[:2]
    shape, result = graph.tensors[left].shape, graph.tensors[op.outputs[0]].shape
    if not is_weight(graph, right, 2) or left in graph.weights or graph.tensors[left].dtype != "float32":
        return None
    if len(shape) < 2 or 0 in (*shape, *result):
        return None
    rank, columns, bias = len(result), result[-1], ""
    if op.kind == "Gemm":
        bias = op.inputs[2] if len(op.inputs) > 2 else ""
        scaled = op.attributes.get("alpha", 1.0) != 1.0 or (bias and op.attributes.get("beta", 1.0) != 1.0)
        if scaled or op.attributes.get("transA", 0) or (bias and not is_vector(graph, bias, 1, 2, columns)):
            return None
    epilogue = split(op, graph, lambda name: is_vector(graph, name, rank - 1, rank, columns), bias)
    return Product(op, columns, epilogue, weights)


class Product:
    """left (..., m, k) times a weight (k, n)."""

    def __init__(self, op: Op, columns: int, epilogue: Epilogue, weights: WeightStore) -> None:
        transposed = bool(op.attributes.get("transB", 0))
        self._left, self._columns, self._epilogue = op.inputs[0], columns, epilogue

        def packed(right: Array, bias: Array | None = None) -> tuple[Array, ...]:
            right = right.T if transposed else right
            return pack(right[None, None]), pack_columns(bias, 1, columns), np.zeros(right.shape[0], np.float32)

        names = (op.inputs[1], epilogue.bias) if epilogue.bias else (op.inputs[1],)
        finish = Finish(epilogue.low, epilogue.high, epilogue.activation)
        self._panels = Panels(Packed(weights, names, packed), 1, columns, finish)
        self._layouts: dict[tuple[int, ...], Layout] = {}

    def __call__(self, read: Read) -> list[Array] | None:
        left, found = read(self._left), self._epilogue
        addend = read(found.addend) if found.addend else None
        shape = (*left.shape[:-1], self._columns)
        if left.dtype != np.float32 or (addend is not None and addend.shape != shape):
            return None
        rows = as_rows(left)
        layout = self._layouts.get(rows.shape)
        if layout is None:
            layout = self._layouts[rows.shape] = self._panels.layout(rows.shape, Sliding(out=(1, rows.shape[2])))
        addend = None if addend is None else np.ascontiguousarray(addend)
        result = self._panels.multiply(layout, rows, addend).reshape(shape)
        return [follow(found.rest, result, [left], read)] if found.rest else [result]


def as_rows(left: Array) -> Array:
    """(..., m, k) as an image of one line, (batch, 1, m, k), copied only when its rows are not contiguous."""
    depth = left.shape[-1]
    if left.flags.c_contiguous:
        return left.reshape(1, 1, math.prod(left.shape[:-1]), depth)
    if left.ndim <= 3 and left.strides[-1] == left.itemsize and min(left.strides) >= 0:
        return left.reshape((1,) * (3 - left.ndim) + left.shape)[:, None]
    return np.ascontiguousarray(left).reshape(1, 1, math.prod(left.shape[:-1]), depth)
