"""Forecasters whose tokens are series: iTransformer and S-Mamba."""

from __future__ import annotations

import numpy as np
import pytest

import workloads
from tests.workload_case import assert_close, outputs_here
from workloads.counts import macs_of, parameters_of

RANDOM = np.random.default_rng(0)
SERIES = RANDOM.standard_normal((2, 24, 7), dtype=np.float32)
CALENDAR = RANDOM.standard_normal((2, 24, 4), dtype=np.float32)


@pytest.mark.parametrize("name", ["itransformer_etth1", "s_mamba_etth1"])
def test_forecast_follows_the_level_and_scale_of_each_series(name: str) -> None:
    scale, level = np.arange(1, 8, dtype=np.float32), np.arange(-3, 4, dtype=np.float32)
    plain = outputs_here(name, {"series": SERIES, "calendar": CALENDAR})
    moved = outputs_here(name, {"series": SERIES * scale + level, "calendar": CALENDAR})
    assert_close(moved, {"forecast": plain["forecast"] * scale + level}, 2e-4)


def test_attention_across_series_does_not_know_their_order() -> None:
    order = RANDOM.permutation(7)
    plain = outputs_here("itransformer_etth1", {"series": SERIES, "calendar": CALENDAR})
    permuted = outputs_here("itransformer_etth1", {"series": SERIES[:, :, order], "calendar": CALENDAR})
    assert_close(permuted, {"forecast": plain["forecast"][:, :, order]})


def test_scans_across_series_know_their_order_and_agree_in_both_forms() -> None:
    inputs = {"series": SERIES, "calendar": CALENDAR}
    recurrent, parallel = (outputs_here("s_mamba_etth1", inputs, form=form) for form in ("recurrent", "parallel"))
    assert_close(parallel, recurrent)
    reordered = outputs_here("s_mamba_etth1", {**inputs, "series": SERIES[:, :, ::-1].copy()})
    assert np.abs(reordered["forecast"][:, :, ::-1] - recurrent["forecast"]).max() > 1e-3


def test_parameters_do_not_depend_on_the_series_and_attention_grows_with_their_square() -> None:
    few, many, most = (workloads.build("itransformer_solar", bind={"variates": n}) for n in (100, 200, 300))
    assert parameters_of(few) == parameters_of(many)
    second_difference = macs_of(most) - 2 * macs_of(many) + macs_of(few)
    assert second_difference == 2 * 2 * 512 * 2 * 100**2  # two layers, two products of width 512, 2 x 100^2
    scans = [macs_of(workloads.build("s_mamba_solar", bind={"variates": n})) for n in (100, 200, 300)]
    assert scans[2] - scans[1] == scans[1] - scans[0]
