"""Normalisations recognised in the reductions and arithmetic that exporters write."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.transforms import optimise
from codesign.transforms.normalisations import fuse_normalisations
from tests.transform_case import Build, keeps_values, kinds


def mean(build: Build, value: str, form: str = "attribute", axes: tuple[int, ...] = (-1,)) -> str:
    if form == "attribute":
        return str(build.op("ReduceMean", value, axes=axes, opset=13))
    return str(build.op("ReduceMean", value, build.constant(axes, np.int64)))


def square(build: Build, value: str, form: str) -> str:
    if form == "power":
        return str(build.op("Pow", value, build.constant(2.0)))
    return str(build.op("Mul", value, value))


def over_root(build: Build, value: str, variance: str, form: str, epsilon: float = 1e-3) -> str:
    """value / sqrt(variance + epsilon)."""
    shifted = build.op("Add", variance, build.constant(epsilon))
    if form == "power":
        return str(build.op("Mul", value, build.op("Pow", shifted, build.constant(-0.5))))
    root = build.op("Sqrt", shifted)
    if form == "divide":
        return str(build.op("Div", value, root))
    if form == "one over":
        return str(build.op("Mul", build.op("Div", build.constant(1.0), root), value))
    return str(build.op("Mul", value, build.op("Reciprocal", root)))


ROOTS = ["divide", "reciprocal", "one over", "power"]


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("squared", ["power", "product"])
@pytest.mark.parametrize("axes", ["attribute", "input"])
def test_layer_normalization_in_every_form(root: str, squared: str, axes: str) -> None:
    build = Build()
    x = build.input(2, 5, 16)
    centred = build.op("Sub", x, mean(build, x, axes))
    normal = over_root(build, centred, mean(build, square(build, centred, squared), axes), root)
    scaled = build.op("Mul", build.parameter(16), normal)
    result = keeps_values(build.graph(build.op("Add", scaled, build.parameter(16))), fuse_normalisations)
    (op,) = result.ops
    assert op.kind == "LayerNormalization"
    assert dict(op.attributes) == {"axis": 2, "epsilon": pytest.approx(1e-3), "stash_type": 1}
    assert len(op.inputs) == 3
    assert op.sources == tuple(one.name for one in build.ops)


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("squared", ["power", "product"])
def test_rms_normalization_in_every_form(root: str, squared: str) -> None:
    build = Build()
    x = build.op("Tanh", build.input(2, 5, 16))
    normal = over_root(build, x, mean(build, square(build, x, squared)), root)
    result = keeps_values(build.graph(build.op("Mul", build.parameter(16), normal)), fuse_normalisations)
    assert kinds(result) == {"Tanh": 1, "RMSNormalization": 1}


def test_rms_normalization_takes_the_casts_around_it() -> None:
    build = Build()
    half = build.input(2, 16, dtype="float16")
    x = build.op("Cast", half, to=1)
    normal = over_root(build, x, mean(build, square(build, x, "power")), "reciprocal")
    back = build.op("Cast", normal, to=10)
    gain = build.constant(np.linspace(0.5, 2, 16), np.float16, parameter=True)
    result = keeps_values(build.graph(build.op("Mul", gain, back)), fuse_normalisations, tolerance=2e-3)
    assert kinds(result) == {"RMSNormalization": 1}
    assert result.ops[0].inputs[0] == half


def test_several_trailing_axes_and_a_gain_of_their_shape() -> None:
    build = Build()
    x = build.input(2, 3, 4, 5)
    centred = build.op("Sub", x, mean(build, x, axes=(2, 3)))
    normal = over_root(build, centred, mean(build, square(build, centred, "power"), axes=(2, 3)), "divide")
    result = keeps_values(build.graph(build.op("Mul", normal, build.parameter(1, 1, 4, 5))), fuse_normalisations)
    assert kinds(result) == {"LayerNormalization": 1}
    assert result.ops[0].attributes["axis"] == 2


def test_modulation_by_data_stays_behind_the_normalisation() -> None:
    build = Build()
    x = build.input(2, 5, 16)
    centred = build.op("Sub", x, mean(build, x))
    normal = over_root(build, centred, mean(build, square(build, centred, "power")), "divide")
    modulated = build.op("Add", build.op("Mul", normal, build.input(2, 1, 16)), build.input(2, 1, 16))
    result = keeps_values(build.graph(modulated), fuse_normalisations)
    assert kinds(result) == {"LayerNormalization": 1, "Mul": 1, "Add": 1}


@pytest.mark.parametrize("axes", [(1,), (0, 2)])
def test_means_over_other_than_trailing_axes_stay(axes: tuple[int, ...]) -> None:
    build = Build()
    x = build.input(2, 5, 16)
    centred = build.op("Sub", x, mean(build, x, axes=axes))
    graph = build.graph(over_root(build, centred, mean(build, square(build, centred, "power"), axes=axes), "divide"))
    assert fuse_normalisations(graph) is graph


def test_flattened_gemm_keeps_the_shape_of_what_surrounds_it() -> None:
    build = Build()
    x = build.input(2, 5, 16)
    hidden = build.op("Gemm", build.reshape(x, -1, 16), build.parameter(16, 32), build.parameter(32))
    activated = build.op("Relu", build.reshape(hidden, 2, 5, 32))
    product = build.op("Gemm", build.reshape(activated, -1, 32), build.parameter(16, 32), build.parameter(16), transB=1)
    result = keeps_values(build.graph(build.op("Add", x, build.reshape(product, 2, 5, 16))), optimise)
    assert kinds(result) == {"MatMul": 2}
    assert [[follower.kind for follower in op.epilogue] for op in result.ops] == [["Add", "Relu"], ["Add", "Add"]]
    assert result.parameters == 16 * 32 * 2 + 48
