"""Convolution of images and sequences in float32, computed in channels-last order.

The result keeps the shape (batch, channels, ...) and says by its strides that channels lie closest together, so that
every other operator takes it as it takes any array, and the next convolution finds it in the order it wants.
"""

from __future__ import annotations

import numpy as np

from codesign.errors import BadModel
from codesign.executor.kernels.product import pack, pack_columns
from codesign.executor.prepared.epilogue import is_vector, split
from codesign.executor.prepared.panels import Finish
from codesign.executor.prepared.step import Packed, Prepared, is_weight
from codesign.executor.prepared.windows import Convolution, filters
from codesign.executor.weights import WeightStore
from codesign.graph import Graph, Op
from codesign.ops.base import Array
from codesign.ops.convolution import convolution_window


def prepare(op: Op, graph: Graph, weights: WeightStore) -> Prepared | None:
    image, kernel = graph.tensors[op.inputs[0]], op.inputs[1]
    rank, bias = len(image.shape), op.inputs[2] if len(op.inputs) > 2 else ""
    if not is_weight(graph, kernel, rank) or (bias and not is_weight(graph, bias, 1)):
        return None
    shape = graph.tensors[kernel].shape
    try:
        window, groups = convolution_window(op, image.shape, shape)
    except BadModel:
        return None
    found = filters(shape, groups, window)
    if found is None or image.dtype != "float32" or 0 in image.shape:
        return None
    epilogue = split(
        op, graph, lambda name: is_vector(graph, name, 1, rank, shape[0]), bias, products=not found.separate
    )

    def packed(weight: Array, bias: Array | None = None) -> tuple[Array, ...]:
        if found.separate:
            return found.ordered(weight), pack_columns(bias, 1, shape[0])
        panels = pack(found.ordered(weight))
        return panels, pack_columns(bias, groups, shape[0] // groups), np.zeros(shape[1], np.float32)

    names = (kernel, epilogue.bias) if epilogue.bias else (kernel,)
    finish = Finish(epilogue.low, epilogue.high, epilogue.activation)
    return Convolution(op, found, Packed(weights, names, packed), finish, epilogue.addend, epilogue.rest)
