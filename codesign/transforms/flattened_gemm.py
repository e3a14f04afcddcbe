"""Turn matrices flattened for Gemm back into products over the last axis, so that what follows keeps its shape."""

from __future__ import annotations

import math

from codesign.graph import Graph, Op
from codesign.transforms.match import View, is_kind
from codesign.transforms.rewrite import Rewriter
from codesign.transforms.views import reshape


def unflatten_gemm(graph: Graph) -> Graph:
    """The graph with Gemm then Reshape to (..., n) as Reshape to (..., k), MatMul and Add.

    Exporters flatten the leading axes before Gemm and restore them after it; with the view in front of the product,
    bias, activation and residual can follow it. Only for an untransposed left side, alpha and beta of one, and a
    constant right side; the same products are summed, so values agree to rounding.
    """
    view = View(graph)
    rewriter = Rewriter(view)
    for op in graph.ops:
        following = view.sole_reader(op.outputs[0]) if is_kind(op, "Gemm") and _is_plain(view, op) else None
        if following is not None and is_kind(following, "Reshape") and _keeps_columns(view, following):
            rewriter.replace([op, following], _product(view, rewriter, op, following.outputs[0]))
    return rewriter.build()


def _is_plain(view: View, op: Op) -> bool:
    numbers = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    defaults = all(op.attributes.get(name, value) == value for name, value in numbers.items())
    return defaults and view.is_constant(op.inputs[1])


def _keeps_columns(view: View, op: Op) -> bool:
    before, after = view.shape(op.inputs[0]), view.shape(op.outputs[0])
    return len(after) > 2 and after[-1] == before[-1] and math.prod(after) > 0


def _product(view: View, rewriter: Rewriter, op: Op, result: str) -> list[Op]:
    left, right, *rest = op.inputs
    depth = view.shape(left)[-1]
    rows = view.shape(result)[:-1]
    unflattened = rewriter.tensor(left, (*rows, depth))
    ops = [reshape(rewriter, left, unflattened, (*rows, depth))]
    if op.attributes.get("transB", 0):
        columns = view.shape(right)[0]
        counts = view.graph.weights[right].is_parameter and view.readers(right) == [op]
        right = rewriter.derived([right], (depth, columns), lambda values: values.T, counts)
    bias = rest[0] if rest else ""
    product = rewriter.tensor(result, (*rows, view.shape(result)[-1])) if bias else result
    ops.append(Op("", "MatMul", (unflattened, right), (product,), opset=13))
    if bias:
        ops.append(Op("", "Add", (product, bias), (result,), opset=14))
    return ops
