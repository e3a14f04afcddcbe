"""Softmax over the last axis, in place: one pass for the maximum, one for exponents and their sum, one to divide."""

from __future__ import annotations

from typing import Any

import numpy as np

from codesign.executor.kernels.compiled import summing_kernel
from codesign.executor.kernels.exponential import exp32

Array = np.ndarray[Any, Any]


def softmax_rows(scores: Array) -> Array:
    """Write softmax over the last axis into `scores`, and return it. A row of -inf throughout gives zeros."""
    if scores.size == 0:
        return scores
    peak = scores.max(axis=-1, keepdims=True)
    np.copyto(peak, 0, where=np.isneginf(peak))
    if scores.dtype == np.float32 and scores.flags.c_contiguous:
        _softmax_rows(scores.reshape(-1, scores.shape[-1]), peak.ravel())
        return scores
    scores -= peak
    np.exp(scores, out=scores)
    total = scores.sum(axis=-1, keepdims=True)
    np.copyto(total, 1, where=total == 0)
    scores /= total
    return scores


@summing_kernel
def _softmax_rows(scores: Array, peaks: Array) -> None:
    rows, columns = scores.shape
    for row in range(rows):
        total = np.float32(0)
        for column in range(columns):
            power = exp32(scores[row, column] - peaks[row])
            scores[row, column] = power
            total += power
        scale = np.float32(1) / total if total != 0 else np.float32(1)
        for column in range(columns):
            scores[row, column] *= scale
