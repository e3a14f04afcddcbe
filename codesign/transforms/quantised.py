"""Turn float operations between DequantizeLinear and QuantizeLinear into operations on the integers themselves."""

from __future__ import annotations

from collections.abc import Sequence

from codesign.graph import Graph, Op
from codesign.transforms.match import View
from codesign.transforms.quantised_products import INTEGER_PRODUCTS, Product
from codesign.transforms.quantised_values import (
    Quantised,
    integer_bounds,
    is_whole,
    limited,
    limits_before,
    quantised,
    quantiser_of,
    replace_quantised,
    target_of,
    zero_point,
)
from codesign.transforms.rewrite import Rewriter

BINARY = {"Add": "QLinearAdd", "Mul": "QLinearMul"}
UNARY = frozenset({"AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax"})
REARRANGING = frozenset(
    {
        "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Tile", "Concat",
        "DepthToSpace", "SpaceToDepth", "MaxPool",
    }
)  # fmt: skip


def fuse_quantised(graph: Graph) -> Graph:
    """The graph with products, sums and moves of dequantised values computed on the quantised values.

    * Conv and MatMul, with at most Relu or Clip between them and QuantizeLinear: QLinearConv and QLinearMatMul; the
      limits become integer ones.
    * Conv, MatMul and Gemm followed by anything else: ConvInteger or MatMulInteger, then DequantizeLinear by the
      product of the scales, bias addition and what followed.
    * Gemm with an int32 bias: QGemm.
    * Add and Mul of two dequantised values, quantised after: QLinearAdd and QLinearMul.
    * Average pooling, LeakyRelu, Sigmoid and Softmax of a dequantised value, quantised after: QLinearSoftmax and so on.
    * Rearranging operations and MaxPool, where all scales and zero points are equal: on the integers. Concat and Where
      where they are not: QLinearConcat and QLinearWhere.

    These are the operators and the arithmetic of onnxruntime's own fusions. Sums are exact in int32 where they were
    rounded in float32, so results agree to rounding, quantised ones to one step. Scales and zero points must be
    constants; 8-bit integers only. A DequantizeLinear that nothing else reads goes; one without any of these after it
    stays.
    """
    view = View(graph)
    rewriter = Rewriter(view)
    for op in graph.ops:
        if rewriter.is_removed(op) or op.domain or op.epilogue:
            continue
        if op.kind in INTEGER_PRODUCTS:
            Product.rewrite(view, rewriter, op)
        elif op.kind in BINARY:
            _binary(view, rewriter, op)
        elif op.kind in UNARY:
            _unary(view, rewriter, op)
        elif op.kind in REARRANGING and _rearrange(view, rewriter, op):
            continue
        elif op.kind in ("Concat", "Where"):
            _choose(view, rewriter, op)
    return rewriter.build()


def _binary(view: View, rewriter: Rewriter, op: Op) -> None:
    left, right = (quantised(view, name) for name in op.inputs)
    limits, quantiser = limits_before(view, op.outputs[0])
    if left is None or right is None or quantiser is None or not (is_whole(view, left) and is_whole(view, right)):
        return
    types = {view.tensor(name).dtype for name in (left.integers, right.integers, quantiser.outputs[0])}
    bounds = integer_bounds(view, rewriter, limits, quantiser)
    if len(types) != 1 or bounds is None:
        return
    scale, zero = target_of(view, rewriter, quantiser)
    inputs = (*_parts(view, rewriter, [left, right]), scale, zero)
    new = limited(view, rewriter, quantiser, bounds, BINARY[op.kind], inputs, {}, "com.microsoft", 1)
    replace_quantised(view, rewriter, [op, *limits, quantiser], [left, right], new)


def _parts(view: View, rewriter: Rewriter, operands: Sequence[Quantised]) -> list[str]:
    """Integers, scale and zero point of each operand."""
    return [
        part
        for found in operands
        for part in (found.integers, found.scale, zero_point(view, rewriter, found.zero, found.integers))
    ]


def _alike(view: View, names: Sequence[str], quantiser: Op | None) -> list[Quantised]:
    """All of `names` as dequantised values with one scale each, of the type that `quantiser` makes; else none."""
    found = [quantised(view, name) for name in names]
    whole = [one for one in found if one is not None and is_whole(view, one)]
    if quantiser is None or len(whole) < len(names):
        return []
    types = {view.tensor(name).dtype for name in (*(one.integers for one in whole), quantiser.outputs[0])}
    return whole if len(types) == 1 else []


def _unary(view: View, rewriter: Rewriter, op: Op) -> None:
    quantiser = quantiser_of(view, op.outputs[0])
    operands = _alike(view, op.inputs[:1], quantiser)
    if quantiser is None or not operands:
        return
    inputs = (*_parts(view, rewriter, operands), *target_of(view, rewriter, quantiser))
    attributes = {**op.attributes, "opset": op.opset} if op.kind == "Softmax" else op.attributes
    new = Op(op.name, f"QLinear{op.kind}", inputs, quantiser.outputs, attributes, "com.microsoft", 1)
    replace_quantised(view, rewriter, [op, quantiser], operands, [new])


def _choose(view: View, rewriter: Rewriter, op: Op) -> None:
    """Concat or Where of values of different scales."""
    quantiser = quantiser_of(view, op.outputs[0])
    plain = op.inputs[:1] if op.kind == "Where" else ()
    operands = _alike(view, op.inputs[len(plain) :], quantiser)
    if quantiser is None or not operands:
        return
    parts, target = _parts(view, rewriter, operands), target_of(view, rewriter, quantiser)
    inputs = (*plain, *parts, *target) if op.kind == "Where" else (*target, *parts)
    new = Op(op.name, f"QLinear{op.kind}", inputs, quantiser.outputs, op.attributes, "com.microsoft", 1)
    replace_quantised(view, rewriter, [op, quantiser], operands, [new])


def _rearrange(view: View, rewriter: Rewriter, op: Op) -> bool:
    """Let `op` move integers, when what it reads and what is made of its result have the same scale; False if not."""
    quantiser = quantiser_of(view, op.outputs[0]) if len(op.outputs) == 1 else None
    data = op.inputs if op.kind == "Concat" else op.inputs[:1]
    operands = [quantised(view, name) for name in data]
    if quantiser is None or not all(found is not None and _same_steps(view, found, quantiser) for found in operands):
        return False
    given = [found for found in operands if found is not None]
    inputs = (*(found.integers for found in given), *op.inputs[len(given) :])
    new = Op(op.name, op.kind, inputs, quantiser.outputs, op.attributes, op.domain, op.opset)
    replace_quantised(view, rewriter, [op, quantiser], given, [new])
    return True


def _same_steps(view: View, found: Quantised, quantiser: Op) -> bool:
    scale, zero = quantiser.inputs[1], quantiser.inputs[2] if len(quantiser.inputs) > 2 else ""
    same_type = view.tensor(found.integers).dtype == view.tensor(quantiser.outputs[0]).dtype
    return same_type and is_whole(view, found) and _equal(view, found.scale, scale) and _equal(view, found.zero, zero)


def _equal(view: View, left: str, right: str) -> bool:
    """True for the same constant, or two of equal values; none is zero."""
    if left == right:
        return True
    values = [view.scalar(name) if name else 0.0 for name in (left, right)]
    return values[0] is not None and values[0] == values[1]
