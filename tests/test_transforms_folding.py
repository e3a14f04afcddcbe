"""Normalisations folded into products, group normalisation, and operations moved in front of views."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from codesign.transforms import optimise
from codesign.transforms.batch_normalisation import fold_batch_normalisation
from codesign.transforms.group_normalisation import fuse_group_normalisations
from codesign.transforms.hoist import hoist_over_views
from codesign.transforms.padding import fold_padding
from tests.transform_case import Build, epilogues, keeps_values, kinds


def batch_normalised(build: Build, value: str, channels: int) -> str:
    variance = build.constant(np.linspace(0.5, 2.0, channels), parameter=True)
    vectors = [build.parameter(channels) for _ in range(3)]
    return str(build.op("BatchNormalization", value, *vectors, variance, epsilon=1e-3))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "weights", "attributes"),
    [
        ("Conv", (6, 4, 3, 3), {"pads": (1, 1, 1, 1)}),
        ("Conv", (8, 1, 3, 3), {"group": 4}),
        ("ConvTranspose", (4, 6, 3, 3), {"strides": (2, 2)}),
        ("ConvTranspose", (4, 3, 3, 3), {"group": 2}),
    ],
)
def test_batch_normalization_goes_into_a_convolution(
    kind: str, weights: tuple[int, ...], attributes: dict[str, Any], with_bias: bool
) -> None:
    build = Build()
    channels = weights[0] if kind == "Conv" else weights[1] * attributes.get("group", 1)
    bias = [build.parameter(channels)] if with_bias else []
    product = build.op(kind, build.input(2, 4, 6, 6), build.parameter(*weights), *bias, **attributes)
    result = keeps_values(build.graph(batch_normalised(build, product, channels)), fold_batch_normalisation)
    assert kinds(result) == {kind: 1}
    assert result.ops[0].sources == ("n0", "n1")
    assert result.parameters == int(np.prod(weights)) + channels


@pytest.mark.parametrize("turned", [0, 1])
def test_batch_normalization_goes_into_a_gemm(turned: int) -> None:
    build = Build()
    weights = build.parameter(5, 8) if turned else build.parameter(8, 5)
    product = build.op("Gemm", build.input(3, 8), weights, build.parameter(5), transB=turned, alpha=0.5)
    result = keeps_values(build.graph(batch_normalised(build, product, 5)), fold_batch_normalisation)
    assert kinds(result) == {"Gemm": 1}


def test_absent_weights_are_folded_and_stay_absent() -> None:
    build = Build()
    product = build.op("Conv", build.input(1, 3, 5, 5), build.absent(6, 3, 3, 3))
    result = fold_batch_normalisation(build.graph(batch_normalised(build, product, 6)))
    assert kinds(result) == {"Conv": 1}
    assert not result.weights[result.ops[0].inputs[1]].has_value


def test_normalisation_of_a_value_that_others_read_stays_and_takes_its_activation() -> None:
    build = Build()
    product = build.op("Conv", build.input(1, 3, 5, 5), build.parameter(6, 3, 3, 3))
    normal = build.op("Relu", batch_normalised(build, product, 6))
    result = keeps_values(build.graph(normal, build.op("Softmax", product)), optimise)
    assert epilogues(result) == {"Conv": [], "BatchNormalization": ["Relu"], "Softmax": []}


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("affine", ["both", "gain", "none"])
def test_group_normalization_of_flattened_channels(groups: int, affine: str) -> None:
    build = Build()
    x = build.op("Relu", build.input(2, 8, 3, 5))
    flat = build.reshape(x, 2, groups, -1)
    own = (build.parameter(groups), build.parameter(groups))
    value = build.reshape(build.op("InstanceNormalization", flat, *own, epsilon=1e-3), 2, 8, 3, 5)
    if affine != "none":
        value = build.op("Mul", value, build.parameter(8, 1, 1))
    if affine == "both":
        value = build.op("Add", build.parameter(1, 8, 1, 1), value)
    result = keeps_values(build.graph(value), fuse_group_normalisations)
    assert kinds(result) == {"Relu": 1, "GroupNormalization": 1}
    assert result.ops[1].attributes["num_groups"] == groups


def test_activation_after_views_follows_the_product_before_them() -> None:
    build = Build()
    product = build.op("Conv", build.input(1, 3, 5, 5), build.parameter(6, 3, 1, 1))
    value = build.op("Transpose", build.reshape(product, 1, 6, 25), perm=(0, 2, 1))
    value = build.op("Mul", build.op("Gelu", value, opset=20), build.constant(2.0))
    value = build.op("Clip", value, build.constant(0.0), build.constant(3.0))
    graph = build.graph(build.op("MatMul", value, build.parameter(6, 4)))
    hoisted = keeps_values(graph, hoist_over_views)
    assert [op.kind for op in hoisted.ops] == ["Conv", "Gelu", "Mul", "Clip", "Reshape", "Transpose", "MatMul"]
    assert epilogues(keeps_values(graph, optimise))["Conv"] == ["Gelu", "Mul", "Clip"]


def test_operations_that_depend_on_the_layout_stay_behind_views() -> None:
    build = Build()
    product = build.op("Conv", build.input(1, 3, 5, 5), build.parameter(6, 3, 1, 1))
    value = build.op("Add", build.op("Transpose", product, perm=(0, 2, 3, 1)), build.parameter(6))
    graph = build.graph(value)
    assert hoist_over_views(graph) is graph


def test_an_operation_whose_constant_adds_axes_stays_behind_views() -> None:
    build = Build()
    value = build.op("Sub", build.input(2), build.parameter(1))
    value = build.op("Add", build.reshape(value, 2, 1, 1, 1), build.constant([[[[2.0]]]]))
    graph = build.graph(build.op("Mul", value, build.parameter(2, 1, 1, 8)))
    assert keeps_values(graph, hoist_over_views) is graph


def test_spatial_padding_by_zero_goes_into_the_convolution() -> None:
    build = Build()
    padded = build.op("Pad", build.input(1, 3, 5, 6), build.constant([0, 0, 0, 1, 0, 0, 1, 2], np.int64))
    graph = build.graph(build.op("Conv", padded, build.parameter(4, 3, 3, 3), pads=(1, 0, 0, 0), strides=(2, 2)))
    result = keeps_values(graph, fold_padding)
    assert kinds(result) == {"Conv": 1}
    assert result.ops[0].attributes["pads"] == (1, 1, 1, 2)


@pytest.mark.parametrize(("pads", "value"), [((0, 1, 0, 0, 0, 0, 0, 0), 0.0), ((0, 0, 1, 1, 0, 0, 1, 1), 1.0)])
def test_padding_of_channels_or_by_another_value_stays(pads: tuple[int, ...], value: float) -> None:
    build = Build()
    padded = build.op("Pad", build.input(1, 3, 5, 6), build.constant(pads, np.int64), build.constant(value))
    channels = 3 + pads[1]
    graph = build.graph(build.op("Conv", padded, build.parameter(4, channels, 3, 3)))
    assert fold_padding(graph) is graph
