"""Rotary position embedding recognised in what exporters write."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.transforms.rotary import fuse_rotary_embedding
from tests.transform_case import Build, keeps_values, kinds

BATCH, HEADS, LENGTH, WIDTH = 2, 3, 5, 8


def turned(build: Build, tables: int, doubled: bool = True, swapped: bool = False) -> str:
    """x cos + (-x2, x1) sin with `tables` tables for the images of a batch; `swapped` takes the halves reversed."""
    x = build.op("Tanh", build.input(BATCH, HEADS, LENGTH, WIDTH))
    angles = build.random.standard_normal((tables, 1, LENGTH, WIDTH // 2 if doubled else WIDTH))
    if doubled:
        angles = np.concatenate([angles, angles], axis=-1)
    step, axis = build.constant([1], np.int64), build.constant([3], np.int64)
    halves = []
    for start in (0, WIDTH // 2):
        bounds = (build.constant([start], np.int64), build.constant([start + WIDTH // 2], np.int64))
        halves.append(build.op("Slice", x, *bounds, axis, step))
    first, second = reversed(halves) if swapped else halves
    other = build.op("Concat", build.op("Neg", second), first, axis=-1)
    cosine = build.op("Mul", x, build.constant(np.cos(angles)))
    return str(build.op("Add", cosine, build.op("Mul", other, build.constant(np.sin(angles)))))


@pytest.mark.parametrize("tables", [1, BATCH])
def test_rotation_of_halves_becomes_its_operator(tables: int) -> None:
    build = Build()
    result = keeps_values(build.graph(turned(build, tables)), fuse_rotary_embedding)
    assert kinds(result) == {"Tanh": 1, "RotaryEmbedding": 1}
    assert result.ops[1].sources == tuple(op.name for op in build.ops[1:])


def test_rotation_by_different_angles_or_of_swapped_halves_stays() -> None:
    for changed in ({"doubled": False}, {"swapped": True}):
        build = Build()
        graph = build.graph(turned(build, 1, **changed))
        assert fuse_rotary_embedding(graph) is graph
