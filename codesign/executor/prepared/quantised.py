"""Operators on 8-bit values: convolution and product with a weight, sums, and rounding to 8 bits.

To the bit what `codesign.ops.quantised` computes: integer sums are exact in any order, and the kernels round a sum to 8
bits in its order of operations. Weights must be symmetric: with a zero point each sum would need those of its row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.dtypes import name_of, numpy_dtype
from codesign.errors import BadModel
from codesign.executor.epilogue import follow
from codesign.executor.kernels.product import pack_bytes, pack_columns
from codesign.executor.kernels.quantise import quantise
from codesign.executor.kernels.saturating import any_pairs_saturate
from codesign.executor.prepared.panels import Finish, Layout, Panels, Sliding
from codesign.executor.prepared.products import as_rows
from codesign.executor.prepared.step import Packed, Prepared, Read, inline
from codesign.executor.prepared.windows import Convolution, filters
from codesign.executor.weights import WeightStore
from codesign.graph import Graph, Op
from codesign.ops.arguments import widened
from codesign.ops.base import Array, find
from codesign.ops.convolution import convolution_window
from codesign.ops.layout import channels_last
from codesign.ops.quantisation import integer_limits
from codesign.ops.quantised_weights import QGemm

_BYTES = ("uint8", "int8")
_EXACT_TAPS = (1 << 24) // (255 * 255)
"""Products of bytes whose sum float32 holds exactly."""


def prepare(op: Op, graph: Graph, weights: WeightStore) -> Prepared | None:
    if op.kind == "QuantizeLinear":
        return _quantisation(op, graph)
    if op.kind in ("QLinearAdd", "QLinearMul"):
        shapes = {tuple(graph.tensors[name].shape) for name in (op.inputs[0], op.inputs[3], op.outputs[0])}
        return _InMemoryOrder(op) if len(shapes) == 1 else None
    operands = _operands(op, graph)
    if operands is None:
        return None
    if op.kind == "QLinearConv":
        return _convolution(op, graph, weights, operands)
    return _product(op, graph, weights, operands)


@dataclass(frozen=True, slots=True)
class _Operands:
    """Zero points and types of what a quantised convolution or product reads and writes. `centre` is that of the image
    as unsigned; `shift` makes the weights signed."""

    centre: int
    zero: int
    weight_signed: bool
    weight_zero: Array
    shift: int
    result: str

    @property
    def symmetric(self) -> bool:
        return bool((self.weight_zero == self.shift).all())


def _operands(op: Op, graph: Graph) -> _Operands | None:
    """None unless all are bytes, the zero points are known, and the image has one of all channels."""
    image, weight = (graph.tensors[name].dtype for name in (op.inputs[0], op.inputs[3]))
    centre, weight_zero = inline(graph, op.inputs[2]), inline(graph, op.inputs[5])
    zero = inline(graph, op.inputs[_zero_index(op)]) if len(op.inputs) > _zero_index(op) else None
    if image not in _BYTES or weight not in _BYTES or op.inputs[3] not in graph.weights:
        return None
    if centre is None or weight_zero is None or centre.size != 1 or (zero is not None and zero.size != 1):
        return None
    return _Operands(
        int(centre.item()) + 128 * (image == "int8"),
        0 if zero is None else int(zero.item()),
        weight == "int8",
        weight_zero.astype(np.int32).ravel(),
        0 if weight == "int8" else 128,
        # What is stored may be of another type: that of the epilogue's last result.
        image if zero is None else name_of(zero.dtype),
    )


def _zero_index(op: Op) -> int:
    return 8 if op.kind == "QGemm" else 7


class _ByteConvolution(Convolution):
    """Signed images are computed on as unsigned ones, 128 higher."""

    saturates = False

    def _taken(self, image: Array) -> Array | None:
        if image.dtype == np.int8:
            return as_unsigned(image)
        return None if image.dtype != np.uint8 or (self.saturates and any_pairs_saturate()) else image


def as_unsigned(values: Array) -> Array:
    """int8 values as uint8, 128 higher, in the same order of memory."""
    return np.bitwise_xor(values.view(np.uint8), np.uint8(128))


def _convolution(op: Op, graph: Graph, weights: WeightStore, operands: _Operands) -> Prepared | None:
    image, shape = graph.tensors[op.inputs[0]].shape, graph.tensors[op.inputs[3]].shape
    scales = [graph.tensors[op.inputs[index]] for index in (1, 6)]
    if channels_last(op) or any(scale.elements != 1 for scale in scales) or 0 in image or operands.result not in _BYTES:
        return None
    try:
        window, groups = convolution_window(op, image, shape)
    except BadModel:
        return None
    found = filters(shape, groups, window)
    if found is None:
        return None
    fits = math.prod(shape[2:]) <= _EXACT_TAPS if found.separate else operands.symmetric
    if not fits:
        return None

    def packed(
        weight: Array, image_scale: Array, weight_scale: Array, scale: Array, bias: Array | None = None
    ) -> tuple[Array, ...]:
        apart = 1 if found.separate else groups
        outputs = shape[0] // apart
        factor = image_scale * weight_scale / scale
        factors = pack_columns(np.broadcast_to(widened(factor).astype(np.float32).ravel(), shape[:1]), apart, outputs)
        added = np.zeros(shape[0], np.int64) if bias is None else bias.astype(np.int64)
        zeros = np.broadcast_to(operands.weight_zero, shape[:1]).reshape(-1, *(1,) * (len(shape) - 1))
        if found.separate:
            filters = found.ordered((weight.astype(np.int32) - zeros).astype(np.float32))
            return filters, pack_columns(added.astype(np.int32), apart, outputs, np.int32), factors
        centred = (weight.astype(np.int32) - zeros).astype(np.int8)
        added -= operands.centre * centred.reshape(shape[0], -1).sum(axis=1, dtype=np.int64)
        padding = np.full(-(-shape[1] // 4) * 4, operands.centre, np.uint8)
        bias = pack_columns(added.astype(np.int32), apart, outputs, np.int32)
        return pack_bytes(found.ordered(centred)), bias, padding, factors

    names = tuple(op.inputs[index] for index in (3, 1, 4, 6, 8) if index < len(op.inputs) and op.inputs[index])
    step = _ByteConvolution(op, found, Packed(weights, names, packed), _finish(operands), rest=op.epilogue)
    step.saturates = operands.weight_signed and not found.separate
    return step


def _finish(operands: _Operands) -> Finish:
    low, high = integer_limits(operands.result)
    kind: Any = numpy_dtype(operands.result).type
    return Finish(low, high, centre=operands.centre, zero=operands.zero, kind=kind)


def _product(op: Op, graph: Graph, weights: WeightStore, operands: _Operands) -> Prepared | None:
    """Only QGemm's plain form, whose result is finished outside the kernel: it rounds twice."""
    turned = op.attributes.get("transA", 0)
    addend = op.inputs[6] if len(op.inputs) > 6 else ""
    if op.kind != "QGemm" or turned or not operands.symmetric or (addend and addend not in graph.weights):
        return None
    return _Gemm(op, graph, weights, operands)


