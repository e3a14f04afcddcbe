"""Losses and determinants: values against the standard's cases and onnxruntime, work against hand counts."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.errors import BadModel
from codesign.work import Reduce, Scan
from tests.onnx_case import NodeCase, check_standard_case, normal, standard_case_names

LABELS = np.array([[0, 3, 1], [2, -1, 0]], np.int64)


@pytest.mark.parametrize("name", standard_case_names("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", "Det"))
def test_operator_agrees_with_the_standards_own_case(name):
    check_standard_case(name)


@pytest.mark.parametrize("kind", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_ignored_labels_and_class_weights(kind, reduction):
    weights = np.array([1.0, 0.5, 2.0, 0.25], np.float32)
    NodeCase(kind, [normal(2, 4, 3), LABELS, weights], opset=13, reduction=reduction, ignore_index=-1).check()


def test_label_outside_the_classes_is_refused():
    case = NodeCase("SoftmaxCrossEntropyLoss", [normal(2, 4, 3), LABELS])
    with pytest.raises(BadModel, match=r"node 'node' \(SoftmaxCrossEntropyLoss\): a label is outside the 4 classes"):
        case.computed()


def test_work_of_a_loss():
    case = NodeCase("SoftmaxCrossEntropyLoss", [normal(2, 4, 3), LABELS], reduction="mean", ignore_index=-1)
    work = case.work()
    assert isinstance(work, Reduce)
    assert (work.rows, work.columns, work.passes) == (6, 4, 3)
    plain = NodeCase("NegativeLogLikelihoodLoss", [normal(2, 4, 3), LABELS]).work()
    assert plain.read_bytes == 6 * 4 + 6 * 8


def test_determinants_of_a_batch():
    case = NodeCase("Det", [normal(2, 3, 5, 5)], opset=11)
    case.check()
    work = case.work()
    assert isinstance(work, Scan)
    # 16 + 9 + 4 + 1 updates a matrix.
    assert work.macs == 6 * 30


def test_matrix_that_is_not_square_is_refused():
    with pytest.raises(BadModel, match=r"expected square matrices \[..., M, M\], got \[2, 3\]"):
        NodeCase("Det", [normal(2, 3)]).inferred()
