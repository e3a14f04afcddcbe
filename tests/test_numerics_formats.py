"""Every number format against ml_dtypes, onnxruntime, or a plain computation from its published definition."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from codesign.errors import BadParameter
from codesign.numerics import blocks, codebooks, floats, integers
from codesign.numerics.formats import BLOCKS, CODEBOOKS, FLOATS, INTEGERS, format_names, logarithmic, number_format
from codesign.numerics.rounding import ROUNDINGS

Array = np.ndarray[Any, Any]

THEIRS = {
    "bf16": ml_dtypes.bfloat16, "fp16": np.float16, "fp8-e4m3": ml_dtypes.float8_e4m3fn,
    "fp8-e5m2": ml_dtypes.float8_e5m2, "fp8-e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "fp8-e5m2fnuz": ml_dtypes.float8_e5m2fnuz, "fp8-e3m4": ml_dtypes.float8_e3m4,
    "fp8-e4m3ieee": ml_dtypes.float8_e4m3, "fp6-e3m2": ml_dtypes.float6_e3m2fn, "fp6-e2m3": ml_dtypes.float6_e2m3fn,
    "fp4-e2m1": ml_dtypes.float4_e2m1fn,
}  # fmt: skip
"""The same format in ml_dtypes or numpy; tf32 has none."""


def their_values(name: str) -> Array:
    """The value of each code, by the other library."""
    form = FLOATS[name]
    codes = np.arange(1 << form.bits).astype(floats.code_dtype(form.bits))
    return codes.view(THEIRS[name]).astype(np.float32)


def trial_values(form: floats.FloatFormat) -> Array:
    """Random float32 of all exponents, usual ones, all values of the format, all ties and their neighbours."""
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 1 << 32, 100_000, dtype=np.uint64).astype(np.uint32)
    held = floats.decode(np.arange(1 << min(form.bits, 16)).astype(floats.code_dtype(form.bits)), form)
    held = np.unique(held[np.isfinite(held)])
    middle = ((held[1:].astype(np.float64) + held[:-1]) / 2).astype(np.float32)
    near = [np.nextafter(middle, np.float32(side)) for side in (-np.inf, np.inf)]
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32)
    scaled = np.float32(2 * min(form.largest, 1e37)) * generator.uniform(-1, 1, 20_000).astype(np.float32)
    return np.concatenate((bits.view(np.float32), held, middle, *near, special, scaled))


def assert_same(found: Array, expected: Array) -> None:
    """Bit for bit, the sign of zero included; any NaN equals any other."""
    both_nan = np.isnan(found) & np.isnan(expected)
    same = (found == expected) & (np.signbit(found) == np.signbit(expected))
    wrong = ~(same | both_nan)
    assert not wrong.any(), (found[wrong][:5], expected[wrong][:5])


@pytest.mark.parametrize("name", THEIRS)
def test_every_code_decodes_as_in_ml_dtypes(name: str) -> None:
    form = FLOATS[name]
    codes = np.arange(1 << form.bits).astype(floats.code_dtype(form.bits))
    assert_same(floats.decode(codes, form), their_values(name))


@pytest.mark.parametrize("name", THEIRS)
def test_rounding_to_nearest_even_is_that_of_ml_dtypes(name: str) -> None:
    form = FLOATS[name]
    values = trial_values(form)
    if form.nans == "none":  # ml_dtypes makes minus zero of NaN, ours zero: neither is right
        values = values[~np.isnan(values)]
    with np.errstate(all="ignore"):
        expected = values.astype(THEIRS[name]).astype(np.float32)
    saturate = form.nans == "none"
    assert_same(floats.decode(floats.encode(values, form, saturate=saturate), form), expected)
    assert_same(floats.quantise(values, form, saturate=saturate), expected)


@pytest.mark.parametrize("name", ["fp8-e4m3", "fp8-e5m2", "fp16", "bf16", "tf32", "fp4-e2m1"])
def test_saturation_keeps_the_largest_value(name: str) -> None:
    form = FLOATS[name]
    top = np.float32(form.largest)
    given = np.array([np.inf, -np.inf, 3.4028e38, -3.4028e38, top], np.float32)
    assert list(floats.quantise(given, form, saturate=True)) == [top, -top, top, -top, top]


def test_largest_values_are_those_of_the_ocp_tables() -> None:
    """OFP8 v1.0 table 2; Microscaling v1.0 tables 4 to 6."""
    largest = {"fp8-e4m3": 448, "fp8-e5m2": 57344, "fp6-e3m2": 28, "fp6-e2m3": 7.5, "fp4-e2m1": 6}
    smallest = {"fp8-e4m3": 2**-9, "fp8-e5m2": 2**-16, "fp6-e3m2": 2**-4, "fp6-e2m3": 2**-3, "fp4-e2m1": 0.5}
    assert {name: FLOATS[name].largest for name in largest} == largest
    assert {name: FLOATS[name].smallest for name in smallest} == smallest


def test_tf32_keeps_ten_bits_of_the_mantissa() -> None:
    """Between two values of tf32 there are 2^13 of float32; ties go to the even one, subnormals round alike."""
    form = FLOATS["tf32"]
    values = trial_values(FLOATS["bf16"])
    values = values[np.isfinite(values)]
    bits = values.view(np.uint32).astype(np.int64)
    whole, rest = bits >> 13, bits & 0x1FFF
    expected = whole + ((rest > 0x1000) | ((rest == 0x1000) & (whole & 1 == 1)))
    assert_same(floats.quantise(values, form, saturate=False), (expected << 13).astype(np.uint32).view(np.float32))
    assert_same(floats.decode(floats.encode(values, form, saturate=False), form), floats.quantise(values, form))


def rounded_by_definition(values: Array, held: Array, rounding: str) -> Array:
    """Each value, inside the format's range, to one of its neighbours among `held`, ascending and symmetric."""
    even = len(held) // 2 % 2  # the parity of zero's place is that of all even codes
    exact = values.astype(np.float64)
    at = np.clip(np.searchsorted(held, values, "right") - 1, 0, len(held) - 2)
    low, high = held[at].astype(np.float64), held[at + 1].astype(np.float64)
    upper = {
        "nearest-even": (exact - low > high - exact) | ((exact - low == high - exact) & (at % 2 != even)),
        "nearest-away": (exact - low > high - exact) | ((exact - low == high - exact) & (exact > 0)),
        "toward-zero": (exact < 0) & (exact != low),
        "down": np.zeros(exact.shape, bool),
        "up": exact != low,
    }[rounding]
    return np.where(exact == high, high, np.where(upper, high, low))


