"""Quantised operators agree with onnxruntime to the bit, over shapes, types, zero points, scales and pads.

Scales are powers of two half of the time: then results fall on the middle between two steps, where the order of
rounding and adding shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from codesign.dtypes import name_of
from codesign.executor import Executor
from codesign.executor.kernels.saturating import saturating_pairs
from codesign.frontend import from_proto
from tests.onnx_case import NodeCase
from tests.processor import this_processor

MICROSOFT = "com.microsoft"
EXAMPLES = settings(max_examples=40, deadline=None)
small = st.integers(1, 24)


class Draw:
    """Values of one random case: Hypothesis chooses what matters, a generator seeded by it fills the arrays."""

    def __init__(self, data: st.DataObject) -> None:
        self.choose = data.draw
        self.random = np.random.default_rng(data.draw(st.integers(0, 2**31)))
        self.signed = data.draw(st.booleans(), label="signed")
        self.halves = data.draw(st.booleans(), label="scales are powers of two")

    def integers(self, *shape: int, signed: bool | None = None) -> Any:
        low = -128 if self.is_signed(signed) else 0
        return self.random.integers(low, low + 256, shape).astype(np.int8 if low else np.uint8)

    def is_signed(self, signed: bool | None) -> bool:
        return self.signed if signed is None else signed

    def zero(self, signed: bool | None = None, count: int | None = None) -> Any:
        low = -128 if self.is_signed(signed) else 0
        value = np.asarray(low + self.choose(st.integers(0, 255), label="zero point"), np.int8 if low else np.uint8)
        return value if count is None else np.full(count, value)

    def scale(self, low: float = 0.002, high: float = 1.0, count: int | None = None) -> Any:
        values = np.exp(self.random.uniform(np.log(low), np.log(high), count))
        return np.asarray(2.0 ** np.round(np.log2(values)) if self.halves else values, np.float32)

    def output_scale(self, real_step: Any, terms: int = 1) -> Any:
        """A scale at which results fill the range now and then exceed it."""
        middle = float(np.max(real_step)) * 60 * np.sqrt(terms)
        return self.scale(middle / 3, middle * 3)


def to_the_bit(case: NodeCase, steps: int = 0) -> None:
    with this_processor():
        computed = case.computed()
    expected, inferred = case.expected(), case.inferred()
    for mine, theirs, (shape, dtype) in zip(computed, expected, inferred, strict=True):
        assert (mine.shape, name_of(mine.dtype)) == (theirs.shape, name_of(theirs.dtype)) == (shape, dtype)
        if steps:
            assert np.abs(mine.astype(np.int64) - theirs).max() <= steps
        else:
            np.testing.assert_array_equal(mine, theirs)
    assert case.work().flops > 0


def convolution(draw: Draw) -> tuple[list[Any], dict[str, Any]]:
    """Image, its zero point, weights, their zero point (or one a filter) and attributes."""
    rank = draw.choose(st.integers(1, 2), label="rank")
    groups, inner, outer = (draw.choose(st.integers(1, 4)) for _ in range(3))
    kernel = [draw.choose(st.integers(1, 3)) for _ in range(rank)]
    pads = [draw.choose(st.integers(0, extent - 1)) for extent in kernel * 2]
    attributes = {
        "group": groups,
        "pads": pads,
        "strides": [draw.choose(st.integers(1, 2)) for _ in range(rank)],
        "dilations": [draw.choose(st.integers(1, 2)) for _ in range(rank)],
    }
    space = [draw.choose(st.integers(5, 9)) for _ in range(rank)]
    signed = draw.signed or draw.choose(st.booleans(), label="signed weights")
    count = groups * outer if draw.choose(st.booleans(), label="by channel") else None
    image = draw.integers(draw.choose(st.integers(1, 2)), groups * inner, *space)
    weights = draw.integers(groups * outer, inner, *kernel, signed=signed)
    return [image, draw.zero(), weights, draw.zero(signed, count)], attributes


@given(st.data())
@EXAMPLES
def test_quantised_convolution(data):
    draw = Draw(data)
    (image, image_zero, weights, weight_zero), attributes = convolution(draw)
    count = weight_zero.size if weight_zero.ndim else None
    scales = draw.scale(), draw.scale(count=count)
    inputs = [image, scales[0], image_zero, weights, scales[1], weight_zero]
    inputs += [draw.output_scale(scales[0] * scales[1], weights[0].size), draw.zero()]
    if draw.choose(st.booleans(), label="bias"):
        inputs.append(draw.random.integers(-5000, 5000, weights.shape[0]).astype(np.int32))
    to_the_bit(NodeCase("QLinearConv", inputs, **attributes))


@given(st.data())
@EXAMPLES
def test_integer_convolution(data):
    draw = Draw(data)
    draw.signed = False  # onnxruntime's kernel takes unsigned images
    (image, image_zero, weights, weight_zero), attributes = convolution(draw)
    unsigned = weights.view(np.uint8), weight_zero.reshape(-1)[0].view(np.uint8)
    to_the_bit(NodeCase("ConvInteger", [image, unsigned[0], image_zero, np.asarray(unsigned[1])], **attributes))


def product(draw: Draw) -> tuple[list[Any], int | None]:
    """Matrices with their zero points, those of the right one for all or for each column; and their number."""
    rows, depth, columns = (draw.choose(small) for _ in range(3))
    signed = draw.signed or draw.choose(st.booleans(), label="signed weights")
    count = columns if draw.choose(st.booleans(), label="by column") else None
    left, right = draw.integers(rows, depth), draw.integers(depth, columns, signed=signed)
    return [left, draw.zero(), right, draw.zero(signed, count)], count


@given(st.data())
@EXAMPLES
def test_integer_matrix_product(data):
    (left, left_zero, right, right_zero), _ = product(Draw(data))
    to_the_bit(NodeCase("MatMulInteger", [left, right, left_zero, right_zero]))


@given(st.data())
@EXAMPLES
def test_quantised_matrix_product(data):
    draw = Draw(data)
    (left, left_zero, right, right_zero), count = product(draw)
    scales = draw.scale(), draw.scale(count=count)
    target = [draw.output_scale(scales[0] * scales[1], left.shape[1]), draw.zero()]
    to_the_bit(NodeCase("QLinearMatMul", [left, scales[0], left_zero, right, scales[1], right_zero, *target]))


@given(st.data())
@EXAMPLES
def test_quantised_gemm(data):
    draw = Draw(data)
    (left, left_zero, right, right_zero), count = product(draw)
    scales, transposed = (draw.scale(), draw.scale(count=count)), draw.choose(st.integers(0, 1))
    bias = draw.random.integers(-5000, 5000, right.shape[1]).astype(np.int32)
    right_side = np.ascontiguousarray(right.T) if transposed else right
    inputs = [left, scales[0], left_zero, right_side, scales[1], right_zero, bias]
    if draw.choose(st.booleans(), label="quantised result"):
        inputs += [draw.output_scale(scales[0] * scales[1], left.shape[1]), draw.zero()]
    alpha = draw.choose(st.sampled_from([1.0, 0.5]))
    to_the_bit(NodeCase("QGemm", inputs, domain=MICROSOFT, transB=transposed, alpha=alpha))


@given(st.data())
@EXAMPLES
def test_products_that_return_to_floats(data):
    draw = Draw(data)
    (left, left_zero, right, right_zero), count = product(draw)
    bias = [draw.random.standard_normal(right.shape[1]).astype(np.float32)] if draw.choose(st.booleans()) else []
    scales = draw.scale(), draw.scale(count=count)
    inputs = [left, right, *scales, left_zero, right_zero, *bias]
    to_the_bit(NodeCase("MatMulIntegerToFloat", inputs, domain=MICROSOFT))
    real = draw.random.standard_normal(left.shape).astype(np.float32)
    to_the_bit(NodeCase("DynamicQuantizeMatMul", [real, right, scales[1], right_zero, *bias], domain=MICROSOFT))


@given(st.data(), st.sampled_from(["uint8", "int8", "uint16", "int16"]))
@EXAMPLES
def test_to_integers_and_back(data, dtype):
    draw = Draw(data)
    limits = np.iinfo(dtype)
    zero = np.asarray(draw.choose(st.integers(limits.min, limits.max)), dtype)
    scale = draw.scale()
    values = draw.random.uniform(-1.2, 1.2, (3, draw.choose(small))) * (limits.max - limits.min) * scale
    values = np.append(values.astype(np.float32), np.float32([np.inf, -np.inf, np.nan, 0, 1e30, -1e30]))
    to_the_bit(NodeCase("QuantizeLinear", [values, scale, zero], opset=21))
    integers = draw.random.integers(limits.min, limits.max + 1, (3, 7)).astype(dtype)
    to_the_bit(NodeCase("DequantizeLinear", [integers, scale, zero], opset=21))


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False), min_size=1, max_size=40))
@EXAMPLES
def test_quantisation_to_the_range_of_the_values(values):
    to_the_bit(NodeCase("DynamicQuantizeLinear", [np.float32(values)], 3))


@pytest.mark.parametrize("precision", [0, 1])
def test_a_scale_in_half_precision_divides_in_it_where_onnxruntime_widens(precision):
    """The standard divides in the scale's type unless attribute `precision` says otherwise (opset 23); onnxruntime
    divides in float32 in any case, so that the one differs by a step here and there and the other nowhere."""
    values = (np.random.default_rng(0).standard_normal(20000) * 30).astype(np.float16)
    case = NodeCase("QuantizeLinear", [values, np.asarray(0.13, np.float16), np.asarray(100, np.uint8)], opset=21)
    expected = case.expected()[0].astype(int)
    case.op.attributes["precision"] = precision
    difference = np.abs(case.computed()[0].astype(int) - expected)
    assert difference.max() == 1 - precision


@given(st.data(), st.sampled_from(["QLinearAdd", "QLinearMul"]))
@EXAMPLES
def test_quantised_sums_and_products(data, kind):
    draw = Draw(data)
    columns = draw.choose(st.integers(1, 70))
    shapes = [((3, columns), other) for other in ((3, columns), (columns,), (3, 1), (1,), ())]
    left, right = draw.choose(st.sampled_from([*shapes, *((second, first) for first, second in shapes)]))
    scales = draw.scale(0.01), draw.scale(0.01)
    step = scales[0] + scales[1] if kind == "QLinearAdd" else scales[0] * scales[1] * 60
    target = [draw.scale(float(step) / 3, float(step) * 3), draw.zero()]
    inputs = [draw.integers(*left), scales[0], draw.zero(), draw.integers(*right), scales[1], draw.zero(), *target]
    to_the_bit(NodeCase(kind, inputs, domain=MICROSOFT))


def one_input(draw: Draw, kind: str) -> tuple[tuple[int, ...], Any, dict[str, Any]]:
    """Shape, scale of the result and attributes."""
    steps = np.asarray(1 / draw.choose(st.sampled_from([256, 255, 190.3])), np.float32)
    image = (2, draw.choose(st.integers(1, 9)), draw.choose(st.integers(3, 9)), draw.choose(st.integers(3, 9)))
    last = draw.choose(st.booleans(), label="channels last")
    if kind == "QLinearSoftmax":
        return (2, draw.choose(small), 3), steps, {"axis": draw.choose(st.integers(-3, 2))}
    if kind == "QLinearSigmoid":
        return (3, draw.choose(small)), steps, {}
    if kind == "QLinearLeakyRelu":
        return (3, draw.choose(small)), draw.scale(), {"alpha": draw.choose(st.floats(0, 0.5))}
    shape = (image[0], *image[2:], image[1]) if last else image
    attributes: dict[str, Any] = {"channels_last": int(last)}
    if kind == "QLinearAveragePool":
        kernel = [draw.choose(st.integers(1, 3)) for _ in range(2)]
        attributes |= {
            "kernel_shape": kernel,
            "pads": [draw.choose(st.integers(0, extent - 1)) for extent in kernel * 2],
            "strides": [draw.choose(st.integers(1, 2)) for _ in range(2)],
            "count_include_pad": draw.choose(st.integers(0, 1)),
        }
    return shape, draw.scale(0.01), attributes


@pytest.mark.parametrize(
    "kind",
    ["QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearGlobalAveragePool", "QLinearAveragePool"],
)
@given(data=st.data())
@EXAMPLES
def test_one_quantised_input(kind, data):
    draw = Draw(data)
    shape, scale, attributes = one_input(draw, kind)
    zero = draw.zero() if kind != "QLinearSoftmax" else np.asarray(-128 if draw.signed else 0, draw.zero().dtype)
    case = NodeCase(
        kind, [draw.integers(*shape), draw.scale(0.01), draw.zero(), scale, zero], domain=MICROSOFT, **attributes
    )
    if kind == "QLinearSoftmax":
        opset = draw.choose(st.sampled_from([12, 13]))
        case.node.attribute.append(helper.make_attribute("opset", opset))
        case.op.attributes["opset"] = opset
    # onnxruntime approximates the sigmoid by a fraction of polynomials: of 768,000 results two fell on the other side
    # of a step than ours.
    to_the_bit(case, steps=int(kind == "QLinearSigmoid"))


@given(st.data())
@EXAMPLES
def test_quantised_inputs_joined_and_chosen_between(data):
    draw = Draw(data)
    columns = draw.choose(small)
    sides = [[draw.integers(3, columns), draw.scale(), draw.zero()] for _ in range(2)]
    target = [draw.scale(), draw.zero()]
    to_the_bit(NodeCase("QLinearConcat", [*target, *sides[0], *sides[1]], domain=MICROSOFT, axis=1))
    condition = draw.random.integers(0, 2, (3, columns)).astype(bool)
    to_the_bit(NodeCase("QLinearWhere", [condition, *sides[0], *sides[1], *target], domain=MICROSOFT))


def test_sums_beyond_32_bits_wrap():
    left, right = np.full((2, 70000), 255, np.uint8), np.full((70000, 2), 127, np.int8)
    to_the_bit(NodeCase("MatMulInteger", [left, right]))


# What onnxruntime computed on processors without VNNI, see tests/data/saturation/README.md.
RECORDED = Path(__file__).parent / "data" / "saturation"


def recorded_cases() -> list[str]:
    return sorted(path.stem for path in RECORDED.glob("*.onnx"))


@pytest.mark.parametrize("name", recorded_cases())
def test_products_of_processors_without_vnni(name):
    """Saturating pairs give to the bit what onnxruntime gave there; exact products what it gives elsewhere."""
    model = onnx.load(RECORDED / f"{name}.onnx")
    with np.load(RECORDED / "results.npz") as results:
        recorded, values = results[name], {"x0": results[f"{name}.x0"]}
    graph = from_proto(model)
    exact = Executor(graph).run(values)["y"]
    with saturating_pairs():
        saturated = Executor(graph).run(values)["y"]
    np.testing.assert_array_equal(saturated, recorded)
    assert np.array_equal(exact, recorded) == name.endswith("_exact")
