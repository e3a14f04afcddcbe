"""Pareto fronts: which points no other point beats in every objective at once."""

from __future__ import annotations

from typing import Any

import numpy as np


def pareto_front(costs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(P,) bool: the points of `costs`, shape (P, objectives), each to be made small, that no other dominates.

    A point is dominated when another is no worse in every objective and better in one; equal points stay together.
    A point with a cost that is not a number is never on the front.
    """
    costs = np.asarray(costs, dtype=float)
    known = ~np.isnan(costs).any(axis=1)
    front = np.zeros(len(costs), bool)
    candidates = np.flatnonzero(known)
    order = candidates[np.lexsort(costs[candidates].T[::-1])]
    kept: list[int] = []
    for point in order:  # sorted by the first objective: only an earlier point can dominate a later one
        better = costs[kept]
        if not np.any(np.all(better <= costs[point], axis=1) & np.any(better < costs[point], axis=1)):
            kept.append(int(point))
    front[kept] = True
    return front