@pytest.mark.parametrize("rounding", [name for name in ROUNDINGS if name != "stochastic"])
@pytest.mark.parametrize("name", ["fp8-e4m3", "fp6-e2m3", "fp8-e5m2", "fp16"])
def test_round_modes_choose_the_neighbour_they_are_named_after(name: str, rounding: Any) -> None:
    form = FLOATS[name]
    held = np.unique(their_values(name)[np.isfinite(their_values(name))])
    values = trial_values(form)
    values = values[np.abs(values) <= form.largest]
    expected = rounded_by_definition(values, held, rounding)
    assert np.array_equal(floats.quantise(values, form, rounding), expected)
    assert np.array_equal(floats.decode(floats.encode(values, form, rounding), form), expected)


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [("nearest-even", (np.inf, -np.inf)), ("toward-zero", (65504, -65504)), ("down", (65504, -np.inf)),
     ("up", (np.inf, -65504))],
)  # fmt: skip
def test_overflow_follows_the_round_mode_as_ieee_754_says(rounding: Any, expected: tuple[float, float]) -> None:
    given = np.array([1e6, -1e6], np.float32)
    assert tuple(floats.quantise(given, FLOATS["fp16"], rounding)) == expected
    assert tuple(floats.decode(floats.encode(given, FLOATS["fp16"], rounding), FLOATS["fp16"])) == expected


