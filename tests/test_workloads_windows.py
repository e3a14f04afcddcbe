"""Windows of images and of volumes: cut and put together, rolled, masked, and told apart by their offsets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import workloads
from codesign.frontend import from_proto
from codesign.lower import values_of
from codesign.memory import live_bytes
from codesign.transforms import optimise
from tests.block_case import run_block
from tests.workload_case import outputs_here
from workloads.blocks.window import gather_offsets, partition, roll, shifted_window_mask, unpartition
from workloads.builder import Builder, Value

RANDOM = np.random.default_rng(0)
GRIDS = [((6, 4), (3, 2)), ((4, 6, 2), (2, 3, 2)), ((8,), (4,))]


@pytest.mark.parametrize(("extents", "window"), GRIDS)
@pytest.mark.parametrize("interval", [1, 2])
def test_windows_hold_their_tokens_and_give_the_grid_back(
    extents: tuple[int, ...], window: tuple[int, ...], interval: int
) -> None:
    extents = tuple(extent * interval for extent in extents)
    grid = RANDOM.standard_normal((2, *extents, 3), dtype=np.float32)

    def block(graph: Builder, value: Value) -> tuple[Value, Value]:
        windows = partition(graph, value, window, interval)
        return windows, unpartition(graph, windows, extents, window, interval)

    windows, back = run_block(block, grid)
    np.testing.assert_array_equal(back, grid)
    first = grid[(0, *(slice(0, size * interval, interval) for size in window))]
    np.testing.assert_array_equal(windows[0], first.reshape(-1, 3))


@pytest.mark.parametrize(("extents", "window"), GRIDS)
@pytest.mark.parametrize("shift", [-2, -1, 0, 3])
def test_rolling_is_numpys(extents: tuple[int, ...], window: tuple[int, ...], shift: int) -> None:
    grid = RANDOM.standard_normal((2, *extents, 3), dtype=np.float32)
    [found] = run_block(lambda graph, value: roll(graph, value, shift, "roll"), grid)
    np.testing.assert_array_equal(found, np.roll(grid, [shift] * len(extents), range(1, 1 + len(extents))))


@pytest.mark.parametrize(("extents", "window"), [((6, 4), (3, 2)), ((4, 6, 4), (2, 3, 2))])
def test_the_mask_hides_tokens_that_were_not_neighbours_before_the_roll(
    extents: tuple[int, ...], window: tuple[int, ...]
) -> None:
    """Tokens of a window were neighbours when their places in the unrolled grid differ as their places in it do."""
    zero = np.zeros(1, np.float32)
    [mask] = run_block(
        lambda graph, value: graph.add(shifted_window_mask(graph, extents, window, 1), value), zero
    )
    counts = [extent // size for extent, size in zip(extents, window, strict=True)]
    places = [np.array(place) for place in itertools.product(*map(range, window))]
    for number, corner in enumerate(itertools.product(*map(range, counts))):
        came_from = [(np.array(corner) * window + place + 1) % extents for place in places]
        for one, other in itertools.product(range(len(places)), repeat=2):
            together = np.array_equal(came_from[one] - came_from[other], places[one] - places[other])
            assert mask[number, 0, one, other] == (0 if together else -100)


@pytest.mark.parametrize("window", [(3, 2), (2, 3, 2), (4,)])
def test_each_offset_between_two_tokens_has_one_row_of_the_table(window: tuple[int, ...]) -> None:
    rows = int(np.prod([2 * size - 1 for size in window]))
    table = np.arange(rows, dtype=np.float32)[:, None]
    [bias] = run_block(lambda graph, value: gather_offsets(graph, value, window), table)
    places = [np.array(place) for place in itertools.product(*map(range, window))]
    rows_of: dict[tuple[int, ...], set[float]] = {}
    for one, other in itertools.product(range(len(places)), repeat=2):
        rows_of.setdefault(tuple(places[one] - places[other]), set()).add(float(bias[0, one, other]))
    assert all(len(found) == 1 for found in rows_of.values())
    assert set().union(*rows_of.values()) == set(table.ravel().tolist())


def test_a_volume_is_segmented_voxel_by_voxel() -> None:
    volume = RANDOM.standard_normal((1, 2, 32, 32, 32), dtype=np.float32)
    assert outputs_here("swin_unetr_48", {"volume": volume})["logits"].shape == (1, 3, 32, 32, 32)


def test_scores_of_windows_of_volumes_are_the_peak_of_memory_until_attention_is_fused() -> None:
    """A thousand windows of 343 tokens, three heads: 1.4 GB, alive twice as they are masked and normalised."""
    graph = from_proto(workloads.build("swin_unetr_48"))
    fused = optimise(graph)
    scores, decoder = 1000 * 3 * 343**2 * 4, 48 * 128**3 * 4
    peaks = [max(live_bytes(one, values_of(one))) for one in (graph, fused)]
    assert 2 * scores <= peaks[0]
    assert 2 * decoder <= peaks[1] < peaks[0]
