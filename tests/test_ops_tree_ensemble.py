"""Trees of nodes and leaves: the same scores as the trees of nodes alone, membership, and lists that form no trees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from codesign.errors import BadModel
from codesign.graph import Op
from codesign.ops.base import Value, find

LESS_OR_EQUAL, MEMBER = 0, 6


def ensemble(**attributes: Any) -> Op:
    return Op("trees", "TreeEnsemble", ("x",), ("y",), attributes, "ai.onnx.ml", 5)


def choice(**changes: Any) -> Op:
    """x0 <= 0.5 ? (x1 in {1, 3} ? 10 : 20) : 30; and a tree that is the leaf 100 on both sides."""
    attributes: dict[str, Any] = {
        "nodes_modes": np.array([LESS_OR_EQUAL, MEMBER, LESS_OR_EQUAL], np.uint8),
        "nodes_featureids": (0, 1, 0),
        "nodes_splits": np.array([0.5, 0, 0], np.float32),
        "nodes_truenodeids": (1, 0, 3),
        "nodes_trueleafs": (0, 1, 1),
        "nodes_falsenodeids": (2, 1, 3),
        "nodes_falseleafs": (1, 1, 1),
        "tree_roots": (0, 2),
        "membership_values": np.array([1, 3, np.nan], np.float32),
        "leaf_weights": np.array([10, 20, 30, 100], np.float32),
        "leaf_targetids": (0, 0, 0, 1),
        "n_targets": 2,
    }
    return ensemble(**{**attributes, **changes})


X = np.array([[0, 1], [0, 2], [0, 3], [1, 1], [np.nan, 1]], np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_rows_go_down_to_leaves_by_thresholds_and_sets(dtype):
    (found,) = find(choice()).compute(choice(), [X.astype(dtype)])
    np.testing.assert_array_equal(found, [[10, 100], [20, 100], [10, 100], [30, 100], [30, 100]])
    assert found.dtype == dtype
    (described,) = find(choice()).infer(choice(), [Value((5, 2), np.dtype(dtype).name)])
    assert described == ((5, 2), np.dtype(dtype).name)


def test_missing_values_follow_what_tracks_them():
    op = choice(nodes_missing_value_tracks_true=(1, 0, 0))
    (found,) = find(op).compute(op, [X])
    assert found[-1].tolist() == [10, 100]


@pytest.mark.parametrize(("number", "expected"), [(0, [5, 50]), (1, [10, 100]), (2, [10, 100]), (3, [10, 100])])
def test_leaves_are_aggregated_as_asked(number, expected):
    """What only one of two trees gives a target stays, in the average by half."""
    op = choice(aggregate_function=number)
    (found,) = find(op).compute(op, [X[:1]])
    assert found[0].tolist() == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"nodes_truenodeids": (1, 0, 9)}, "node or leaf that is not there"),
        ({"nodes_modes": np.array([0, 7, 0], np.uint8)}, "mode is outside"),
        ({"nodes_featureids": (0, 1)}, "different lengths"),
        ({"membership_values": np.zeros(0, np.float32)}, "1 tests of membership, 0 sets"),
        ({"nodes_truenodeids": (0, 0, 3)}, "form no trees"),
        ({"aggregate_function": 9}, "'aggregate_function' is 9"),
    ],
)
def test_lists_that_form_no_trees_are_refused(change, reason):
    op = choice(**change)
    with pytest.raises(BadModel, match=reason):
        find(op).compute(op, [X])
