"""Support vector machines of ai.onnx.ml against onnxruntime, work against hand counts."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.dtypes import name_of
from codesign.errors import BadModel
from codesign.ops.support_vectors import coupled
from codesign.work import Contraction
from tests.onnx_case import NodeCase, normal

KERNELS = ("LINEAR", "RBF", "POLY", "SIGMOID")
VALUES, FEATURES = normal(9, 4), 4
PARAMETERS = {"kernel_params": [0.3, 0.2, 3.0], "domain": "ai.onnx.ml"}


def check(case, tolerance=1e-5):
    """As NodeCase.check, classes compared for equality whatever their type."""
    for mine, theirs, (shape, dtype) in zip(case.computed(), case.expected(), case.inferred(), strict=True):
        assert (mine.shape, name_of(mine.dtype)) == (theirs.shape, name_of(theirs.dtype)) == (shape, dtype)
        if mine.dtype.kind == "f":
            np.testing.assert_allclose(mine, theirs, tolerance, tolerance * max(1.0, float(np.ptp(theirs))))
        else:
            assert mine.tolist() == theirs.tolist()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("one_class", [0, 1])
def test_regressor(kernel, one_class):
    case = NodeCase(
        "SVMRegressor", [VALUES], n_supports=6, support_vectors=normal(24).tolist(), coefficients=normal(6).tolist(),
        rho=[0.1], kernel_type=kernel, one_class=one_class, **PARAMETERS,
    )  # fmt: skip
    check(case)
    work = case.work()
    assert isinstance(work, Contraction)
    assert work.macs == 9 * 6 * FEATURES


def test_regressor_without_support_vectors_is_linear():
    case = NodeCase(
        "SVMRegressor", [VALUES], coefficients=normal(4).tolist(), rho=[0.4], n_supports=0, support_vectors=[0.0],
        kernel_type="LINEAR", **PARAMETERS,
    )  # fmt: skip
    np.testing.assert_allclose(case.computed()[0][:, 0], VALUES @ normal(4) + np.float32(0.4), 1e-5, 1e-5)


def classifier(classes, kernel="RBF", probabilities=False, text=False, linear=False, values=VALUES, transform="NONE"):
    counts = [2, 3, 1, 2][:classes]
    pairs, vectors = classes * (classes - 1) // 2, sum(counts)
    attributes = {"kernel_type": kernel, "post_transform": transform, "rho": normal(1 if linear else pairs).tolist()}
    if linear:
        attributes |= {"coefficients": normal(classes * FEATURES).tolist()}
    else:
        attributes |= {
            "vectors_per_class": counts,
            "support_vectors": normal(vectors * FEATURES).tolist(),
            "coefficients": normal((classes - 1) * vectors).tolist(),
        }
    if probabilities:
        slope, shift = -np.abs(normal(pairs, seed=2)) - 0.5, normal(pairs, seed=3)
        attributes |= {"prob_a": slope.tolist(), "prob_b": shift.tolist()}
    names = {"classlabels_strings": list("abcd")[:classes]} if text else {"classlabels_ints": [3, 5, 7, 9][:classes]}
    return NodeCase("SVMClassifier", [values], 2, **attributes, **names, **PARAMETERS)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_classifier(classes, kernel, probabilities, transform):
    check(classifier(classes, kernel, probabilities, transform=transform))


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_linear_classifier(classes, transform):
    check(classifier(classes, "LINEAR", linear=True, transform=transform))


def test_names_of_classes_and_whole_numbers():
    check(classifier(3, text=True))
    check(classifier(3, values=np.random.default_rng(0).integers(-2, 3, (5, 4))))


def test_coupled_probabilities_of_consistent_pairs_are_those_they_came_from():
    shares = np.float32([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    against = shares[:, :, None] / (shares[:, :, None] + shares[:, None, :])
    np.testing.assert_allclose(coupled(against), shares, atol=2e-3)


def test_work_of_a_classifier():
    work = classifier(3).work()
    assert isinstance(work, Contraction)
    assert work.macs == 9 * 6 * FEATURES
    # Four operations for a kernel value and a product with an addition for each of two machines a vector.
    assert work.epilogue_flops == 9 * 6 * (4 + 2 * 2)


def test_machines_that_do_not_fit_the_classes_are_refused():
    case = classifier(3)
    case.op.attributes["coefficients"] = [1.0]
    with pytest.raises(BadModel, match=r"SVMClassifier\): 3 classes, vectors of 3 of them, 1 coefficients"):
        case.inferred()
    case = classifier(3)
    case.op.attributes["kernel_type"] = "RBH"
    with pytest.raises(BadModel, match=r"attribute 'kernel_type' is 'RBH', expected one of LINEAR, RBF"):
        case.computed()
