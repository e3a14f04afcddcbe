"""A tensor held in a format: which values share a scale, where the scale comes from, and what is left of the values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.errors import BadParameter
from codesign.numerics import blocks, codebooks, floats, integers
from codesign.numerics.formats import BlockFormat, Codebook, FloatFormat, Format, IntegerFormat
from codesign.numerics.policy import PERCENTILE, Holding
from codesign.numerics.rounding import Rounding

Array = np.ndarray[Any, Any]
Range = tuple[float, float]

SHRINKS = np.linspace(1.0, 0.3, 36)
"""Fractions of the full range that the search for the least squared error tries."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Axes of an operand: `kept` have a scale each where channels or rows have one; `run` is summed over by a product,
    so that groups and blocks lie along it, in the order of storage."""

    kept: tuple[int, ...]
    run: tuple[int, ...]


def row_layout(rank: int) -> Layout:
    """The last axis runs, as for the left side of a matrix product; for what enters no product too."""
    return Layout(tuple(range(rank - 1)), (rank - 1,)) if rank else Layout((), ())


@dataclass(frozen=True, slots=True)
class Integers:
    """A tensor in whole numbers: `codes` in float32, zero point taken off, times `scale`, which broadcasts to them.

    `group`: how many neighbours along the run share a scale; None when a scale is of the tensor, a channel or a row.
    `peak`: no code has a larger magnitude.
    """

    codes: Array
    scale: Array
    group: int | None = None
    peak: int = 0

    @classmethod
    def of(cls, codes: Array, scale: Array, group: int | None = None) -> Integers:
        """With the largest magnitude among the codes."""
        return cls(codes, scale, group, int(max(-codes.min(initial=0), codes.max(initial=0))))


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor as held: its values in the type it came in, or whole numbers that those are made of when asked for."""

    dtype: np.dtype[Any]
    whole: Integers | None = None
    plain: Array | None = None

    @property
    def values(self) -> Array:
        if self.plain is not None:
            return self.plain
        assert self.whole is not None
        return (self.whole.codes * self.whole.scale).astype(self.dtype, copy=False)


def as_is(values: Array) -> Held:
    """A tensor that is held in its own type."""
    return Held(values.dtype, plain=values)


@dataclass(frozen=True, slots=True)
class _Rows:
    """A tensor as rows that share a scale, and the way back."""

    rows: Array
    shape: tuple[int, ...]
    order: tuple[int, ...]
    surplus: int = 0
    columns: int = 0

    def back(self, rows: Array) -> Array:
        if self.surplus:
            rows = rows.reshape(-1, self.columns + self.surplus)[:, : self.columns]
        ordered = rows.reshape([self.shape[axis] for axis in self.order])
        return np.ascontiguousarray(ordered.transpose(np.argsort(self.order)))


def _in_rows(values: Array, first: tuple[int, ...], size: int | None = None) -> _Rows:
    """Rows of the axes after `first`, cut in runs of `size`, the last filled up with zeros."""
    order = (*first, *(axis for axis in range(values.ndim) if axis not in first))
    count = math.prod(values.shape[axis] for axis in first)
    rows = np.ascontiguousarray(values.transpose(order), np.float32).reshape(count, -1) if values.size else values
    if size is None or not values.size:
        return _Rows(rows.reshape(count, -1), values.shape, order)
    columns = rows.shape[1]
    size = min(size, columns)
    surplus = -columns % size
    padded = np.pad(rows, ((0, 0), (0, surplus))) if surplus else rows
    return _Rows(padded.reshape(-1, size), values.shape, order, surplus, columns)


def hold(
    values: Array, holding: Holding, layout: Layout, weights: bool = False, known: Range | None = None, seed: int = 0
) -> Held:
    """`values` (any float type) as `holding` says. `known` is the calibrated range of a static scale.

    `values` of the result keep their type. Raises BadParameter where the format cannot be held so.
    """
    form = holding.form
    if form is None or not values.size:
        return as_is(values)
    shared = holding.shared(weights)
    given = values.astype(np.float32, copy=False)
    if isinstance(form, BlockFormat):
        runs = _in_rows(given, _others(values.ndim, layout.run), form.block)
        found = runs.back(_fill(blocks.quantise_rows, runs.rows, form, holding.rounding, seed))
    elif shared == "none":
        if not isinstance(form, FloatFormat):
            raise BadParameter(f"format '{holding.format}' needs a scale: tensor, channel, token or group")
        found = floats.quantise(given, form, holding.rounding, holding.saturate, seed)
    else:
        return _scaled(values, given, form, holding, shared, layout, weights, known, seed)
    return as_is(found.astype(values.dtype, copy=False))


