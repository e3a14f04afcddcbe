"""The Axial Transformer: what each pixel may see, and what sampling costs in its three parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import workloads
from tests.block_case import run_block
from tests.workload_case import macs_by_onnx_shapes, outputs_here
from workloads.blocks.axial import along
from workloads.builder import Builder, Value

RANDOM = np.random.default_rng(0)
LEVELS = RANDOM.integers(0, 16, (1, 3, 6, 6))


@pytest.mark.parametrize("changed", [(0, 0, 0), (1, 2, 3), (2, 5, 4)])
def test_no_logit_sees_its_own_or_a_later_level(changed: tuple[int, int, int]) -> None:
    """Channels come one after the other, in each its rows, in each its pixels."""
    other = LEVELS.copy()
    other[(0, *changed)] = (other[(0, *changed)] + 7) % 16
    before, after = (outputs_here("imagenet32", {"levels": one})["logits"] for one in (LEVELS, other))
    moved = np.abs(before - after).max(axis=-1)[0].ravel() > 0
    place = int(np.ravel_multi_index(changed, (3, 6, 6)))
    assert not moved[: place + 1].any()
    assert moved[place + 1 :].any()


def macs(part: str, image: int = 32, **changes: Any) -> int:
    return macs_by_onnx_shapes(
        workloads.build("imagenet32", bind={"image": image}, configuration={"part": part, **changes})
    )


def test_attention_of_an_axial_layer_costs_the_cube_of_the_extent() -> None:
    """Products of queries, keys and values: 2 S^3 d for a layer on S x S, against 2 S^4 d over the whole grid."""
    width, layers = 1536, 8
    dense = {image: 6 * image**2 * width**2 * layers for image in (16, 32)}
    products = {image: macs("encoder", image) - dense[image] for image in (16, 32)}
    assert products == {image: layers * 2 * image**3 * width for image in (16, 32)}


def test_sampling_in_three_parts_saves_what_its_counts_of_runs_say() -> None:
    """Stacks of equal depth cost alike on equal grids, and the inner one runs on rows: so of 3 S^2 runs of three stacks
    for each of three channels, sampling leaves 1 + S + S. The embedding's and the logits' products are the rest."""
    image, channels = 32, 3
    parts = channels * (macs("encoder") + image * macs("outer") + image**2 * macs("inner"))
    again = channels * image**2 * macs("whole")
    assert again / parts == pytest.approx(3 * 3 * image**2 / (1 + 2 * image), rel=0.01)


@pytest.mark.parametrize("axis", [1, 2])
def test_mixing_along_an_axis_leaves_the_other_alone(axis: int) -> None:
    grid = RANDOM.standard_normal((2, 3, 4, 5), dtype=np.float32)

    def sums(graph: Builder, value: Value) -> Value:
        return along(graph, value, axis, lambda sequences: graph.cumulative_sum(sequences, 1))

    [found] = run_block(sums, grid)
    np.testing.assert_allclose(found, grid.cumsum(axis), rtol=1e-5, atol=1e-5)
