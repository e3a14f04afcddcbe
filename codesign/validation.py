"""What predictions are held against: published or measured figures, row by row, and the bounds they must keep."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Statistic = Literal["mean", "median", "worst_ratio"]


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
    """A limit on a statistic of a group: mean or median relative error, or the worst ratio."""

    group: str
    statistic: Statistic
    limit: float


def measure(statistic: Statistic, rows: Iterable[Comparison]) -> float:
    """The statistic of the rows. Raises statistics.StatisticsError when there are none: an empty check is no check."""
    rows = list(rows)
    if statistic == "worst_ratio":
        return max(row.ratio for row in rows)
    errors = [row.error for row in rows]
    return statistics.fmean(errors) if statistic == "mean" else statistics.median(errors)
