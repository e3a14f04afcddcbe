"""Ranges of activations from sample inputs: what was seen of each tensor, and the range that a method makes of it.

Two passes over the samples: the first finds the extremes of each tensor, the second, where the method needs it, counts
its values in equal bins between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from codesign.executor.kernels.distribution import count_bins
from codesign.numerics.holding import SHRINKS, Range, scaling_of
from codesign.numerics.policy import Calibration, Holding, Method

Array = np.ndarray[Any, Any]

BINS = 2048
"""Bins of a histogram, over the range from minus to plus the largest magnitude."""
_ENTROPY_LEVELS = 128
"""Levels of the quantised distribution: those of int8 on one side of zero (Migacz 2017)."""
_ENTROPY_STEP = 8
"""Every eighth threshold is tried: neighbours differ little."""


@dataclass
class Seen:
    """What was seen of one tensor; `counts` (BINS,) lie between minus and plus the largest magnitude."""

    low: float = 0.0
    high: float = 0.0
    counts: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))

    @property
    def largest(self) -> float:
        return max(-self.low, self.high)

    def widen(self, values: Array, mask_beyond: float) -> None:
        """Take the extremes of `values` in; infinities, NaN and masks, from -mask_beyond down, widen nothing."""
        usual = np.isfinite(values) & (values > -mask_beyond)
        self.low = min(self.low, float(values.min(initial=0, where=usual)))
        self.high = max(self.high, float(values.max(initial=0, where=usual)))

    def count(self, values: Array) -> None:
        """Count `values` in the bins; what is outside counts nowhere."""
        reach = self.largest
        if reach > 0:
            inside = values[np.abs(values) <= reach]
            count_bins(inside, BINS / (2 * reach), self.counts)

    @property
    def centres(self) -> Array:
        """The middle of each bin."""
        return ((np.arange(BINS) + 0.5) * (2 / BINS) - 1) * self.largest


def range_of(seen: Seen, holding: Holding, calibration: Calibration) -> Range:
    """The range that the holding's method (or the calibration's) chooses."""
    method = holding.method or calibration.method
    if method == "minmax" or not seen.counts.any():
        return seen.low, seen.high
    return _METHODS[method](seen, holding, calibration)


def needs_counts(holding: Holding, calibration: Calibration) -> bool:
    """Whether the method needs a histogram."""
    return (holding.method or calibration.method) != "minmax"


def _percentile(seen: Seen, holding: Holding, calibration: Calibration) -> Range:
    """The bins that leave the given share of the values inside, the rest split between both ends."""
    outside = (1 - (holding.percentile or calibration.percentile) / 100) / 2 * seen.counts.sum()
    inner = np.cumsum(seen.counts)
    first = int(np.searchsorted(inner, outside, "right"))
    last = int(np.searchsorted(inner, inner[-1] - outside, "left"))
    width = 2 * seen.largest / BINS
    edges = first * width - seen.largest, (last + 1) * width - seen.largest
    return max(min(edges[0], 0.0), seen.low), min(max(edges[1], 0.0), seen.high)


def _mse(seen: Seen, holding: Holding, calibration: Calibration) -> Range:
    """Of some shrunken ranges, the one with the least squared error in the format, bins standing for their values."""
    form = holding.form
    assert form is not None
    centres = seen.centres.astype(np.float32)[None]
    errors = []
    for shrink in SHRINKS:
        low, high = (np.array([edge * shrink], np.float32) for edge in (seen.low, seen.high))
        held = scaling_of(low, high, form, bool(holding.symmetric)).quantise(centres, holding)
        errors.append(float((np.square(held - centres)[0].astype(np.float64) * seen.counts).sum()))
    shrink = SHRINKS[int(np.argmin(errors))]
    return seen.low * shrink, seen.high * shrink


def _entropy(seen: Seen, holding: Holding, calibration: Calibration) -> Range:
    """The threshold whose clipped histogram loses least to quantisation by Kullback-Leibler divergence (Migacz 2017,
    "8-bit Inference with TensorRT")."""
    magnitudes = (seen.counts[BINS // 2 :] + seen.counts[: BINS // 2][::-1]).astype(np.float64)
    candidates = range(_ENTROPY_LEVELS, len(magnitudes) + 1, _ENTROPY_STEP)
    best = min(candidates, key=lambda kept: _divergence(magnitudes, kept))
    threshold = seen.largest * best / len(magnitudes)
    return max(seen.low, -threshold), min(seen.high, threshold)


def _divergence(magnitudes: Array, kept: int) -> float:
    """Between the first `kept` bins, what is beyond added to the last, and the same in fewer levels spread again."""
    inside = magnitudes[:kept]
    reference = inside.copy()
    reference[-1] += magnitudes[kept:].sum()
    levels = np.arange(kept) * _ENTROPY_LEVELS // kept
    used = inside > 0
    sums = np.bincount(levels, inside, _ENTROPY_LEVELS)
    shares = np.maximum(np.bincount(levels, used, _ENTROPY_LEVELS), 1)
    spread = np.where(used, (sums / shares)[levels], 0.0)
    if not spread.sum():
        return np.inf
    p, q = reference / reference.sum(), spread / spread.sum()
    both = (p > 0) & (q > 0)
    # Mass where the quantised distribution has none would be infinitely surprising: the usual small constant instead.
    lost = p[(p > 0) & (q == 0)]
    divergence = np.sum(p[both] * np.log(p[both] / q[both]))
    return float(divergence + np.sum(lost * np.log(lost / 1e-9)) if lost.size else divergence)


_METHODS: dict[Method, Callable[[Seen, Holding, Calibration], Range]] = {
    "percentile": _percentile,
    "mse": _mse,
    "entropy": _entropy,
}
