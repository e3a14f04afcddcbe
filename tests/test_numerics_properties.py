"""What holds of every number format: rounding twice changes nothing, order is kept, and the error has its bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from codesign.numerics import blocks, codebooks, floats, integers
from codesign.numerics.formats import BLOCKS, CODEBOOKS, FLOATS, INTEGERS, Codebook, FloatFormat, logarithmic
from codesign.numerics.formats import number_format as named
from codesign.numerics.holding import Layout, hold
from codesign.numerics.policy import Holding
from codesign.numerics.rounding import ROUNDINGS

Array = np.ndarray[Any, Any]

usual = st.floats(-1e6, 1e6, width=32)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
sizeable = st.one_of(st.just(0.0), st.floats(2.0**-60, 1e6, width=32), st.floats(-1e6, -(2.0**-60), width=32))
roundings = st.sampled_from(ROUNDINGS)
steady = st.sampled_from([name for name in ROUNDINGS if name != "stochastic"])
floating = st.sampled_from([*FLOATS.values(), named("e3m3"), named("e5m1")])
books = st.sampled_from([*CODEBOOKS.values(), logarithmic(4), logarithmic(5, 1.5), logarithmic(2)])


def rows(elements: st.SearchStrategy[float], columns: int) -> st.SearchStrategy[Array]:
    return arrays(np.float32, (3, columns), elements=elements)


@given(arrays(np.float32, 40, elements=finite), floating, roundings, st.integers(0, 5))
def test_a_float_once_rounded_stays(values: Array, form: FloatFormat, rounding: Any, seed: int) -> None:
    once = floats.quantise(values, form, rounding, seed=seed)
    assert np.array_equal(floats.quantise(once, form, rounding, seed=seed + 1), once)
    assert np.array_equal(floats.decode(floats.encode(values, form, rounding, seed=seed), form), once)


@given(arrays(np.float32, 40, elements=finite), floating, steady)
def test_floats_keep_their_order(values: Array, form: FloatFormat, rounding: Any) -> None:
    held = floats.quantise(np.sort(values), form, rounding)
    assert (held[1:] >= held[:-1]).all()


@given(arrays(np.float32, 40, elements=finite), floating, roundings)
def test_a_float_errs_by_half_a_step_to_nearest_and_a_step_otherwise(
    values: Array, form: FloatFormat, rounding: Any
) -> None:
    inside = values[np.abs(values) <= form.largest].astype(np.float64)
    error = np.abs(floats.quantise(inside, form, rounding).astype(np.float64) - inside)
    exponent = np.floor(np.log2(np.maximum(np.abs(inside), 2.0**form.smallest_exponent)))
    step = np.exp2(exponent - form.mantissa_bits)
    # Of a value that vanishes beside the step, even float64 sees the whole step.
    assert (error <= (step / 2 if rounding.startswith("nearest") else step)).all()


@pytest.mark.parametrize("form", [form for form in FLOATS.values() if form.bits <= 16], ids=lambda form: form.name)
def test_every_code_encodes_its_own_value(form: FloatFormat) -> None:
    codes = np.arange(1 << form.bits).astype(floats.code_dtype(form.bits))
    values = floats.decode(codes, form)
    numbers = ~np.isnan(values) & (np.isfinite(values) | (not form.saturates))
    assert np.array_equal(floats.encode(values, form)[numbers], codes[numbers])


@given(rows(usual, 30), st.sampled_from(list(INTEGERS.values())), st.booleans(), roundings)
def test_integers_once_rounded_stay_and_err_below_a_step(
    values: Array, form: Any, symmetric: bool, rounding: Any
) -> None:
    scales, zeros = integers.scales_of(values.min(axis=1), values.max(axis=1), form, symmetric)
    once = integers.quantise_rows(values, scales, zeros, form, rounding)
    codes = integers.encode_rows(values, scales, zeros, form, rounding)
    assert np.array_equal(integers.decode_rows(codes, scales, zeros), once)
    assert np.array_equal(integers.encode_rows(once, scales, zeros, form), codes)
    low, high = ((limit - zeros) * scales for limit in (form.low, form.high))
    inside = (values >= low[:, None]) & (values <= high[:, None])
    step = scales[:, None] * (0.5 if rounding.startswith("nearest") else 1)
    # The quotient is rounded to float32 before it is rounded to a whole number: 2^-23 of a code as large as 2^15.
    slack = scales[:, None] * 2.0**-7
    assert (np.abs(once.astype(np.float64) - values)[inside] <= (step + slack + 0 * values)[inside]).all()


@given(rows(usual, 30), st.sampled_from(list(INTEGERS.values())), steady)
def test_integers_keep_their_order_and_symmetry(values: Array, form: Any, rounding: Any) -> None:
    values = np.sort(values, axis=1)
    scales, zeros = integers.scales_of(values[:, 0], values[:, -1], form, symmetric=True)
    held = integers.quantise_rows(values, scales, zeros, form, rounding)
    assert (held[:, 1:] >= held[:, :-1]).all()
    if form.signed and rounding in ("nearest-even", "nearest-away", "toward-zero"):
        balanced = np.abs(values) <= scales[:, None] * form.high
        opposite = -integers.quantise_rows(-values, scales, zeros, form, rounding)
        assert np.array_equal(held[balanced], opposite[balanced])


@given(rows(usual, 30), books, steady)
def test_listed_values_keep_their_order_and_are_listed(values: Array, book: Codebook, rounding: Any) -> None:
    values = np.sort(values, axis=1)
    scales, edges = codebooks.fit_rows(values, book)
    held = codebooks.quantise_rows(values, scales, edges, book, rounding)
    assert (held[:, 1:] >= held[:, :-1]).all()
    levels = np.asarray(book.levels, np.float32)[None] * scales[:, None]
    assert all(np.isin(row, level).all() for row, level in zip(held, levels, strict=True))
    # A level times its scale may round away from itself, so that only rounding to nearest finds it again.
    assert np.array_equal(codebooks.quantise_rows(held, scales, edges, book), held)


@given(rows(usual, 30), books)
def test_listed_values_are_the_nearest(values: Array, book: Codebook) -> None:
    """Nearest between neighbours' middle, of logarithms for powers; ternary has the threshold of its paper."""
    scales, edges = codebooks.fit_rows(values, book)
    codes = codebooks.encode_rows(values, scales, edges, book)
    scaled = values / np.where(scales > 0, scales, 1)[:, None]
    for code, x in zip(codes.ravel(), scaled.ravel(), strict=True):
        row_edges = edges[0] if len(edges) == 1 else None
        if row_edges is not None:
            assert code == 0 or row_edges[code - 1] <= x
            assert code == len(book.levels) - 1 or row_edges[code] >= x