@pytest.mark.parametrize("name", ["fp8-e4m3", "bf16", "int8"])
def test_stochastic_rounding_is_unbiased_and_follows_its_seed(name: str) -> None:
    values = np.full(200_000, 1.0 + 0.3 * 2**-7 if name == "bf16" else 1.0375, np.float32)

    def rounded(seed: int) -> Array:
        if name == "int8":
            row, scale, zero = values[None], np.full(1, 0.25, np.float32), np.zeros(1, np.float32)
            return integers.quantise_rows(row, scale, zero, INTEGERS["int8"], "stochastic", seed)[0]
        return floats.quantise(values, FLOATS[name], "stochastic", seed=seed)

    found = rounded(1)
    low, high = np.unique(found)
    chance = (values[0] - low) / (high - low)
    spread = (high - low) * np.sqrt(chance * (1 - chance) / len(values))
    assert abs(found.astype(np.float64).mean() - values[0]) < 5 * spread
    assert np.array_equal(found, rounded(1))
    assert not np.array_equal(found, rounded(2))


def test_stochastic_rounding_of_tiny_values_is_unbiased() -> None:
    form = FLOATS["fp8-e4m3"]
    values = np.full(1_000_000, form.smallest / 50, np.float32)
    found = floats.quantise(values, form, "stochastic", seed=3)
    assert abs(np.count_nonzero(found) / len(values) - 0.02) < 5 * np.sqrt(0.02 / len(values))


