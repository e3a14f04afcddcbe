"""What predictions are held against: published or measured figures, row by row, and the bounds they must keep."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Statistic = Literal["mean", "median", "worst_ratio", "kendall", "spearman"]
RANKS = ("kendall", "spearman")
"""Rank correlations of predicted with reference figures: the larger, the better."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One predicted figure beside one published or measured figure, in the same unit."""

    group: str
    name: str
    unit: str
    predicted: float
    reference: float
    source: str

    @property
    def error(self) -> float:
        """Relative error, absolute value, as a fraction of the reference."""
        return abs(self.predicted - self.reference) / abs(self.reference)

    @property
    def ratio(self) -> float:
        """The larger of predicted/reference and reference/predicted: 1 is exact."""
        quotient = self.predicted / self.reference
        return max(quotient, 1 / quotient) if quotient > 0 else float("inf")


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit on a statistic of a group: the most of the mean or median relative error or the worst ratio, the least of
    a rank correlation. `aim` is what was wanted where the limit, which guards what is reached, falls short."""

    group: str
    statistic: Statistic
    limit: float
    aim: float | None = None

    def holds(self, found: float) -> bool:
        return self._within(found, self.limit)

    def reaches(self, found: float) -> bool:
        """Whether the aim is reached; true without one."""
        return self.aim is None or self._within(found, self.aim)

    def _within(self, found: float, limit: float) -> bool:
        return found >= limit if self.statistic in RANKS else found <= limit


def measure(statistic: Statistic, rows: Iterable[Comparison]) -> float:
    """The statistic of the rows. Raises statistics.StatisticsError when there are none: an empty check is no check."""
    rows = list(rows)
    if statistic in RANKS:
        return _rank_correlation(statistic, rows)
    if statistic == "worst_ratio":
        return max(row.ratio for row in rows)
    errors = [row.error for row in rows]
    return statistics.fmean(errors) if statistic == "mean" else statistics.median(errors)


def _rank_correlation(statistic: Statistic, rows: list[Comparison]) -> float:
    """Kendall's tau-b, or Spearman's rho, of predicted and reference figures."""
    from scipy import stats

    function = stats.kendalltau if statistic == "kendall" else stats.spearmanr
    return float(function([row.predicted for row in rows], [row.reference for row in rows]).statistic)
