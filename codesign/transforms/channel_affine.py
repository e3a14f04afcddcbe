"""Fold a normalisation of features by constants, a scale and a shift of each, into the product after it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from codesign.graph import Graph, Op
from codesign.transforms.match import View, is_kind
from codesign.transforms.rewrite import Array, Rewriter


@dataclass(frozen=True)
class _Affine:
    """x times a factor plus an offset for each feature: BatchNormalization, and what of x itself was added to it."""

    ops: tuple[Op, ...]
    source: str
    result: str
    statistics: tuple[str, ...]
    epsilon: float
    own_share: float

    def factor_and_offset(self, gain: Array, shift: Array, mean: Array, variance: Array) -> tuple[Array, Array]:
        """(features,) each, in float64."""
        scale = gain.astype(np.float64) / np.sqrt(variance.astype(np.float64) + self.epsilon)
        return scale + self.own_share, shift - mean * scale


def fold_channel_affine(graph: Graph) -> Graph:
    """The graph with BatchNormalization of rows of features, and a part of the rows added to it, in the weights of the
    matrix products that alone read it.

    This is how re-parameterised normalisation runs (Guo et al. 2024, arXiv:2405.11582): nothing of it is left. The
    normalisation's statistics and the products' right sides must be constants; views that keep the last axis may stand
    between. New constants are computed in float64, and absent when one of the old is. Values agree to rounding.
    """
    view = View(graph)
    rewriter = Rewriter(view)
    for op in graph.ops:
        affine = _affine(view, op)
        products = _products(view, affine.result) if affine is not None else None
        if affine is None or products is None or rewriter.touches(product for _, product in products):
            continue
        for reshaped, product in products:
            before = affine.ops if reshaped is None else (*affine.ops, reshaped)
            rewriter.replace([product], _scaled(view, rewriter, affine, reshaped, product), also=before)
    return rewriter.build()


def _affine(view: View, op: Op) -> _Affine | None:
    """The normalisation of rows that `op` begins."""
    if not is_kind(op, "BatchNormalization") or op.attributes.get("training_mode", 0) or any(op.outputs[1:]):
        return None
    statistics = op.inputs[1:5]
    if len(view.shape(op.inputs[0])) != 2 or not all(view.is_constant(name) for name in statistics):
        return None
    epsilon = float(op.attributes.get("epsilon", 1e-5))
    added = view.sole_reader(op.outputs[0])
    if added is not None and is_kind(added, "Add"):
        own = _own_share(view, op, added)
        if own is not None:
            return _Affine((op, *own[1], added), op.inputs[0], added.outputs[0], statistics, epsilon, own[0])
    return _Affine((op,), op.inputs[0], op.outputs[0], statistics, epsilon, 0.0)


def _own_share(view: View, op: Op, added: Op) -> tuple[float, tuple[Op, ...]] | None:
    """What part of the rows `added` adds to their normalisation `op`, and the operation that scales them, if any."""
    other = added.inputs[1 - added.inputs.index(op.outputs[0])]
    if other == op.inputs[0]:
        return 1.0, ()
    product = view.producer(other, "Mul")
    if product is None or view.sole_reader(other) is not added or op.inputs[0] not in product.inputs:
        return None
    share = view.scalar(product.inputs[1 - product.inputs.index(op.inputs[0])])
    return None if share is None else (share, (product,))


def _products(view: View, rows: str) -> list[tuple[Op | None, Op]] | None:
    """The products that read `rows`, each with the view before it, if any; None when something else reads them."""
    if rows in view.pinned:
        return None
    found: list[tuple[Op | None, Op]] = []
    for reader in view.readers(rows):
        if is_kind(reader, "Reshape") and view.shape(reader.outputs[0])[-1:] == view.shape(rows)[-1:]:
            if reader.outputs[0] in view.pinned:
                return None
            found += [(reader, inner) for inner in view.readers(reader.outputs[0])]
        else:
            found.append((None, reader))
    lefts = [rows if reshaped is None else reshaped.outputs[0] for reshaped, _ in found]
    alike = all(_is_product(view, product, left) for (_, product), left in zip(found, lefts, strict=True))
    return found if alike else None


def _is_product(view: View, op: Op, left: str) -> bool:
    if not is_kind(op, "MatMul", "Gemm") or op.inputs[0] != left or not view.is_constant(op.inputs[1]):
        return False
    plain = not op.attributes.get("transA", 0) and op.attributes.get("alpha", 1.0) == 1.0
    return plain and len(view.shape(op.inputs[1])) == 2


def _scaled(view: View, rewriter: Rewriter, affine: _Affine, reshaped: Op | None, product: Op) -> list[Op]:
    """The product of what was normalised, viewed as before, its weights scaled and the offsets' product added."""
    weights, result = product.inputs[1], product.outputs[0]
    shape, by_rows = view.shape(weights), bool(product.attributes.get("transB", 0))

    def scaled(values: Array, *statistics: Array) -> Array:
        factor, _ = affine.factor_and_offset(*statistics)
        return (values.astype(np.float64) * (factor if by_rows else factor[:, None])).astype(values.dtype)

    def added(values: Array, *statistics: Array) -> Array:
        _, offset = affine.factor_and_offset(*statistics)
        matrix = values.astype(np.float64)
        return (offset @ (matrix.T if by_rows else matrix)).astype(values.dtype)

    source, new = affine.source, []
    if reshaped is not None:
        source = rewriter.tensor(affine.source, view.shape(reshaped.outputs[0]))
        new.append(replace(reshaped, name="", inputs=(affine.source, *reshaped.inputs[1:]), outputs=(source,)))
    terms = [weights, *affine.statistics]
    multiplied = rewriter.tensor(result, view.shape(result))
    inputs = (source, rewriter.derived(terms, shape, scaled), *product.inputs[2:])
    bias = rewriter.derived(terms, (shape[0 if by_rows else 1],), added)
    new.append(replace(product, name="", inputs=inputs, outputs=(multiplied,)))
    return [*new, Op(product.name, "Add", (multiplied, bias), (result,), opset=product.opset)]
