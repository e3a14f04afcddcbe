"""RMT: its retention against the definition, and its two forms where they are one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.block_case import run_block
from tests.workload_case import outputs_here
from workloads.builder import Builder, Value
from workloads.rmt import Retention

RANDOM = np.random.default_rng(0)


def retention(height: int, columns: int, axial: bool, value: np.ndarray[Any, Any], heads: int = 2) -> Any:
    """Tokens (1, height x columns, width) through retention over a grid."""

    def block(graph: Builder, tokens: Value) -> tuple[Value]:
        grid = Value("grid", (tokens.shape[0], tokens.shape[2], height, columns))
        return (Retention(graph, grid, heads, 4, axial)(tokens),)

    return run_block(block, value)[0]


@pytest.mark.parametrize(("height", "columns"), [(1, 7), (5, 1)])
def test_on_a_line_attention_along_axes_is_attention_over_the_grid(height: int, columns: int) -> None:
    value = RANDOM.standard_normal((1, height * columns, 16), dtype=np.float32)
    full, axial = (retention(height, columns, form, value) for form in (False, True))
    np.testing.assert_allclose(axial, full, atol=1e-5)


def test_on_a_grid_the_two_differ() -> None:
    value = RANDOM.standard_normal((1, 20, 16), dtype=np.float32)
    full, axial = (retention(4, 5, form, value) for form in (False, True))
    assert np.abs(full - axial).max() > 1e-3


def test_every_pixel_reaches_every_class() -> None:
    pixels = RANDOM.standard_normal((1, 3, 64, 64), dtype=np.float32)
    changed = pixels.copy()
    changed[0, :, 0, 0] += 5
    before, after = (outputs_here("rmt_b", {"pixels": one})["logits"] for one in (pixels, changed))
    assert (np.abs(before - after) > 1e-7).all()
