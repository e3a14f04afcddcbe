"""Networks that mix in the frequency domain: their transforms against numpy's, their filter against a convolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import workloads
from tests.block_case import run_block
from tests.workload_case import macs_by_onnx_shapes
from workloads.blocks.frequency import inverse_real_transform, real_transform, spectral_gate
from workloads.blocks.wavelet import image_of_bands, wavelet_bands
from workloads.builder import Builder, Value
from workloads.counts import parameters_of
from workloads.storage import materialise

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("extents", [(6, 8), (7, 4), (1, 2)])
def test_the_spectrum_is_numpys_and_its_inverse_gives_the_grid_back(extents: tuple[int, int]) -> None:
    grid = RANDOM.standard_normal((2, *extents, 3), dtype=np.float32)

    def block(graph: Builder, value: Value) -> tuple[Value, Value]:
        spectrum = real_transform(graph, value)
        return spectrum, inverse_real_transform(graph, spectrum, extents[1])

    spectrum, back = run_block(block, grid)
    expected = np.fft.rfft2(grid, axes=(1, 2))
    np.testing.assert_allclose(spectrum[..., 0] + 1j * spectrum[..., 1], expected, atol=1e-4)
    np.testing.assert_allclose(back, grid, atol=1e-5)


def test_the_gate_is_a_circular_convolution_with_its_inverse_transform() -> None:
    height, width, channels = 5, 6, 2
    grid = RANDOM.standard_normal((1, height, width, channels), dtype=np.float32)
    graph = Builder("gate")
    graph.output(spectral_gate(graph, graph.input("grid", grid.shape)), "filtered")
    [weight] = (tensor for tensor in materialise(graph.model(), seed=0).graph.initializer if "filter" in tensor.name)
    gate = np.frombuffer(weight.raw_data, np.float32).reshape(height, width // 2 + 1, channels, 2)
    [filtered] = run_block(lambda graph, value: spectral_gate(graph, value), grid)
    kernel = np.fft.irfft2(gate[..., 0] + 1j * gate[..., 1], (height, width), axes=(0, 1))
    expected = np.zeros_like(grid)
    for down in range(height):
        for across in range(width):
            expected += kernel[down, across] * np.roll(grid, (down, across), (1, 2))
    np.testing.assert_allclose(filtered, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("spectformer_h_s", 22_226_928), ("spectformer_h_b", 33_052_880), ("spectformer_h_l", 54_675_792)],
)
def test_hierarchical_forms_have_the_parameters_of_their_layers_shapes(name: str, parameters: int) -> None:
    assert parameters_of(workloads.build(name)) == parameters


def test_published_macs_of_the_hierarchical_form_are_ours_without_attentions_products() -> None:
    attention = 2 * (6 * 196**2 * 320 + 3 * 49**2 * 448)  # queries with keys, scores with values
    macs = macs_by_onnx_shapes(workloads.build("spectformer_h_s")) - attention
    assert macs == pytest.approx(3.9e9, rel=0.01)


def test_wavelet_bands_are_those_of_the_published_package() -> None:
    """An image, its low band and its bands at 15, 45, 75, 105, 135 and 165 degrees, by dtcwt 0.14.0 (near_sym_b)."""
    with np.load(Path(__file__).parent / "data/dtcwt_near_sym_b.npz") as published:
        image, low, bands = (published[name] for name in ("image", "low", "bands"))
    found = run_block(lambda graph, value: tuple(wavelet_bands(graph, value)), image[None, None])
    np.testing.assert_allclose(found[0][0, 0], low, atol=1e-6)
    np.testing.assert_allclose((found[1] + 1j * found[2])[0, :, 0], bands[[0, 5, 2, 3, 1, 4]], atol=1e-6)


@pytest.mark.parametrize("extents", [(2, 4), (8, 6), (56, 56)])
def test_bands_give_their_image_back(extents: tuple[int, int]) -> None:
    image = RANDOM.standard_normal((2, 3, *extents), dtype=np.float32)
    [back] = run_block(lambda graph, value: image_of_bands(graph, wavelet_bands(graph, value)), image)
    np.testing.assert_allclose(back, image, atol=1e-5)


@pytest.mark.parametrize(("name", "parameters"), [("svt_h_s", 22.05e6), ("svt_h_b", 32.88e6)])
def test_scattering_networks_have_the_parameters_of_their_layers_shapes(name: str, parameters: float) -> None:
    assert parameters_of(workloads.build(name)) == pytest.approx(parameters, rel=1e-3)
