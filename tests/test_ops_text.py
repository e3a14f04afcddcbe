"""Operators on text and n-grams, deformable convolution, encoded images: the standard's cases, and what is bad."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.errors import BadModel, UnboundDimension
from codesign.graph import Op
from codesign.ops.base import Value, find
from codesign.ops.deformable import interpolated
from codesign.ops.ngrams import occurrences
from tests.onnx_case import NodeCase, check_standard_case, normal, standard_case_names

KINDS = (
    "StringConcat", "StringSplit", "StringNormalizer", "RegexFullMatch", "TfIdfVectorizer", "DeformConv",
    "ImageDecoder",
)  # fmt: skip


@pytest.mark.parametrize("name", standard_case_names(*KINDS))
def test_agrees_with_the_standard(name):
    check_standard_case(name)


def text_op(kind: str, outputs: int = 1, **attributes: object) -> Op:
    return Op("node", kind, ("x",), tuple(f"y{number}" for number in range(outputs)), attributes, "", 20)


def test_parts_of_a_text_that_is_not_known_have_no_shape_yet():
    op = text_op("StringSplit", 2)
    with pytest.raises(UnboundDimension, match="depends on 'X'"):
        find(op).infer(op, [Value((3,), "string")])


def test_a_pattern_that_is_no_regular_expression_is_named():
    op = text_op("RegexFullMatch", pattern="[a")
    with pytest.raises(BadModel, match=r"'node' \(RegexFullMatch\): pattern '\[a'"):
        find(op).compute(op, [np.array(["a"], object)])


def test_grams_are_counted_at_every_spacing():
    rows = np.array([[1, 2, 1, 2, 1], [3, 3, 3, 3, 3]])
    grams = np.array([[1, 2], [2, 1], [1, 1], [3, 3], [4, 4]])
    np.testing.assert_array_equal(occurrences(rows, grams, 1), [[2, 2, 0, 0, 0], [0, 0, 0, 4, 0]])
    np.testing.assert_array_equal(occurrences(rows, grams, 2), [[0, 0, 2, 0, 0], [0, 0, 0, 3, 0]])
    np.testing.assert_array_equal(occurrences(rows, grams, 9), np.zeros((2, 5)))


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
def test_weighted_counts_are_those_of_onnxruntime(mode):
    x = np.random.default_rng(3).integers(0, 4, (3, 30))
    NodeCase(
        "TfIdfVectorizer", [x], opset=9, mode=mode, min_gram_length=1, max_gram_length=2, max_skip_count=3,
        ngram_counts=[0, 3], ngram_indexes=[0, 1, 2, 5, 4], pool_int64s=[1, 2, 3, 1, 2, 3, 0],
        weights=[0.5, 1.0, 2.0, 3.0, 0.25],
    ).check()  # fmt: skip


def test_offsets_of_nothing_leave_a_convolution():
    x, w = normal(2, 4, 7, 6), normal(6, 2, 3, 2)
    attributes = {"strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 2], "group": 2}
    plain = Op("node", "Conv", ("x", "w"), ("y",), attributes, "", 22)
    (expected,) = find(plain).compute(plain, [x, w])
    deformed = Op("node", "DeformConv", ("x", "w", "o"), ("y",), {**attributes, "offset_group": 2}, "", 22)
    offset = np.zeros((2, 2 * 6 * 2, *expected.shape[2:]), np.float32)
    (found,) = find(deformed).compute(deformed, [x, w, offset])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_points_between_pixels_are_interpolated_and_outside_is_zero():
    image = np.arange(12, dtype=np.float64).reshape(1, 1, 3, 4)
    points = np.array([[0.5, 0.5], [2, 3], [-0.5, 0], [3, 0], [1.25, 2.75]]).T.reshape(1, 1, 2, 5)
    np.testing.assert_allclose(interpolated(image, points).ravel(), [2.5, 11, 0, 0, 4 * 1.25 + 2.75])


def test_what_is_no_image_has_no_pixels():
    op = text_op("ImageDecoder", pixel_format="RGB")
    (found,) = find(op).compute(op, [np.arange(40, dtype=np.uint8)])
    assert found.shape == (0, 0, 3)