def held_bits(shape: tuple[int, ...], holding: Holding, layout: Layout) -> int:
    """Bits that a weight of `shape` takes: its codes, 16 bits a scale of a group, 32 of a channel or tensor, and a zero
    point as wide as a code with each scale that has one."""
    form, elements = holding.form, math.prod(shape)
    assert form is not None
    shared = holding.shared(True)
    runs = elements // max(math.prod(shape[axis] for axis in layout.run), 1)
    if isinstance(form, BlockFormat) or shared == "none":
        return math.ceil(elements * form.bits)
    per_run = -(-math.prod(shape[axis] for axis in layout.run) // holding.group)
    channels = math.prod(shape[axis] for axis in layout.kept)
    scales, width = {"group": (runs * per_run, 16), "tensor": (1, 32)}.get(shared, (channels, 32))
    affine = isinstance(form, IntegerFormat) and holding.symmetric is False
    return elements * form.bits + scales * (width + (form.bits if affine else 0))


def _others(rank: int, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis in range(rank) if axis not in axes)


def _fill(quantise: Any, rows: Array, form: BlockFormat, rounding: Rounding, seed: int) -> Array:
    """Blocks shorter than the format's are filled up with zeros, and cut again."""
    short = form.block - rows.shape[1]
    if short <= 0:
        return np.asarray(quantise(rows, form, rounding, seed))
    return np.asarray(quantise(np.pad(rows, ((0, 0), (0, short))), form, rounding, seed)[:, :-short])


def _scaled(
    values: Array,
    given: Array,
    form: Format,
    holding: Holding,
    shared: str,
    layout: Layout,
    weights: bool,
    known: Range | None,
    seed: int,
) -> Held:
    if shared == "group":
        rows = _in_rows(given, _others(values.ndim, layout.run), holding.group)
    else:
        rows = _in_rows(given, layout.kept if shared != "tensor" else ())
    symmetric = weights if holding.symmetric is None else holding.symmetric
    scaling = _fitted(rows.rows, form, holding, symmetric, known)
    if not isinstance(form, IntegerFormat):
        return as_is(rows.back(scaling.quantise(rows.rows, holding, seed)).astype(values.dtype, copy=False))
    codes = rows.back(scaling.quantise(rows.rows, holding, seed, np.ones_like(scaling.scales)))
    if shared == "group":
        scale = rows.back(np.broadcast_to(scaling.scales[:, None], rows.rows.shape))
        return Held(values.dtype, Integers.of(codes, scale, rows.rows.shape[1]))
    kept = layout.kept if shared != "tensor" else ()
    shape = [extent if axis in kept else 1 for axis, extent in enumerate(values.shape)]
    return Held(values.dtype, Integers.of(codes, scaling.scales.reshape(shape)))


@dataclass(frozen=True, slots=True)
class Scaling:
    """Scales (rows,) of a format, with zero points (rows,) of integers or boundaries (rows or 1, n) of codebooks."""

    form: Format
    scales: Array
    extra: Array | None = None

    def quantise(self, rows: Array, holding: Holding, seed: int = 0, units: Array | None = None) -> Array:
        """Rows as held; `units` replace the scales in decoding, of integers alone."""
        if isinstance(self.form, IntegerFormat):
            zeros = np.zeros_like(self.scales) if self.extra is None else self.extra
            return integers.quantise_rows(rows, self.scales, zeros, self.form, holding.rounding, seed, units)
        if isinstance(self.form, FloatFormat):
            return floats.quantise_rows(rows, self.scales, self.form, holding.rounding, holding.saturate, seed)
        assert isinstance(self.form, Codebook)
        assert self.extra is not None
        return codebooks.quantise_rows(rows, self.scales, self.extra, self.form, holding.rounding, seed)


def scaling_of(low: Array, high: Array, form: Format, symmetric: bool) -> Scaling:
    """The scaling that spans `low` to `high` (rows,)."""
    if isinstance(form, IntegerFormat):
        return Scaling(form, *integers.scales_of(low, high, form, symmetric))
    largest = np.maximum(np.abs(low), np.abs(high)).astype(np.float32)
    if isinstance(form, Codebook):
        boundaries = np.asarray(form.boundaries, np.float32)[None]
        return Scaling(form, codebooks.scales_of(largest, form), boundaries)
    assert isinstance(form, FloatFormat)
    scales = largest / np.float32(form.largest)
    return Scaling(form, np.where(scales >= np.finfo(np.float32).tiny, scales, np.float32(1)).astype(np.float32))


def _fitted(rows: Array, form: Format, holding: Holding, symmetric: bool, known: Range | None) -> Scaling:
    """The scaling of a calibrated range, or else of the rows themselves."""
    if known is not None:
        low, high = (np.full(len(rows), edge, np.float32) for edge in known)
        return scaling_of(low, high, form, symmetric)
    if isinstance(form, Codebook) and form.fit in ("mean", "ternary"):
        return Scaling(form, *codebooks.fit_rows(rows, form))
    finite = np.where(np.isfinite(rows), rows, np.float32(0))
    low, high = finite.min(axis=1, initial=0), finite.max(axis=1, initial=0)
    if holding.method == "percentile":
        low, high = _percentiles(finite, holding.percentile or PERCENTILE)
    if holding.method == "entropy":
        raise BadParameter("method entropy needs a calibrated range: it holds for static activations alone")
    if holding.method != "mse":
        return scaling_of(low, high, form, symmetric)
    return _least_error(finite, low, high, form, holding, symmetric)


def _percentiles(rows: Array, percentile: float) -> tuple[Array, Array]:
    low, high = np.percentile(rows, [100 - percentile, percentile], axis=1).astype(np.float32)
    return np.minimum(low, 0), np.maximum(high, 0)


def _least_error(rows: Array, low: Array, high: Array, form: Format, holding: Holding, symmetric: bool) -> Scaling:
    """Of some shrunken ranges, for each row the one with the least squared error."""
    best = np.full(len(rows), np.inf)
    factors = np.ones(len(rows), np.float32)
    for shrink in SHRINKS:
        tried = scaling_of(low * np.float32(shrink), high * np.float32(shrink), form, symmetric)
        error = np.square(tried.quantise(rows, holding) - rows).sum(axis=1, dtype=np.float64)
        better = error < best
        best, factors = np.where(better, error, best), np.where(better, np.float32(shrink), factors)
    return scaling_of(low * factors, high * factors, form, symmetric)
