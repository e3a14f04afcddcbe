"""Blocks of vision networks against numpy: windows, shifts, position biases, pooling, and attention built of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import BadParameter
from tests.block_case import run_block
from tests.workload_case import Array, reduced, run_here, run_onnxruntime
from workloads import build
from workloads.blocks.convolution import adaptive_average_pool
from workloads.blocks.window import partition, relative_bias, unpartition
from workloads.builder import Value

RANDOM = np.random.default_rng(0)


def evaluate(block: Callable[..., Value], values: Array) -> Array:
    """What `block` makes of `values`, the same here and in onnxruntime."""
    return run_block(block, values)[0]


def normal(*shape: int) -> Array:
    return RANDOM.standard_normal(shape, dtype=np.float32)


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 3), columns=st.integers(1, 3), height=st.integers(1, 4), width=st.integers(1, 4),
    interval=st.integers(1, 3),
)  # fmt: skip
def test_windows_put_together_are_the_grid(rows: int, columns: int, height: int, width: int, interval: int) -> None:
    window, extents = (height, width), (rows * height * interval, columns * width * interval)
    grid = normal(2, *extents, 3)
    found = evaluate(lambda g, v: unpartition(g, partition(g, v, window, interval), extents, window, interval), grid)
    np.testing.assert_array_equal(found, grid)


@pytest.mark.parametrize("interval", [1, 2])
def test_windows_hold_tokens_an_interval_apart(interval: int) -> None:
    grid = normal(1, 12, 6, 2)
    windows = evaluate(lambda g, v: partition(g, v, (3, 3), interval), grid)
    span = 3 * interval
    expected = [
        grid[0, row + i : row + span : interval, column + j : column + span : interval]
        for row in range(0, 12, span)
        for column in range(0, 6, span)
        for i in range(interval)
        for j in range(interval)
    ]
    np.testing.assert_array_equal(windows, np.stack(expected).reshape(8, 9, 2))


def test_relative_bias_depends_on_the_offset_alone() -> None:
    bias = evaluate(lambda g, v: g.add(relative_bias(g, 2, (3, 4)), v), np.zeros(1, "f4"))
    places = [(r, c) for r in range(3) for c in range(4)]
    values: dict[tuple[int, int], Array] = {}
    for i, (r, c) in enumerate(places):
        for j, (s, d) in enumerate(places):
            known = values.setdefault((r - s, c - d), bias[:, i, j])
            np.testing.assert_array_equal(known, bias[:, i, j])
    assert len(np.unique(np.stack(list(values.values())), axis=0)) == len(values) == 5 * 7


@pytest.mark.parametrize(("extent", "count"), [(6, 3), (7, 3), (8, 3), (9, 3), (4, 3)])
def test_adaptive_windows_cover_the_image_as_torch_has_them(extent: int, count: int) -> None:
    image = normal(2, 3, extent, extent)
    bounds = [(i * extent // count, -(-(i + 1) * extent // count)) for i in range(count)]
    expected = np.stack([[image[:, :, a:b, c:d].mean((2, 3)) for c, d in bounds] for a, b in bounds])
    found = evaluate(lambda g, v: adaptive_average_pool(g, v, (count, count)), image)
    np.testing.assert_allclose(found, expected.transpose(2, 3, 0, 1), rtol=1e-5, atol=1e-6)


def test_a_shifted_block_of_swin_sees_its_own_neighbours_only() -> None:
    """A pixel changed in one corner reaches, through a plain and a shifted window, no further than those windows."""
    model = reduced("swin_t", batch=1, depths=(2,))
    del model.graph.output[:]
    name = "stage0/block1/residual2"
    model.graph.output.extend(value for value in model.graph.value_info if value.name == name)
    image = normal(1, 3, 64, 64)
    changed = image.copy()
    changed[:, :, :4, :4] += 1
    first, second = (run_onnxruntime(model, {"pixels": pixels})[name][0] for pixels in (image, changed))
    reached = np.argwhere(np.abs(first - second).max(-1) > 1e-6)
    # The window of tokens 0 to 3, then those that share a shifted window with them: 0 and 1, or 2 to 5.
    assert reached.max() == 5
    ours = run_here(model, {"pixels": image})[name][0]
    np.testing.assert_allclose(ours, first, atol=1e-4 * np.abs(first).max())


def test_an_image_that_windows_do_not_fill_is_refused() -> None:
    with pytest.raises(BadParameter, match="windows of 7 do not fill a stage's grid of 64x64"):
        build("swin_t", bind={"image": 256})
