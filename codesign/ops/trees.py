"""Tree ensembles of ai.onnx.ml: random forests and boosted trees, whose nodes the operator itself holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codesign.dtypes import name_of
from codesign.graph import Op
from codesign.ops.arguments import bad, operands, required, text
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.labels import (
    DOMAIN,
    TRANSFORM_FLOPS,
    class_labels,
    listed,
    post_transform,
    rows_of,
    second_class,
    transformed,
)
from codesign.work import Gather, Operand, Work

_MODES = {
    name: number
    for number, name in enumerate(
        ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "LEAF", "BRANCH_MEMBER")
    )
}
_LEAF, _MEMBER = _MODES["LEAF"], _MODES["BRANCH_MEMBER"]
_AGGREGATES = {"SUM": 0, "AVERAGE": 0, "MIN": 1, "MAX": 2}


@dataclass(frozen=True, slots=True)
class Forest:
    """Nodes of all trees in one array each, in the order of the file, and what each leaf gives (see the kernel)."""

    features: Array
    thresholds: Array
    modes: Array
    yes: Array
    no: Array
    missing: Array
    roots: Array
    depths: Array
    starts: Array
    targets: Array
    weights: Array
    members: Array
    member_ends: Array

    @property
    def mean_depth(self) -> float:
        """Comparisons on the way to a leaf, each leaf as likely as any other: data alone could tell more."""
        return float(self.depths[self.modes == _LEAF].mean())

    @property
    def node_bytes(self) -> int:
        """What a step down reads: feature and two followers of 4 bytes, the threshold, and the mode's byte."""
        return 3 * 4 + self.thresholds.itemsize + 1

    @property
    def bytes(self) -> int:
        return self.node_bytes * len(self.modes) + (4 + self.weights.itemsize) * len(self.weights)


def _numbers(op: Op, name: str) -> Array:
    """Attribute `name`, float32, or the form of it that holds a tensor, of float64."""
    held = op.attributes.get(f"{name}_as_tensor")
    return listed(op, name) if held is None else np.asarray(held).ravel()


def forest(op: Op, side: str, features: int, targets: int) -> Forest:
    """The trees of a node whose leaves' attributes begin with `side`. Raises BadModel when they are no trees."""
    trees, nodes = listed(op, "nodes_treeids", np.int64), listed(op, "nodes_nodeids", np.int64)
    columns = {name: listed(op, f"nodes_{name}", np.int64) for name in ("featureids", "truenodeids", "falsenodeids")}
    thresholds, words = _numbers(op, "nodes_values"), op.attributes.get("nodes_modes", ())
    sizes = {len(one) for one in (trees, nodes, thresholds, words, *columns.values())}
    if len(sizes) != 1 or not len(trees):
        raise bad(op, f"its lists of nodes have different lengths or none: {sorted(sizes)}")
    if unknown := sorted(set(words) - set(_MODES)):
        raise bad(op, f"unknown node mode '{unknown[0]}', expected one of {', '.join(_MODES)}")
    modes = np.array([_MODES[word] for word in words], np.int8)
    inner = modes != _LEAF
    index = _Index(op, trees, nodes)
    yes, no = np.zeros(len(trees), np.int64), np.zeros(len(trees), np.int64)
    yes[inner] = index.find(trees[inner], columns["truenodeids"][inner])
    no[inner] = index.find(trees[inner], columns["falsenodeids"][inner])
    if inner.any() and not (0 <= columns["featureids"][inner].min() <= columns["featureids"][inner].max() < features):
        raise bad(op, f"a node compares a feature outside the {features} of the input")
    thresholds, members, member_ends = _memberships(op, modes, thresholds)
    missing = listed(op, "nodes_missing_value_tracks_true", np.int64).astype(bool)
    roots, depths = _depths(op, inner, yes, no)
    owners = index.find(listed(op, f"{side}_treeids", np.int64), listed(op, f"{side}_nodeids", np.int64))
    given, weights = listed(op, f"{side}_ids", np.int64), _numbers(op, f"{side}_weights")
    if not len(owners) == len(given) == len(weights) or (
        given.size and not (0 <= given.min() <= given.max() < targets)
    ):
        raise bad(op, f"attributes '{side}_*' have different lengths or name a target outside {targets}")
    order = np.argsort(owners, kind="stable")
    return Forest(
        columns["featureids"],
        thresholds,
        modes,
        yes,
        no,
        missing if missing.size else np.zeros(len(trees), bool),
        roots,
        depths,
        np.searchsorted(owners[order], np.arange(len(trees) + 1)),
        given[order],
        weights[order],
        members,
        member_ends,
    )


