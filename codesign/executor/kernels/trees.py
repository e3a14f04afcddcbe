"""Decision trees: each row sent from the roots down to leaves, whose weights are summed or compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]

LESS_OR_EQUAL, LESS, GREATER_OR_EQUAL, GREATER, EQUAL, NOT_EQUAL, LEAF, MEMBER = range(8)
SUM, LOWEST, HIGHEST = range(3)


@njit(cache=True)  # type: ignore[untyped-decorator]
def descend(
    values: Array, features: Array, thresholds: Array, modes: Array, yes: Array, no: Array, missing: Array,
    roots: Array, members: Array, member_ends: Array, leaves: Array,
) -> None:  # fmt: skip
    """Fill `leaves` (rows, trees) with the leaf that each row of `values` (rows, features) reaches in each tree.

    Nodes are one array for all trees: `features` and `thresholds` are compared as `modes` say, `yes` and `no` are the
    nodes that follow, and a value that is no number goes to `yes` where `missing` is set. The threshold of a test of
    membership is the number of its set: set n is `members` up to `member_ends[n]`, from where the one before ends.
    """
    for row in range(values.shape[0]):
        for tree in range(roots.size):
            node = roots[tree]
            while modes[node] != LEAF:
                value, threshold, mode = values[row, features[node]], thresholds[node], modes[node]
                if np.isnan(value):
                    taken = missing[node] or mode == NOT_EQUAL
                elif mode == LESS_OR_EQUAL:
                    taken = value <= threshold
                elif mode == LESS:
                    taken = value < threshold
                elif mode == GREATER_OR_EQUAL:
                    taken = value >= threshold
                elif mode == GREATER:
                    taken = value > threshold
                elif mode == EQUAL:
                    taken = value == threshold
                elif mode == MEMBER:
                    chosen = int(threshold)
                    start = member_ends[chosen - 1] if chosen else 0
                    taken = np.any(members[start : member_ends[chosen]] == value)
                else:
                    taken = value != threshold
                node = yes[node] if taken else no[node]
            leaves[row, tree] = node


@njit(cache=True)  # type: ignore[untyped-decorator]
def aggregate(
    leaves: Array, starts: Array, targets: Array, weights: Array, how: int, scores: Array, given: Array
) -> None:
    """Fill `scores` (rows, targets) from the leaves reached: leaf n gives `weights` to `targets` at positions from
    `starts[n]` to `starts[n + 1]`. A target that no leaf gives anything is zero, and false in `given`."""
    scores[:] = 0.0
    given[:] = False
    for row in range(leaves.shape[0]):
        for leaf in leaves[row]:
            for position in range(starts[leaf], starts[leaf + 1]):
                target, weight = targets[position], weights[position]
                if how == SUM:
                    scores[row, target] += weight
                elif not given[row, target]:
                    scores[row, target] = weight
                elif how == LOWEST:
                    scores[row, target] = min(scores[row, target], weight)
                else:
                    scores[row, target] = max(scores[row, target], weight)
                given[row, target] = True
