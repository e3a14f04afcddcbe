"""SparseFormer: what depends on the image's size, and points inside boxes against bilinear interpolation."""

from __future__ import annotations

import numpy as np
import pytest

import workloads
from tests.block_case import run_block
from tests.workload_case import macs_by_onnx_shapes, shapes_of
from workloads.blocks.regions import sampled_points
from workloads.builder import Builder, Value

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(("name", "tokens"), [("tiny", 49), ("small", 64), ("base", 81)])
def test_transformers_run_on_a_few_tokens(name: str, tokens: int) -> None:
    shapes = shapes_of(workloads.build(f"sparseformer_v1_{name}"))
    assert shapes["lift/Add"][1] == tokens


def test_a_larger_image_costs_more_in_the_early_convolution_alone() -> None:
    small, large = (macs_by_onnx_shapes(workloads.build("sparseformer_v1_tiny", bind={"image": i})) for i in (224, 448))
    assert large - small == 3 * 112**2 * 96 * 3 * 49


def test_focusing_four_times_has_one_set_of_weights() -> None:
    model = workloads.build("sparseformer_v1_tiny")
    names = [tensor.name for tensor in model.graph.initializer]
    assert not [name for name in names if name.startswith(("focus1", "focus2", "focus3"))]
    assert [name for name in names if name.startswith("focus0")]


def test_points_fill_their_box_and_are_read_between_pixels() -> None:
    """A map whose value is its row, and one whose value is its column, tell where each point lies."""
    extent = 8
    rows, columns = np.meshgrid(np.arange(extent), np.arange(extent), indexing="ij")
    ramps = np.stack([columns, rows])[None].astype(np.float32)
    tokens = RANDOM.standard_normal((1, 2, 6), dtype=np.float32)
    boxes = np.array([[[0.5, 0.5, 0.25, 0.125], [0.4, 0.6, 0.125, 0.2]]], np.float32)

    def block(graph: Builder, image: Value, latent: Value, box: Value) -> Value:
        return sampled_points(graph, image, latent, box, 5)

    [found] = run_block(block, ramps, tokens, boxes)
    places = (found + 0.5) / extent
    np.testing.assert_allclose(places.mean(axis=2), boxes[..., :2], atol=1e-4)
    np.testing.assert_allclose(places.std(axis=2), boxes[..., 2:] / 2, rtol=1e-3)
