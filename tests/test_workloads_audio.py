"""Encoders of spectrograms: SSAMBA and SSAST."""

from __future__ import annotations

import numpy as np
import pytest

import workloads
from tests.workload_case import assert_close, outputs_here, shapes_of
from workloads.counts import parameters_of

SPECTROGRAM = np.random.default_rng(0).standard_normal((2, 1, 32, 64), dtype=np.float32)


def test_forms_of_the_bidirectional_scan_agree() -> None:
    found = [outputs_here("ssamba_tiny", {"spectrogram": SPECTROGRAM}, form=form) for form in ("recurrent", "parallel")]
    assert_close(found[1], found[0])


def test_every_token_reaches_every_other_through_the_two_directions() -> None:
    plain = outputs_here("ssamba_tiny", {"spectrogram": SPECTROGRAM}, layers=1)
    first, last = SPECTROGRAM.copy(), SPECTROGRAM.copy()
    first[:, :, 0, 0] += 1
    last[:, :, -1, -1] += 1
    for changed in (first, last):
        found = outputs_here("ssamba_tiny", {"spectrogram": changed}, layers=1)
        assert np.abs(found["features"] - plain["features"]).max() > 1e-6


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("ssast_tiny", 514), ("ssast_base_frame", 514), ("finetune_esc50", 602), ("finetune_audioset", 1214),
     ("finetune_speechcommands", 129)],
)  # fmt: skip
def test_tokens_of_each_setting_are_the_published(name: str, tokens: int) -> None:
    shapes = shapes_of(workloads.build(name))
    assert shapes["embedding/tokens"][1] == tokens


def test_encoders_have_the_parameters_of_the_released_checkpoints_encoders() -> None:
    assert parameters_of(workloads.build("ssast_tiny")) == pytest.approx(5.49e6, rel=1e-3)
    assert parameters_of(workloads.build("ssast_small")) == pytest.approx(21.59e6, rel=1e-3)
