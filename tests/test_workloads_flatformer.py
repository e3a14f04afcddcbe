"""FlatFormer: pillars in the order of windows and back, and what groups of equal size save."""

from __future__ import annotations

import numpy as np
import pytest

from tests.block_case import run_block
from workloads.builder import Builder, Value
from workloads.flatformer import largest, scattered, window_order

RANDOM = np.random.default_rng(0)


def some_places(pillars: int, grid: int) -> np.ndarray:  # type: ignore[type-arg]
    cells = RANDOM.choice(grid * grid, pillars, replace=False)
    return np.stack([cells // grid, cells % grid], axis=1)[None]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shift", [0, 2])
def test_pillars_stand_window_by_window_and_forth_and_back_within(axis: int, shift: int) -> None:
    places, window = some_places(60, 16), 5
    [order] = run_block(lambda graph, value: window_order(graph, value, window, shift, axis, 16), places)
    assert sorted(order[0]) == list(range(60))
    moved = places[0][order[0]] + shift
    windows = [tuple(place) for place in (moved // window)[:, [axis, 1 - axis]]]
    assert windows == sorted(windows)
    for one in set(windows):
        inside = moved[[other == one for other in windows]] % window
        lines, along = inside[:, axis], inside[:, 1 - axis]
        assert list(lines) == sorted(lines)
        for line in set(lines):
            steps = np.diff(along[lines == line])
            assert (steps < 0).all() if line % 2 else (steps > 0).all()


def test_sorting_and_its_reverse_are_exact() -> None:
    places, features = some_places(60, 16), RANDOM.standard_normal((1, 60, 4), dtype=np.float32)

    def block(graph: Builder, where: Value, value: Value) -> Value:
        order = window_order(graph, where, 5, 0, 0, 16)
        return graph.scatter_rows(graph.gather_rows(value, order), order)

    np.testing.assert_array_equal(run_block(block, places, features)[0], features)


def test_the_largest_of_a_pillars_points_and_the_canvas_are_numpys() -> None:
    values, owner = RANDOM.random((1, 20, 3), dtype=np.float32), RANDOM.integers(0, 7, (1, 20))
    [found] = run_block(lambda graph, value, index: largest(graph, value, index, 7), values, owner)
    expected = np.zeros((7, 3), np.float32)
    np.maximum.at(expected, owner[0], values[0])
    np.testing.assert_array_equal(found[0], expected)
    places = some_places(7, 5)
    [canvas] = run_block(lambda graph, value, where: scattered(graph, value, where, 5), found, places)
    image = np.zeros((3, 5, 5), np.float32)
    image[:, places[0, :, 0], places[0, :, 1]] = expected.T
    np.testing.assert_array_equal(canvas[0], image)


def test_groups_of_equal_size_waste_less_than_a_hundredth_where_windows_waste_most() -> None:
    """Pillars as dense as a lidar's returns, falling with the distance: attention over windows padded to the fullest of
    their class (30, 60 or 100 pillars and more, as SST batches them) against groups of 144."""
    rows, columns = np.meshgrid(np.arange(468), np.arange(468), indexing="ij")
    distance = np.hypot(rows - 234, columns - 234)
    filled = RANDOM.random((468, 468)) < np.clip(40 / (distance + 20), 0, 0.9)
    pillars = int(filled.sum())
    counts = filled[:468, :468].reshape(36, 13, 36, 13).sum(axis=(1, 3)).ravel()
    limits = np.array([30, 60, 100, 169])
    padded = limits[np.searchsorted(limits, counts[counts > 0])].sum()
    groups = -(-pillars // 144) * 144
    assert 20_000 < pillars < 60_000
    assert groups / pillars - 1 < 0.01
    assert padded / pillars - 1 > 0.2
