"""TreeEnsemble of ai.onnx.ml 5, which keeps inner nodes and leaves in lists of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, required
from codesign.ops.base import Array, ShapeAndType, Value, operator
from codesign.ops.labels import DOMAIN, listed, rows_of, transformed
from codesign.ops.trees import Forest, TreeEnsemble, forest

_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


@operator("TreeEnsemble", domain=DOMAIN)
class TreeEnsembleOfNodesAndLeaves(TreeEnsemble):
    """Scores (rows, targets) in the type of the input."""

    def _targets(self, op: Op) -> int:
        return int(op.attributes.get("n_targets", 1))

    def _forest(self, op: Op, features: int) -> Forest:
        return forest(older_form(op), self.side, features, self._targets(op))

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        rows, features = rows_of(op, inputs)
        self._forest(op, features)
        return [((rows, self._targets(op)), required(op, inputs, 0, "X").dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "X")
        scores, _ = self._scores(older_form(op), inputs, self._forest(op, rows_of(op, inputs)[1]))
        return [transformed(older_form(op), scores.astype(source.dtype))]


def _word(op: Op, name: str, words: Sequence[str], default: int) -> str:
    number = int(op.attributes.get(name, default))
    if not 0 <= number < len(words):
        raise bad(op, f"attribute '{name}' is {number}, expected 0 to {len(words) - 1}")
    return words[number]


def older_form(op: Op) -> Op:
    """The node as a TreeEnsembleRegressor would have it: leaves among the nodes, a copy for each branch to one."""
    modes = np.asarray(op.attributes.get("nodes_modes", ()), np.int64).ravel()
    features = listed(op, "nodes_featureids", np.int64)
    splits = np.asarray(op.attributes.get("nodes_splits", ())).ravel()
    weights, targets = np.asarray(op.attributes.get("leaf_weights", ())).ravel(), listed(op, "leaf_targetids", np.int64)
    missing = listed(op, "nodes_missing_value_tracks_true", np.int64)
    followers = [listed(op, f"nodes_{side}nodeids", np.int64) for side in ("true", "false")]
    to_leaf = [listed(op, f"nodes_{side}leafs", np.int64) != 0 for side in ("true", "false")]
    count = len(modes)
    if not count or {len(one) for one in (features, splits, *followers, *to_leaf)} != {count}:
        raise bad(op, "its lists of nodes have different lengths, or none")
    if modes.min() < 0 or modes.max() >= len(_MODES):
        raise bad(op, f"a node mode is outside 0 to {len(_MODES) - 1}")
    for ids, leaf in zip(followers, to_leaf, strict=True):
        if np.any((ids < 0) | (ids >= np.where(leaf, len(weights), count))):
            raise bad(op, "a branch names a node or leaf that is not there")
    given = np.concatenate([ids[leaf] for ids, leaf in zip(followers, to_leaf, strict=True)])
    numbers = np.arange(count, count + len(given))
    ends = np.split(numbers, [int(to_leaf[0].sum())])
    for ids, leaf, end in zip(followers, to_leaf, ends, strict=True):
        ids[leaf] = end
    none = np.zeros(len(given), np.int64)
    attributes: dict[str, Any] = {
        "nodes_treeids": np.zeros(count + len(given), np.int64),
        "nodes_nodeids": np.arange(count + len(given)),
        "nodes_featureids": np.concatenate([features, none]),
        "nodes_modes": (*(_MODES[mode] for mode in modes), *("LEAF",) * len(given)),
        "nodes_values_as_tensor": np.concatenate([splits, none.astype(splits.dtype)]),
        "nodes_truenodeids": np.concatenate([followers[0], none]),
        "nodes_falsenodeids": np.concatenate([followers[1], none]),
        "membership_values": op.attributes.get("membership_values", ()),
        "target_treeids": none,
        "target_nodeids": numbers,
        "target_ids": targets[given],
        "target_weights_as_tensor": weights[given],
        "aggregate_function": _word(op, "aggregate_function", _AGGREGATES, 1),
        "post_transform": _word(op, "post_transform", _TRANSFORMS, 0),
    }
    if missing.size:
        attributes["nodes_missing_value_tracks_true"] = np.concatenate([missing, none])
    return replace(op, attributes={**attributes, "n_targets": op.attributes.get("n_targets", 1)})
