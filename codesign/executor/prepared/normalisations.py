"""LayerNormalization and RMSNormalization in float32, gain and bias in the same pass."""

from __future__ import annotations

import math

import numpy as np

from codesign.executor.epilogue import follow
from codesign.executor.kernels.rows import normalise_rows
from codesign.executor.kernels.threads import share, thread_count
from codesign.executor.prepared.step import Packed, Prepared, Read, address, is_weight
from codesign.executor.weights import WeightStore
from codesign.graph import Graph, Op
from codesign.ops.base import Array

TASK_ELEMENTS = 50_000
"""Least work of a task, about 20 microseconds."""


def prepare(op: Op, graph: Graph, weights: WeightStore) -> Prepared | None:
    values = graph.tensors[op.inputs[0]]
    rank = len(values.shape)
    axis = int(op.attributes.get("axis", -1)) % max(rank, 1)
    vectors = [name for name in op.inputs[1:3] if name]
    fits = all(is_weight(graph, name) and graph.tensors[name].shape == values.shape[axis:] for name in vectors)
    if values.dtype != "float32" or not rank or not fits or sum(1 for name in op.outputs if name) != 1:
        return None
    return _Normalisation(op, axis, tuple(vectors), weights)


class _Normalisation:
    def __init__(self, op: Op, axis: int, vectors: tuple[str, ...], weights: WeightStore) -> None:
        self._op, self._axis = op, axis
        self._epsilon = float(op.attributes.get("epsilon", 1e-5))
        self._packed = Packed(
            weights, vectors, lambda gain, bias=None: (gain.ravel(), np.zeros(gain.size, np.float32) if bias is None
                                                       else bias.ravel())
        )  # fmt: skip

    def __call__(self, read: Read) -> list[Array] | None:
        source = read(self._op.inputs[0])
        if source.dtype != np.float32 or source.size == 0:
            return None
        values = np.ascontiguousarray(source)
        columns = math.prod(values.shape[self._axis :])
        rows = values.size // columns
        result = np.empty(values.shape, np.float32)
        (_, gain), (_, bias) = self._packed()
        tasks = max(min(rows, 4 * thread_count(), values.size // TASK_ELEMENTS), 1)
        share(
            normalise_rows, tasks, tasks, rows, columns, address(values), gain, bias, self._epsilon,
            int(self._op.kind == "LayerNormalization"), address(result),
        )  # fmt: skip
        return [follow(self._op.epilogue, result, [source], read)] if self._op.epilogue else [result]
