"""Scaled dot-product attention on plain arrays, query heads grouped over the key and value heads they share."""

from __future__ import annotations

from typing import Any

import numpy as np

from codesign.executor.kernels.softmax import softmax_rows

Array = np.ndarray[Any, Any]


def grouped_product(left: Array, right: Array) -> Array:
    """left (batch, heads, m, k) times right (batch, shared heads, k, n): neighbouring heads read the same right."""
    batch, heads, rows, depth = left.shape
    shared = right.shape[1]
    if heads == shared:
        return np.asarray(np.matmul(left, right))
    product = np.matmul(left.reshape(batch, shared, heads // shared * rows, depth), right)
    return product.reshape(batch, heads, rows, right.shape[-1])


def attend(
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None,
    scale: float,
    softcap: float = 0.0,
    precision: np.dtype[Any] | None = None,
    keep: int | None = None,
    sink: Array | None = None,
) -> tuple[Array, Array | None]:
    """softmax(softcap(scale query key') + bias) value, and the intermediate result that `keep` names.

    query (batch, heads, m, k), key (batch, shared heads, n, k), value (batch, shared heads, n, v); bias broadcasts to
    (batch, heads, m, n) and is -inf where a key is hidden: a query that sees no key gives zeros. Scores are limited to
    `softcap` by tanh when it is not 0; the softmax is computed in `precision`, or as the query. `keep`: 0 the scaled
    products, 1 after the softcap, 2 with the bias, 3 the probabilities. `sink` (heads,) is one more score of each head
    in the denominator of the softmax.
    """
    kept = None
    scores = grouped_product(query * query.dtype.type(scale), key.swapaxes(-1, -2))
    kept = scores.copy() if keep == 0 else kept
    if softcap:
        scores = np.tanh(scores / scores.dtype.type(softcap)) * scores.dtype.type(softcap)
    kept = scores.copy() if keep == 1 else kept
    if bias is not None:
        scores += bias
        # A hidden key counts for nothing, also when its product is not a number.
        np.copyto(scores, -np.inf, where=np.isneginf(bias))
    kept = scores.copy() if keep == 2 else kept
    if sink is not None:
        column = np.broadcast_to(sink.astype(scores.dtype).reshape(-1, 1, 1), (*scores.shape[:-1], 1))
        scores = np.concatenate((scores, column), axis=-1)
    if precision is not None and precision != scores.dtype:
        scores = softmax_rows(scores.astype(precision)).astype(query.dtype)
    else:
        scores = softmax_rows(scores)
    scores = scores if sink is None else scores[..., :-1]
    kept = scores if keep == 3 else kept
    return grouped_product(scores, value), kept