@given(rows(sizeable, 32), st.sampled_from([form for form in BLOCKS.values() if form.scale == "e8m0"]))
def test_microscaled_values_stay_scale_with_powers_of_two_and_err_by_a_step_of_the_largest(
    values: Array, form: Any
) -> None:
    held = blocks.quantise_rows(values, form)
    assert np.array_equal(blocks.quantise_rows(held, form), held)
    assert np.array_equal(blocks.quantise_rows(values * np.float32(2**20), form), held * np.float32(2**20))
    assert np.array_equal(blocks.quantise_rows(-values, form), -held)
    assert np.array_equal(blocks.decode_rows(blocks.encode_rows(values, form), form), held)
    mantissa = form.element.mantissa_bits if isinstance(form.element, FloatFormat) else 6
    largest = np.abs(values).max(axis=1, keepdims=True).astype(np.float64)
    assert (np.abs(held - values.astype(np.float64)) <= largest * 2.0**-mantissa).all()


@given(
    arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 6)), elements=usual),
    st.sampled_from(["int8", "uint4", "fp8-e4m3", "mxfp4", "nvfp4", "nf4", "ternary"]),
    st.sampled_from(["tensor", "channel", "group"]),
    st.integers(1, 50),
)
def test_scales_are_shared_as_the_layout_says(values: Array, name: str, scale: Any, group: int) -> None:
    """A tensor held along its middle axis is its rows along that axis held one by one."""
    holding = Holding(format=name, scale=scale, group=group)
    found = hold(values, holding, Layout((0, 2), (1,)), weights=True).values
    assert found.shape == values.shape
    assert found.dtype == values.dtype
    if scale == "tensor" or name == "nvfp4":
        return
    alone = np.empty_like(values)
    for first, last in np.ndindex(values.shape[0], values.shape[2]):
        row = values[first, :, last]
        alone[first, :, last] = hold(row, holding, Layout((), (0,)), weights=True).values
    assert np.array_equal(found, alone)
