"""Operations written as plain products give what the operators themselves compute, scales and layouts included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from codesign.graph import Op
from codesign.numerics.contractions import contractor_of
from codesign.numerics.holding import hold
from codesign.numerics.policy import Holding
from codesign.ops.base import find

Array = np.ndarray[Any, Any]
sizes = st.integers(1, 4)


def operation(kind: str, **attributes: Any) -> Op:
    return Op("node", kind, ("a", "b"), ("y",), attributes, opset=21)


def integers(*shape: int) -> Array:
    """Small whole numbers, whose products are exact in float32."""
    return np.random.default_rng(sum(shape)).integers(-9, 10, shape).astype(np.float32)


def check(op: Op, left: Array, right: Array) -> None:
    """The product equals the operator's; and a scale of each kept index can be taken out of the product."""
    contractor = contractor_of(op, left.shape, right.shape)
    assert contractor is not None
    expected = find(op).compute(op, [left, right])[0]
    product = contractor.product(op, left, right)
    assert product.left.shape[2] == product.right.shape[1]
    found = product.result(np.matmul(product.left, product.right))
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)
    layouts = contractor.layouts(op, left.shape, right.shape)
    a, b = (
        hold(side, Holding(format="int8", scale="channel", symmetric=True), layout).whole
        for side, layout in zip((left, right), layouts, strict=True)
    )
    assert a is not None
    assert b is not None
    sums = find(op).compute(op, [a.codes, b.codes])[0]
    scaled = find(op).compute(op, [a.codes * a.scale, b.codes * b.scale])[0]
    assert np.allclose(sums * contractor.scale(op, a.scale, b.scale), scaled, rtol=1e-4, atol=1e-3)
    run = np.prod([right.shape[axis] for axis in layouts[1].run])
    assert run % product.right.shape[1] == 0


@pytest.mark.parametrize(
    ("left", "right"),
    [((3, 5), (5, 4)), ((2, 3, 5), (5, 4)), ((2, 1, 3, 5), (4, 5, 2)), ((5,), (5, 4)), ((2, 3, 5), (5,)), ((5,), (5,))],
)
def test_matrix_products(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    check(operation("MatMul"), integers(*left), integers(*right))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("second", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_gemm(first: int, second: int, alpha: float) -> None:
    left, right = (5, 3) if first else (3, 5), (4, 5) if second else (5, 4)
    check(operation("Gemm", transA=first, transB=second, alpha=alpha), integers(*left), integers(*right))


@given(st.data(), st.integers(1, 3))
def test_convolutions(data: st.DataObject, rank: int) -> None:
    draw = data.draw
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    outputs = groups * draw(st.integers(1, 2))
    spatial, kernel = [draw(st.integers(5, 8)) for _ in range(rank)], [draw(st.integers(1, 3)) for _ in range(rank)]
    attributes = {
        "group": groups,
        "strides": [draw(st.integers(1, 3)) for _ in range(rank)],
        "dilations": [draw(st.integers(1, 2)) for _ in range(rank)],
        "pads": [draw(st.integers(-1, 2)) for _ in range(2 * rank)],
    }
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, attributes["dilations"], strict=True)]  # type: ignore[call-overload]
    assume(all(extent >= size + 2 for extent, size in zip(spatial, reach, strict=True)))
    image, weights = (
        integers(draw(st.integers(1, 2)), groups * per_group, *spatial),
        integers(outputs, per_group, *kernel),
    )
    check(operation("Conv", **attributes), image, weights)


@given(st.data(), st.integers(1, 2))
def test_transposed_convolutions(data: st.DataObject, rank: int) -> None:
    draw = data.draw
    groups, per_group, outputs = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    attributes = {
        "group": groups,
        "strides": strides,
        "dilations": [draw(st.integers(1, 2)) for _ in range(rank)],
        "pads": [draw(st.integers(0, 1)) for _ in range(2 * rank)],
        "output_padding": [draw(st.integers(0, step - 1)) for step in strides],
    }
    image = integers(draw(st.integers(1, 2)), groups * per_group, *(draw(st.integers(3, 5)) for _ in range(rank)))
    weights = integers(groups * per_group, outputs, *(draw(st.integers(1, 3)) for _ in range(rank)))
    check(operation("ConvTranspose", **attributes), image, weights)


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [
        ("ij,jk->ik", (3, 5), (5, 4)), ("ij,jk->ki", (3, 5), (5, 4)),
        ("bhid,bhjd->bhij", (2, 3, 4, 5), (2, 3, 6, 5)), ("bij,bjk", (2, 3, 4), (2, 4, 5)),
        ("...ij,...jk->...ik", (2, 3, 4), (2, 4, 5)), ("ab,cd->adbc", (2, 3), (4, 5)),
        ("abc,bcd->da", (2, 3, 4), (3, 4, 5)), ("nchw,cd->nhwd", (2, 3, 4, 5), (3, 6)),
    ],
)  # fmt: skip
def test_einsums_of_two_operands(equation: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    check(operation("Einsum", equation=equation), integers(*left), integers(*right))


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [("ii,ij->j", (3, 3), (3, 4)), ("ij,jk->k", (3, 5), (5, 4)), ("...ij,...jk->...ik", (2, 3, 4), (1, 4, 5))],
)
def test_einsums_that_are_more_than_a_product_are_none(
    equation: str, left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    assert contractor_of(operation("Einsum", equation=equation), left, right) is None