def _memberships(op: Op, modes: Array, thresholds: Array) -> tuple[Array, Array, Array]:
    """Thresholds with the number of its set at each test of membership; all sets, and where each ends."""
    held = np.asarray(op.attributes.get("membership_values", ())).ravel().astype(thresholds.dtype)
    marks, tests = np.isnan(held), np.flatnonzero(modes == _MEMBER)
    ends = np.flatnonzero(marks) - np.arange(marks.sum())
    if held.size and not marks[-1]:
        ends = np.append(ends, len(held) - marks.sum())
    if len(ends) < len(tests):
        raise bad(op, f"{len(tests)} tests of membership, {len(ends)} sets of values in 'membership_values'")
    thresholds = thresholds.copy()
    thresholds[tests] = np.arange(len(tests))
    return thresholds, held[~marks], ends


class _Index:
    """Positions of nodes by tree and number."""

    def __init__(self, op: Op, trees: Array, nodes: Array) -> None:
        self._op = op
        self._span = int(nodes.max()) + 1
        keys = trees * self._span + nodes
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        if nodes.min() < 0 or np.any(self._keys[1:] == self._keys[:-1]):
            raise bad(op, "two nodes of a tree have the same number, or one is negative")

    def find(self, trees: Array, nodes: Array) -> Array:
        if len(trees) != len(nodes):
            raise bad(self._op, f"has {len(trees)} tree numbers beside {len(nodes)} node numbers")
        keys = trees * self._span + nodes
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        if np.any(self._keys[places] != keys) or np.any((nodes < 0) | (nodes >= self._span)):
            raise bad(self._op, "a branch or leaf names a node that is not there")
        return np.asarray(self._order[places])


def _depths(op: Op, inner: Array, yes: Array, no: Array) -> tuple[Array, Array]:
    """Roots, and the depth of each node, level by level. Raises BadModel when a node is reached twice."""
    followed = np.zeros(len(inner), bool)
    followed[yes[inner]] = followed[no[inner]] = True
    roots = np.flatnonzero(~followed)
    depths = np.full(len(inner), -1)
    level, reached = 0, roots
    while reached.size:
        if np.any(depths[reached] >= 0) or len(np.unique(reached)) < len(reached):
            raise bad(op, "a node has two parents: its nodes form no trees")
        depths[reached] = level
        branches = reached[inner[reached]]
        reached, level = np.concatenate([yes[branches], no[branches]]), level + 1
    if np.any(depths < 0):
        raise bad(op, "a node cannot be reached from any root: its nodes form no trees")
    return roots, depths


