"""Ranges chosen from histograms, against onnxruntime's calibrators and searches written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from codesign.numerics import Policy, calibrate
from codesign.numerics.calibration import Seen, range_of
from codesign.numerics.policy import Calibration, Holding
from tests.test_numerics_arithmetic import graph_of, helper

Array = np.ndarray[Any, Any]


def seen(values: Array, mask_beyond: float = 1e30) -> Seen:
    found = Seen()
    for part in np.array_split(values, 3):
        found.widen(part, mask_beyond)
    for part in np.array_split(values, 3):
        found.count(part)
    return found


def heavy_tailed() -> Array:
    return np.random.default_rng(0).standard_t(3, 200_000).astype(np.float32)


def chosen(values: Array, form: str = "int8", **calibration: Any) -> tuple[float, float]:
    return range_of(seen(values), Holding(format=form), Calibration(**calibration))


def test_minmax_is_the_range_with_zero_inside() -> None:
    values = np.array([0.5, 3.0, 2.0], np.float32)
    assert chosen(values) == (0.0, 3.0)
    assert chosen(-values) == (-3.0, 0.0)


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_percentile_leaves_that_share_inside(percentile: float) -> None:
    values = heavy_tailed()
    low, high = chosen(values, method="percentile", percentile=percentile)
    width = 2 * np.abs(values).max() / 2048
    outside = (100 - percentile) / 2
    exact = np.percentile(values, [outside, 100 - outside])
    assert abs(low - exact[0]) <= width
    assert abs(high - exact[1]) <= width


def test_percentile_agrees_with_onnxruntime() -> None:
    calibrate_module = pytest.importorskip("onnxruntime.quantization.calibrate")
    values = heavy_tailed()
    collector = calibrate_module.HistogramCollector("percentile", False, 2048, 128, 99.9, "same")
    collector.collect({"x": [values]})
    low, high = (float(edge) for edge in collector.compute_collection_result()["x"][:2])
    found = chosen(values, method="percentile", percentile=99.9)
    width = 2 * np.abs(values).max() / 2048
    assert abs(found[0] - low) <= 2 * width
    assert abs(found[1] - high) <= 2 * width


def divergence(magnitudes: Array, kept: int) -> float:
    """The loop of Migacz 2017, "8-bit Inference with TensorRT", page 38, bin by bin."""
    reference = [float(count) for count in magnitudes[:kept]]
    reference[-1] += float(magnitudes[kept:].sum())
    quantised = [0.0] * kept
    for level in range(128):
        places = [place for place in range(kept) if place * 128 // kept == level]
        used = [place for place in places if magnitudes[place] > 0]
        for place in used:
            quantised[place] = float(magnitudes[places].sum()) / len(used)
    total, other = sum(reference), sum(quantised)
    pairs = [(p / total, q / other) for p, q in zip(reference, quantised, strict=True) if p > 0]
    return sum(p * np.log(p / (q or 1e-9)) for p, q in pairs)


def test_entropy_clips_where_the_published_loop_does() -> None:
    values = heavy_tailed()[:20_000]
    edge = float(np.abs(values).max())
    magnitudes = np.histogram(np.abs(values), 1024, (0, edge))[0]
    divergences = {kept: divergence(magnitudes, kept) for kept in range(128, 1025, 8)}
    best = min(divergences, key=lambda kept: divergences[kept])
    low, high = chosen(values, method="entropy")
    assert 128 < best < 900
    assert high == pytest.approx(edge * best / 1024, rel=1e-6)
    assert low == -high


@pytest.mark.parametrize("form", ["int8", "int4", "fp8-e4m3"])
def test_mse_has_the_least_error_of_all_shrunken_ranges(form: str) -> None:
    from codesign.numerics.holding import SHRINKS, scaling_of

    values = heavy_tailed()
    low, high = chosen(values, form, method="mse")
    holding = Holding(format=form)

    def error(shrink: float) -> float:
        edges = (np.array([edge * shrink], np.float32) for edge in (values.min(), values.max()))
        assert holding.form is not None
        held = scaling_of(*edges, holding.form, False).quantise(values[None], holding)
        return float(np.square(held - values).mean(dtype=np.float64))

    errors = {shrink: error(shrink) for shrink in SHRINKS}
    found = high / values.max()
    assert low / values.min() == pytest.approx(found)
    assert error(found) <= 1.02 * min(errors.values())
    assert form == "fp8-e4m3" or error(found) < 0.9 * errors[1.0]


def test_masks_widen_no_range() -> None:
    values = np.array([-1.0, 2.0, -1e4, np.finfo(np.float32).min, -np.inf, np.nan, 2e4], np.float32)
    found = seen(values, Calibration().mask_beyond)
    assert (found.low, found.high) == (-1.0, 2e4)


def test_ranges_are_those_of_static_tensors_alone() -> None:
    x = np.linspace(-1, 3, 12, dtype=np.float32).reshape(3, 4)
    graph = graph_of(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        {"x": x}, {"w": np.eye(4, dtype=np.float32)},
    )  # fmt: skip
    rules = [{"classes": ["contraction"], "weights": "int8", "activations": "int8", "output": "int8"}]
    ranges = calibrate(graph, Policy.model_validate({"rules": rules}), [{"x": x}, {"x": 2 * x}])
    assert ranges == {"x": (-2.0, 6.0), "h": (-2.0, 6.0)}
    rules[0].update(activations={"format": "int8", "range": "dynamic"}, output={"format": "int8", "scale": "token"})  # type: ignore[dict-item]
    assert calibrate(graph, Policy.model_validate({"rules": rules}), [{"x": x}]) == {}
