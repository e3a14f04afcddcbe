"""Operators of ai.onnx.ml: values against onnxruntime, work against hand counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from codesign.errors import BadModel
from codesign.ops.base import find
from codesign.work import Contraction, Gather
from tests.onnx_case import NodeCase, normal

POST_TRANSFORMS = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO")


def case(kind, inputs, outputs=1, **attributes):
    return NodeCase(kind, inputs, outputs, domain="ai.onnx.ml", **attributes)


@pytest.mark.parametrize("values", [normal(5, 3), np.arange(6).reshape(2, 3)])
def test_scaler(values):
    case("Scaler", [values], offset=[0.5, 1.0, -2.0], scale=[2.0, 0.25, 1.0]).check()
    case("Scaler", [values], offset=[0.5], scale=[2.0]).check()


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normaliser_keeps_signs_and_rows_of_zeros(norm):
    values = normal(5, 3)
    values[1] = 0
    case("Normalizer", [values], norm=norm).check()


def test_binariser():
    case("Binarizer", [normal(5, 3)], threshold=0.25).check()


def test_imputer():
    values = normal(5, 3)
    values[::2, 1] = np.nan
    nan = float("nan")
    case("Imputer", [values], imputed_value_floats=[1.0, 2.0, 3.0], replaced_value_float=nan).check()
    whole = np.array([[1, -1, 3], [-1, 4, -1]], np.int64)
    case("Imputer", [whole], imputed_value_int64s=[7], replaced_value_int64=-1).check()


@pytest.mark.parametrize("shape", [(4, 6), (6,), (2, 3, 6)])
def test_features_are_extracted_from_the_last_axis(shape):
    case("ArrayFeatureExtractor", [normal(*shape), np.array([4, 0, 4], np.int64)]).check()


def test_features_are_joined():
    case("FeatureVectorizer", [normal(4, 2), normal(4, 3, seed=1)], inputdimensions=[2, 3]).check()


def test_categories_become_columns():
    case("OneHotEncoder", [np.array([[3, 1], [9, 2]], np.int64)], cats_int64s=[1, 2, 3], zeros=1).check()


@pytest.mark.parametrize(
    ("labels", "attributes"),
    [
        ([1, 5, 2], {"keys_int64s": [1, 2], "values_floats": [0.5, 0.25], "default_float": -1.0}),
        ([1, 5, 2], {"keys_int64s": [1, 2], "values_int64s": [10, 20]}),
        ([0.5, 1.5], {"keys_floats": [2.5, 0.5], "values_int64s": [3, 4]}),
    ],
)
def test_labels_are_encoded(labels, attributes):
    array = np.array(labels)
    case("LabelEncoder", [array.astype(np.float32) if array.dtype.kind == "f" else array], **attributes).check()


def test_no_number_is_a_key_like_others():
    """Since version 4 of the operator, which onnxruntime follows from that version on."""
    values = np.array([0.5, np.nan], np.float32)
    built = case("LabelEncoder", [values], keys_floats=[float("nan"), 0.5], values_int64s=[3, 4])
    assert built.computed()[0].tolist() == [4, 3]
    older = replace(built.op, opset=3)
    assert find(older).compute(older, [values])[0].tolist() == [4, -1] == built.expected()[0].tolist()


def test_text_labels_are_encoded():
    built = case("LabelEncoder", [np.array([2, 9, 1])], keys_int64s=[1, 2], values_strings=["one", "two"])
    assert built.computed()[0].tolist() == ["two", "_Unused", "one"] == built.expected()[0].tolist()
    assert built.inferred() == [((3,), "string")]


@pytest.mark.parametrize("post_transform", POST_TRANSFORMS)
@pytest.mark.parametrize("targets", [1, 3])
def test_linear_regressor(post_transform, targets):
    weights, bias = normal(targets * 4).tolist(), normal(targets, seed=1).tolist()
    built = case(
        "LinearRegressor", [normal(6, 4, seed=2)], coefficients=weights, intercepts=bias, targets=targets,
        post_transform=post_transform,
    )  # fmt: skip
    built.check()


@pytest.mark.parametrize("post_transform", POST_TRANSFORMS)
@pytest.mark.parametrize(("classes", "targets"), [(2, 1), (2, 2), (3, 3)])
def test_linear_classifier(post_transform, classes, targets):
    weights, bias = normal(targets * 4).tolist(), normal(targets, seed=1).tolist()
    built = case(
        "LinearClassifier", [normal(6, 4, seed=2)], 2, coefficients=weights, intercepts=bias,
        classlabels_ints=[5, 7, 9][:classes], post_transform=post_transform,
    )  # fmt: skip
    built.check()


def forest(kind, side, weights, ids, **attributes):
    """Two trees of a branch, and of two, on 3 features; leaf k gives `weights[k]` to target `ids[k]`."""
    nodes = {
        "nodes_treeids": [0, 0, 0, 1, 1, 1, 1, 1],
        "nodes_nodeids": [0, 1, 2, 0, 1, 2, 3, 4],
        "nodes_featureids": [1, 0, 0, 2, 0, 0, 0, 0],
        "nodes_modes": [attributes.pop("mode", "BRANCH_LEQ"), "LEAF", "LEAF", "BRANCH_GT"]
        + ["LEAF"] * 2
        + ["LEAF"] * 2,
        "nodes_values": [0.1, 0.0, 0.0, -0.2, 0.3, 0.0, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0, 1, 3, 0, 0, 0],
        "nodes_falsenodeids": [2, 0, 0, 2, 4, 0, 0, 0],
        "nodes_missing_value_tracks_true": [1, 0, 0, 0, 0, 0, 0, 0],
        f"{side}_treeids": [0, 0, 1, 1, 1],
        f"{side}_nodeids": [1, 2, 3, 4, 2],
        f"{side}_ids": ids,
        f"{side}_weights": weights,
    }
    nodes["nodes_modes"][4] = "BRANCH_LT"
    values = normal(9, 3)
    values[4] = np.nan
    outputs = 2 if side == "class" else 1
    return case(kind, [values], outputs, **nodes, **attributes)


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("mode", ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT"])
def test_tree_regressor(aggregate, mode):
    weights = [0.5, -1.0, 2.0, 0.25, 3.0]
    one = forest(
        "TreeEnsembleRegressor", "target", weights, [0] * 5, n_targets=1, mode=mode, aggregate_function=aggregate
    )
    one.check()
    forest("TreeEnsembleRegressor", "target", weights, [0] * 5, n_targets=1, base_values=[1.5]).check()


@pytest.mark.parametrize("post_transform", POST_TRANSFORMS)
def test_tree_regressor_of_several_targets(post_transform):
    weights, targets = [0.5, -1.0, 2.0, 0.25, 3.0], [0, 1, 2, 0, 1]
    attributes = {"n_targets": 3, "post_transform": post_transform}
    forest("TreeEnsembleRegressor", "target", weights, targets, **attributes).check()


@pytest.mark.parametrize("post_transform", POST_TRANSFORMS)
@pytest.mark.parametrize(("labels", "ids"), [([5, 7, 9], [0, 1, 2, 0, 1]), ([5, 7], [0] * 5), ([5, 7], [1] * 5)])
@pytest.mark.parametrize("weights", [[0.5, 0.1, 0.2, 0.25, 0.3], [0.5, -1.0, 2.0, -0.25, 0.3]])
def test_tree_classifier(post_transform, labels, ids, weights):
    attributes = {"classlabels_int64s": labels, "post_transform": post_transform}
    forest("TreeEnsembleClassifier", "class", weights, ids, **attributes).check()


def test_work_of_a_linear_model_counts_the_coefficients_it_holds():
    work = case("LinearRegressor", [normal(6, 4)], coefficients=[1.0] * 8, intercepts=[0.0] * 2, targets=2).work()
    assert isinstance(work, Contraction)
    assert work.macs == 6 * 4 * 2
    assert work.weight_bytes == (8 + 2) * 4


def test_work_of_trees_counts_the_steps_down():
    work = forest("TreeEnsembleRegressor", "target", [1.0] * 5, [0] * 5).work()
    assert isinstance(work, Gather)
    # Leaves at depths 1, 1, 1, 2, 2: 1.4 steps and a leaf in each of two trees for 9 rows.
    assert work.lookups == round(9 * 2 * 1.4) + 9 * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes_truenodeids": [0, 0, 0, 1, 3, 0, 0, 0]}, "a node cannot be reached from any root"),
        ({"nodes_truenodeids": [2, 0, 0, 1, 3, 0, 0, 0]}, "a node has two parents"),
        ({"nodes_falsenodeids": [8, 0, 0, 2, 4, 0, 0, 0]}, "names a node that is not there"),
        ({"nodes_featureids": [3, 0, 0, 2, 0, 0, 0, 0]}, "a feature outside the 3 of the input"),
        ({"nodes_values": [0.0]}, "lists of nodes have different lengths"),
    ],
)
def test_nodes_that_form_no_trees_are_refused(change, message):
    built = forest("TreeEnsembleRegressor", "target", [1.0] * 5, [0] * 5)
    built.op.attributes.update(change)
    with pytest.raises(BadModel, match=rf"node 'node' \(TreeEnsembleRegressor\): .*{message}"):
        built.inferred()