class TreeEnsemble(Operator):
    """Scores (rows, targets) of an ensemble. Comparisons are in the input's type, sums in float64."""

    side = "target"

    def _targets(self, op: Op) -> int:
        raise bad(op, "is no tree ensemble")

    def _forest(self, op: Op, features: int) -> Forest:
        return forest(op, self.side, features, self._targets(op))

    @staticmethod
    def _aggregate(op: Op) -> str:
        name = text(op, "aggregate_function", "SUM")
        if name not in _AGGREGATES:
            raise bad(op, f"attribute 'aggregate_function' is '{name}', expected one of {', '.join(_AGGREGATES)}")
        return name

    def _scores(self, op: Op, inputs: Sequence[Array | None], trees: Forest) -> tuple[Array, Array]:
        """Scores, and which of them some leaf gave something to."""
        from codesign.executor.kernels.trees import aggregate, descend

        values = np.atleast_2d(required(op, inputs, 0, "X"))
        values = np.ascontiguousarray(values if values.dtype == np.float64 else values.astype(np.float32))
        how = self._aggregate(op)
        leaves = np.empty((len(values), len(trees.roots)), np.int64)
        descend(
            values, trees.features, trees.thresholds, trees.modes, trees.yes, trees.no, trees.missing, trees.roots,
            trees.members, trees.member_ends, leaves,
        )  # fmt: skip
        scores = np.empty((len(values), self._targets(op)))
        given = np.empty(scores.shape, np.bool_)
        weights = trees.weights.astype(np.float64)
        aggregate(leaves, trees.starts, trees.targets, weights, _AGGREGATES[how], scores, given)
        return (scores / len(trees.roots) if how == "AVERAGE" else scores), given

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """A lookup for each step down and each leaf; a comparison a step, an addition a leaf."""
        rows, features = rows_of(op, inputs)
        trees = self._forest(op, features)
        paths = rows * len(trees.roots)
        steps = round(paths * trees.mean_depth)
        results = rows * self._targets(op)
        return Gather(
            kind=op.kind,
            reads=(*operands(inputs), Operand(trees.bytes, "uint8", "weight")),
            writes=operands(outputs),
            epilogue_flops=int(steps + paths + results * TRANSFORM_FLOPS[post_transform(op)]),
            lookups=steps + paths,
            run_bytes=trees.node_bytes,
        )


@operator("TreeEnsembleRegressor", domain=DOMAIN)
class TreeEnsembleRegressor(TreeEnsemble):
    def _targets(self, op: Op) -> int:
        return int(op.attributes.get("n_targets", 1))

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        rows, features = rows_of(op, inputs)
        self._forest(op, features)
        return [((rows, self._targets(op)), "float32")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        scores, _ = self._scores(op, inputs, self._forest(op, rows_of(op, inputs)[1]))
        base = _numbers(op, "base_values")
        return [transformed(op, (scores + base if base.size else scores).astype(np.float32))]


@operator("TreeEnsembleClassifier", domain=DOMAIN)
class TreeEnsembleClassifier(TreeEnsemble):
    """The class of the highest score that a leaf gave, and all scores. Where leaves give to one class of two, as those
    of boosted trees do, the second class is meant: it wins above one half when all weights are probabilities, else
    above zero (onnxruntime)."""

    side = "class"

    def _targets(self, op: Op) -> int:
        return len(class_labels(op, "classlabels_int64s"))

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        rows, features = rows_of(op, inputs)
        self._forest(op, features)
        labels = class_labels(op, "classlabels_int64s")
        return [((rows,), name_of(labels.dtype)), ((rows, len(labels)), "float32")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        labels, trees = class_labels(op, "classlabels_int64s"), self._forest(op, rows_of(op, inputs)[1])
        (scores, given), base = self._scores(op, inputs, trees), _numbers(op, "base_values")
        written = np.unique(trees.targets)
        if len(labels) == 2 and len(written) == 1:
            return self._one_of_two(op, scores[:, written] + (base[-1] if base.size else 0), labels, trees)
        scores = (scores + base if base.size else scores).astype(np.float32)
        chosen = (scores if base.size else np.where(given, scores, -np.inf)).argmax(axis=1)
        return [labels[chosen], transformed(op, scores)]

    @staticmethod
    def _one_of_two(op: Op, scores: Array, labels: Array, trees: Forest) -> list[Array]:
        probabilities = bool(np.all(trees.weights >= 0))
        chosen = scores[:, 0] > (0.5 if probabilities else 0.0)
        scores = scores.astype(np.float32)
        if int(trees.targets[0]) == 0:
            both = second_class(op, scores, complement=probabilities)
        else:
            both = transformed(op, np.concatenate([np.zeros_like(scores), scores], axis=1))
        return [labels[chosen.astype(np.int64)], both]