class _Gemm:
    """Rows of bytes times a weight (k, n), or (n, k) when transposed."""

    def __init__(self, op: Op, graph: Graph, weights: WeightStore, operands: _Operands) -> None:
        self._op, self._saturates = op, operands.weight_signed
        transposed = bool(op.attributes.get("transB", 0))
        columns = graph.tensors[op.outputs[0]].shape[-1]

        def packed(weight: Array) -> tuple[Array, ...]:
            right = (weight.T if transposed else weight).astype(np.int32) - operands.shift
            added = -operands.centre * right.sum(axis=0, dtype=np.int64)
            bias = pack_columns(added.astype(np.int32), 1, columns, np.int32)
            return pack_bytes(right.astype(np.int8)[None, None]), bias, np.zeros(right.shape[0], np.uint8)

        self._panels = Panels(Packed(weights, op.inputs[3:4], packed), 1, columns, Finish(kind=np.int32))
        self._layouts: dict[tuple[int, ...], Layout] = {}

    def __call__(self, read: Read) -> list[Array] | None:
        inputs = [read(name) if name and index != 3 else None for index, name in enumerate(self._op.inputs)]
        left = inputs[0]
        if left is None or left.dtype not in (np.uint8, np.int8) or left.size == 0:
            return None
        if self._saturates and left.dtype == np.uint8 and any_pairs_saturate():
            return None
        rows = as_rows(as_unsigned(left) if left.dtype == np.int8 else left)
        if rows.shape[3] % 4:  # The kernel reads four bytes at a time, and must not read behind the last row.
            rows = np.pad(rows, [(0, 0)] * 3 + [(0, -rows.shape[3] % 4)])
        layout = self._layouts.get(rows.shape)
        if layout is None:
            layout = self._layouts[rows.shape] = self._panels.layout(rows.shape, Sliding(out=(1, rows.shape[2])))
        sums = self._panels.multiply(layout, rows).reshape(*left.shape[:-1], -1)
        outputs = QGemm.finished(self._op, inputs, sums, left.dtype)
        return [follow(self._op.epilogue, outputs[0], inputs, read)] if self._op.epilogue else outputs