@pytest.mark.parametrize("name", ["int8", "uint8", "int16", "uint16"])
def test_integers_are_those_of_onnxruntime(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    kind = np.dtype(name)
    scale, zero = np.float32(0.0371), kind.type(3)
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
         helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        "quantise",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("q", helper.np_dtype_to_tensor_dtype(kind), ["n"]),
         helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor("s", TensorProto.FLOAT, [], [scale]),
         helper.make_tensor("z", helper.np_dtype_to_tensor_dtype(kind), [], [int(zero)])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    ties = (np.arange(-300, 300) + 0.5).astype(np.float32) * scale
    values = np.concatenate((generator.standard_normal(50_000).astype(np.float32) * 5000 * scale, ties))
    codes, decoded = session.run(None, {"x": values})
    form = INTEGERS[name]
    scales, zeros = np.array([scale]), np.array([zero], np.float32)
    found = integers.encode_rows(values[None], scales, zeros, form)
    assert found.dtype == kind
    assert np.array_equal(found[0], codes)
    assert np.array_equal(integers.decode_rows(found, scales, zeros)[0], decoded)
    assert np.array_equal(integers.quantise_rows(values[None], scales, zeros, form)[0], decoded)


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("sign", ["", "u"])
def test_integer_scales_span_the_range(sign: str, bits: int) -> None:
    form = INTEGERS[f"{sign}int{bits}"]
    low, high = np.array([-1.5, 0.25, 0.0], np.float32), np.array([4.5, 8.0, 0.0], np.float32)
    scales, zeros = integers.scales_of(low, high, form, symmetric=False)
    ends = integers.decode_rows(np.array([[form.low, form.high]] * 3), scales, zeros)
    step = scales[:2]
    assert np.all(np.abs(ends[:2, 0] - np.minimum(low[:2], 0)) <= step * 0.501)
    assert np.all(np.abs(ends[:2, 1] - high[:2]) <= step * 0.501)
    assert integers.decode_rows(zeros[:, None].astype(np.int32), scales, zeros).tolist() == [[0.0]] * 3
    scales, zeros = integers.scales_of(low, high, form, symmetric=True)
    assert not zeros.any()
    assert np.allclose(scales[:2] * form.high, high[:2])


def test_integers_round_as_their_mode_says() -> None:
    values = np.array([[-2.5, -1.5, -1.2, -0.49999997, 0.49999997, 0.5, 1.5, 2.5, 2.7]], np.float32)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    expected = {
        "nearest-even": [-2, -2, -1, 0, 0, 0, 2, 2, 3], "nearest-away": [-3, -2, -1, 0, 0, 1, 2, 3, 3],
        "toward-zero": [-2, -1, -1, 0, 0, 0, 1, 2, 2], "down": [-3, -2, -2, -1, 0, 0, 1, 2, 2],
        "up": [-2, -1, -1, 0, 1, 1, 2, 3, 3],
    }  # fmt: skip
    for rounding, codes in expected.items():
        assert integers.encode_rows(values, one, zero, INTEGERS["int8"], rounding).tolist() == [codes]  # type: ignore[arg-type]


def block_values() -> Array:
    """Blocks of 32 of all magnitudes, with zeros, subnormals of float32, and exact powers of two."""
    generator = np.random.default_rng(1)
    values = generator.standard_normal((400, 32)) * np.exp2(generator.integers(-40, 40, (400, 1)))
    values[:100] *= np.exp2(generator.integers(-8, 8, (100, 32)))
    values[300] = 0
    values[301] = 1e-42
    values[302] = 2.0**-126
    values[303:310] = np.exp2(generator.integers(-5, 5, (7, 32)))
    return values.astype(np.float32)


@pytest.mark.parametrize("name", [name for name, form in BLOCKS.items() if form.scale == "e8m0"])
def test_microscaling_blocks_follow_the_ocp_rule(name: str) -> None:
    """Section 6.3 of the specification in plain float64, elements converted by ml_dtypes."""
    form = BLOCKS[name]
    values = block_values()
    exact = values.astype(np.float64)
    largest = np.abs(exact).max(axis=1)
    with np.errstate(divide="ignore"):
        power = np.floor(np.log2(largest))
    reach = {"mxfp8-e4m3": 8, "mxfp8-e5m2": 15, "mxfp6-e2m3": 2, "mxfp6-e3m2": 4, "mxfp4": 2, "mxint8": 0}[name]
    exponent = np.clip(np.where(largest > 0, power - reach, -127), -127, 127)
    scaled = exact / np.exp2(exponent)[:, None]
    if name == "mxint8":
        elements = np.clip(np.rint(scaled * 64), -127, 127) / 64
    else:
        top = form.element.largest  # type: ignore[union-attr]
        elements = np.clip(scaled, -top, top).astype(np.float32).astype(THEIRS[form.element.name]).astype(np.float64)
    expected = (elements * np.exp2(exponent)[:, None]).astype(np.float32)
    encoded = blocks.encode_rows(values, form)
    assert encoded.scales.tolist() == (exponent + 127).astype(int).tolist()
    assert np.array_equal(blocks.decode_rows(encoded, form), expected)
    assert np.array_equal(blocks.quantise_rows(values, form), expected)


def test_a_block_that_is_not_finite_is_not_a_number() -> None:
    values = np.ones((3, 32), np.float32)
    values[0, 3], values[1, 4] = np.nan, np.inf
    encoded = blocks.encode_rows(values, BLOCKS["mxfp8-e4m3"])
    assert encoded.scales.tolist() == [255, 255, 127 - 8]
    held = blocks.quantise_rows(values, BLOCKS["mxfp8-e4m3"])
    assert np.isnan(held[:2]).all()
    assert (held[2] == 1).all()


def test_nvfp4_scales_blocks_in_fp8_under_one_fp32_scale() -> None:
    form = BLOCKS["nvfp4"]
    values = np.random.default_rng(2).standard_normal((500, 16)).astype(np.float32)
    values[:50] *= np.float32(1e-6)
    tensor = np.float32(np.abs(values).max()) / np.float32(6 * 448)
    scale = (np.abs(values).max(axis=1) / np.float32(6) / tensor).astype(ml_dtypes.float8_e4m3fn)
    unit = scale.astype(np.float32) * tensor
    with np.errstate(all="ignore"):
        elements = np.clip(values / unit[:, None], -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    expected = np.where(unit[:, None] > 0, elements * unit[:, None], 0)
    encoded = blocks.encode_rows(values, form)
    assert np.array_equal(encoded.scales, scale.view(np.uint8))
    assert np.array_equal(blocks.decode_rows(encoded, form), expected)
    assert np.array_equal(blocks.quantise_rows(values, form), expected)


@pytest.mark.parametrize(("bits", "base"), [(2, 2.0), (4, 2.0), (5, 2.0), (4, 1.41421356), (6, 1.2)])
def test_logarithmic_values_are_the_nearest_powers(bits: int, base: float) -> None:
    form = logarithmic(bits, base)
    values = np.random.default_rng(3).standard_normal((5, 2000)).astype(np.float32)
    scales, edges = codebooks.fit_rows(values, form)
    found = codebooks.quantise_rows(values, scales, edges, form)
    steps = (1 << bits - 1) - 1
    top = np.rint(np.log(np.abs(values).max(axis=1, keepdims=True).astype(np.float64)) / np.log(base))
    exponent = np.rint(np.log(np.abs(values).astype(np.float64)) / np.log(base))
    expected = np.where(exponent > top - steps, np.sign(values) * base ** np.minimum(exponent, top), 0)
    assert np.allclose(found, expected, rtol=1e-5, atol=0)


def test_shifts_multiply_exactly() -> None:
    form = number_format("shift")
    values = np.random.default_rng(4).standard_normal((1, 1000)).astype(np.float32)
    scales, edges = codebooks.fit_rows(values, form)
    held = codebooks.quantise_rows(values, scales, edges, form)
    assert np.array_equal(np.frexp(held[held != 0])[0], np.sign(held[held != 0]) * 0.5)


def test_ternary_and_binary_follow_their_papers() -> None:
    values = np.random.default_rng(5).standard_normal((4, 999)).astype(np.float32)
    magnitude = np.abs(values)
    kept = magnitude > np.float32(0.7) * magnitude.mean(axis=1, keepdims=True)
    scale = np.where(kept, magnitude, 0).sum(axis=1, keepdims=True) / kept.sum(axis=1, keepdims=True)
    for name, expected in (
        ("ternary", np.sign(values) * kept * scale),
        ("binary", np.where(values >= 0, 1, -1) * magnitude.mean(axis=1, keepdims=True)),
    ):
        form = CODEBOOKS[name]
        found = codebooks.quantise_rows(values, *codebooks.fit_rows(values, form), form)
        assert np.allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["ternary", "binary", "nf4", "pow2-4bit"])
def test_zeros_stay_zeros(name: str) -> None:
    form = number_format(name)
    zeros = np.zeros((2, 9), np.float32)
    assert isinstance(form, codebooks.Codebook)
    assert not codebooks.quantise_rows(zeros, *codebooks.fit_rows(zeros, form), form).any()


def test_nf4_lists_the_levels_of_qlora() -> None:
    """Quantiles of a normal distribution, 8 above zero and 7 below: `create_normal_map` of bitsandbytes makes them."""
    form = CODEBOOKS["nf4"]
    assert len(form.levels) == 16
    assert all(low < high for low, high in pairwise(form.levels))
    from scipy.stats import norm

    upper = norm.ppf(np.linspace(0.9677083, 0.5, 9)[:-1])
    lower = -norm.ppf(np.linspace(0.9677083, 0.5, 8)[:-1])
    expected = np.sort(np.concatenate((upper, [0], lower))) / upper.max()
    assert np.allclose(form.levels, expected, atol=2e-6)


def test_formats_are_found_by_name_or_the_nearest_are_told() -> None:
    for name in format_names():
        assert number_format(name).name == name
    assert number_format("e3m3").bits == 7
    assert number_format("log5@1.414").bits == 5
    with pytest.raises(BadParameter, match=r"unknown number format 'fp8-e4m4'; did you mean fp8-e4m3"):
        number_format("fp8-e4m4")
    with pytest.raises(BadParameter, match="unknown round mode 'even'"):
        floats.quantise(np.zeros(1, np.float32), FLOATS["fp16"], "even")  # type: ignore[arg-type]
