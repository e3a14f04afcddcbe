"""Fold BatchNormalization, at inference a scale and a shift of each channel, into the product before it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codesign.graph import Graph, Op
from codesign.transforms.match import View, is_kind
from codesign.transforms.rewrite import Array, Rewriter

PRODUCTS = ("Conv", "ConvTranspose", "Gemm")


def fold_batch_normalisation(graph: Graph) -> Graph:
    """The graph with BatchNormalization after Conv, ConvTranspose or Gemm in the weights and bias of these.

    The product must have constant weights and bias and be read by the normalisation alone; statistics must be
    constants. New weights are computed in float64 when asked for and are absent when one of the old is, so that a
    model without values has the same operations. Values agree to rounding. The statistics no longer count as
    parameters; a bias that was not there does.
    """
    view = View(graph)
    rewriter = Rewriter(view)
    for op in graph.ops:
        product = _product(view, op)
        if product is not None and not rewriter.is_removed(product):
            rewriter.replace([product, op], [_folded(view, rewriter, product, op)])
    return rewriter.build()


def _product(view: View, op: Op) -> Op | None:
    """The product that can take the normalisation `op`."""
    if not is_kind(op, "BatchNormalization") or op.attributes.get("training_mode", 0) or any(op.outputs[1:]):
        return None
    product = view.producer(op.inputs[0], *PRODUCTS)
    if product is None or view.sole_reader(op.inputs[0]) is not op:
        return None
    constants = [name for name in (*product.inputs[1:], *op.inputs[1:]) if name]
    if not all(view.is_constant(name) for name in constants):
        return None
    if product.kind == "Gemm":
        bias = view.shape(product.inputs[2]) if len(product.inputs) > 2 and product.inputs[2] else ()
        per_column = not bias or bias[-1] == view.shape(op.outputs[0])[1]
        return product if per_column and len(bias) < 2 and product.attributes.get("beta", 1.0) == 1.0 else None
    return product


def _folded(view: View, rewriter: Rewriter, product: Op, op: Op) -> Op:
    """The product with weights scaled and bias scaled and shifted."""
    weights = product.inputs[1]
    bias = product.inputs[2] if len(product.inputs) > 2 else ""
    gain, shift, mean, variance = op.inputs[1:5]
    epsilon = float(op.attributes.get("epsilon", 1e-5))
    spread = _spread(product)
    shape = view.shape(weights)

    def scaled(values: Array, scale: Array, spent: Array) -> Array:
        factor = _factor(scale, spent, epsilon)
        return (values.astype(np.float64) * spread(factor, shape)).astype(values.dtype)

    def shifted(offset: Array, scale: Array, centre: Array, spent: Array, before: Array | float = 0.0) -> Array:
        factor = _factor(scale, spent, epsilon)
        return (offset + (np.asarray(before, np.float64).reshape(-1) - centre) * factor).astype(offset.dtype)

    new_weights = rewriter.derived([weights, gain, variance], shape, scaled)
    terms = [shift, gain, mean, variance, *([bias] if bias else [])]
    new_bias = rewriter.derived(terms, view.shape(shift), shifted)
    result = op.outputs[0]
    inputs = (product.inputs[0], new_weights, new_bias)
    absorbed = (*product.absorbed, *(("Bias",) if bias else ()), op.kind)
    return Op(
        product.name, product.kind, inputs, (result,), product.attributes, product.domain, product.opset,
        absorbed=absorbed,
    )  # fmt: skip


def _factor(gain: Array, variance: Array, epsilon: float) -> Array:
    return gain.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)


def _spread(product: Op) -> Callable[[Array, tuple[int, ...]], Array]:
    """How a factor for each output channel is laid on the weights of `product`."""
    if product.kind == "Gemm":
        by_rows = bool(product.attributes.get("transB", 0))
        return lambda factor, shape: factor[:, None] if by_rows else factor
    if product.kind == "Conv":
        return lambda factor, shape: factor.reshape(-1, *(1,) * (len(shape) - 1))
    groups = int(product.attributes.get("group", 1))

    def by_group(factor: Array, shape: tuple[int, ...]) -> Array:
        """Weights of a transposed convolution are (input channels, output channels of a group, kernel...)."""
        rows = np.repeat(factor.reshape(groups, -1), shape[0] // groups, axis=0)
        return rows.reshape(*shape[:2], *(1,) * (len(shape) - 2))

    return by_group
