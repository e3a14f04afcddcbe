"""Speech, keyword, separation and light curve networks: transforms invert, memories agree, rates are as published."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import workloads
from codesign.frontend import from_proto
from codesign.graph import Tensor, seeded_weight
from codesign.lower import lower
from codesign.work import Scan
from tests.block_case import run_block
from tests.workload_case import Array, assert_close, outputs_here, shapes_of
from workloads.blocks.spectral import inverse_short_time_fourier, short_time_fourier
from workloads.blocks.speech import relative_shift
from workloads.blocks.spiking import leaky_integrate_and_fire
from workloads.builder import Builder, Value
from workloads.counts import macs_of, parameters_of
from workloads.lmuformer import legendre_matrices
from workloads.mossformer import joint_attention

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def test_spectra_of_a_waveform_are_numpys_and_go_back_to_it() -> None:
    def block(graph: Builder, waves: Value) -> tuple[Value, Value]:
        spectra = short_time_fourier(graph, waves, 32, 16)
        parts = [graph.transpose(graph.take(spectra, part, 3), (0, 2, 1)) for part in (0, 1)]
        return spectra, inverse_short_time_fourier(graph, parts[0], parts[1], 32, 16, 160)

    waves = normal(2, 160)
    spectra, back = run_block(block, waves)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(32) / 32)
    padded = np.pad(waves, ((0, 0), (16, 16)))
    expected = np.fft.rfft(padded[:, 48:80] * window)
    np.testing.assert_allclose(spectra[:, 3, :, 0] + 1j * spectra[:, 3, :, 1], expected, atol=1e-4)
    np.testing.assert_allclose(back, waves, atol=1e-4)


def test_the_memory_reconstructs_what_it_was_shown_by_legendre_polynomials() -> None:
    order, theta = 12, 64.0
    transition, drive = legendre_matrices(order, theta)
    shown = np.sin(np.arange(200) / 11)
    state = np.zeros(order)
    for value in shown:
        state = transition @ state + drive * value
    for delay in (8, 24, 48):
        basis = [np.polynomial.Legendre.basis(n)(2 * delay / theta - 1) for n in range(order)]
        assert state @ basis == pytest.approx(shown[-1 - delay], abs=0.06)


@pytest.mark.parametrize("name", ["lmuformer", "spiking_lmuformer"])
def test_the_memorys_fourier_and_recurrent_forms_agree(name: str) -> None:
    inputs = {"spectrogram": normal(2, 8, 12)}
    found = [outputs_here(name, inputs, form=form) for form in ("parallel", "recurrent")]
    assert_close(found[1], found[0])


def test_neurons_fire_when_charged_and_forget() -> None:
    currents = np.abs(normal(2, 3, 70)) * 1.5
    [spikes] = run_block(partial(leaky_integrate_and_fire, time_axis=2), currents)
    potential = np.zeros((2, 3))
    for frame in range(70):
        potential = potential + (currents[..., frame] - potential) / 2
        fires = potential >= 1
        np.testing.assert_array_equal(spikes[..., frame], fires)
        potential = np.where(fires, 0, potential)
    assert 0.1 < spikes.mean() < 0.9


def test_spiking_layers_take_a_dependent_step_a_frame() -> None:
    works = lower(from_proto(workloads.build("spiking_lmuformer")))
    assert {work.steps for work in works if isinstance(work, Scan)} == {128}


def test_counts_are_the_published_to_the_unit() -> None:
    exact = {"lmuformer": 1621796, "spiking_lmuformer": 1688356, "t2_plasticc": 13390, "t2_plasticc_z": 13454,
             "deftan2_base": 3997988, "deftan2_large": 7712804}  # fmt: skip
    assert {name: parameters_of(workloads.build(name)) for name in exact} == exact
    assert parameters_of(workloads.build("mossformer_l")) == pytest.approx(42.1e6, rel=1e-3)


def test_scores_by_distance_move_to_their_keys() -> None:
    scores = normal(1, 2, 5, 5)
    [found] = run_block(relative_shift, scores)
    for query in range(5):
        for key in range(query + 1):
            np.testing.assert_array_equal(found[..., query, key], scores[..., query, 4 - (query - key)])


def test_half_of_squeezeformers_layers_run_at_half_the_rate_and_a_quarter_of_the_frames_come_out() -> None:
    shapes = shapes_of(workloads.build("squeezeformer_xs"))
    rates = [shapes[f"layer{layer}/norm3/LayerNormalization"][1] for layer in range(16)]
    assert rates == [750] * 7 + [375] * 8 + [750]
    assert shapes["logits"] == (1, 750, 129)


def test_joint_attention_is_exact_in_groups_and_linear_over_all() -> None:
    frames, keys, group = 10, 8, 4
    shared, value = normal(2, frames, keys), normal(2, frames, 6)

    def block(graph: Builder, s: Value, v: Value) -> Value:
        return joint_attention(graph, s, v, group, rotated=4)

    [found] = run_block(block, shared, value)
    angles = np.outer(np.arange(frames), 10_000.0 ** (-np.arange(0, 4, 2) / 4))
    copies = {}
    for role in ("quadratic_query", "linear_query", "quadratic_key", "linear_key"):
        scale, offset = (seeded_weight(Tensor(f"{role}/{part}", (keys,), "float32"), 0) for part in ("scale", "offset"))
        copy = shared * scale + offset
        first, second = copy[..., :2].copy(), copy[..., 2:4].copy()
        copy[..., :2] = first * np.cos(angles) - second * np.sin(angles)
        copy[..., 2:4] = first * np.sin(angles) + second * np.cos(angles)
        copies[role] = copy
    together = np.arange(frames) // group
    scores = copies["quadratic_query"] @ copies["quadratic_key"].transpose(0, 2, 1) / group
    exact = (np.maximum(scores, 0) ** 2 * (together[:, None] == together)) @ value
    linear = copies["linear_query"] @ (copies["linear_key"].transpose(0, 2, 1) @ value) / frames
    np.testing.assert_allclose(found, exact + linear, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "step"), [("mossformer_l", 8 * 256), ("deftan2_base", 256 * 25)])
def test_macs_grow_linearly_with_the_audio(name: str, step: int) -> None:
    macs = [macs_of(workloads.build(name, bind={"samples": 8 * 256 * 8 + 8 + step * n})) for n in (0, 1, 2)]
    assert macs[2] - macs[1] == macs[1] - macs[0]