class _InMemoryOrder:
    """An operation on two arrays of one shape, value by value in the order in which they lie in memory, when it is the
    same of both: so that channels that lie last stay there."""

    def __init__(self, op: Op) -> None:
        self._op, self._operator = op, find(op)

    def __call__(self, read: Read) -> list[Array] | None:
        inputs = [read(name) if name else None for name in self._op.inputs]
        left, right = inputs[0], inputs[3]
        if left is None or right is None or left.strides != right.strides or left.shape != right.shape:
            return None
        order = sorted(range(left.ndim), key=lambda axis: -left.strides[axis])
        moved = [*inputs]
        moved[0], moved[3] = left.transpose(order), right.transpose(order)
        (result,) = self._operator.compute(self._op, moved)
        result = result.transpose(np.argsort(order))
        return [follow(self._op.epilogue, result, inputs, read)] if self._op.epilogue else [result]


def _quantisation(op: Op, graph: Graph) -> Prepared | None:
    """Of float32 to bytes, with one scale."""
    source, scale = (graph.tensors[name] for name in op.inputs[:2])
    zero = op.inputs[2] if len(op.inputs) > 2 else ""
    result = graph.tensors[zero].dtype if zero else "uint8"
    plain = source.dtype == scale.dtype == "float32" and scale.elements == 1 and result in _BYTES
    typed = any(op.attributes.get(name, 0) for name in ("precision", "output_dtype"))
    return _Quantisation(op, result) if plain and not typed else None


class _Quantisation:
    def __init__(self, op: Op, kind: str) -> None:
        self._op, self._kind = op, kind
        self._low, self._high = (np.float32(limit) for limit in integer_limits(kind))

    def __call__(self, read: Read) -> list[Array] | None:
        values, scale = read(self._op.inputs[0]), read(self._op.inputs[1])
        zero = read(self._op.inputs[2]) if len(self._op.inputs) > 2 and self._op.inputs[2] else np.zeros((), np.int32)
        if values.dtype != np.float32:
            return None
        order = sorted(range(values.ndim), key=lambda axis: -values.strides[axis])
        flat = np.ascontiguousarray(values.transpose(order))
        result = np.empty(flat.shape, numpy_dtype(self._kind))
        quantise(
            flat.reshape(-1), np.float32(scale.item()), np.float32(zero.item()), self._low, self._high,
            result.reshape(-1),
        )  # fmt: skip
        outcome = result.transpose(np.argsort(order))
        return [follow(self._op.epilogue, outcome, [values], read)] if self._op.epilogue else [outcome]
