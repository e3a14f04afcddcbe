"""Blocks of the workloads against their definitions in numpy, on the executor and on onnxruntime."""

from __future__ import annotations

import numpy as np

from tests.block_case import run_block
from workloads.builder import Builder, Value

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def test_a_scan_carries_its_states_and_stacks_its_results_along_the_axis_scanned() -> None:
    def block(graph: Builder, value: Value, start: Value) -> tuple[Value, Value]:
        weight = graph.weight("weight", 3, 3)

        def step(states: list[Value], slices: list[Value]) -> tuple[list[Value], list[Value]]:
            after = graph.add(graph.matmul(states[0], weight), slices[0])
            return [after], [after]

        [last], [every] = graph.scan(step, [start], [value], axis=1)
        return last, every

    for length in (5, 80):  # unrolled by the frontend, and kept as a loop
        value, start = normal(2, length, 3) * 0.1, normal(2, 3)
        last, every = run_block(block, value, start)
        assert every.shape == value.shape
        np.testing.assert_array_equal(last, every[:, -1])
        [only_first, _] = run_block(block, value[:, :1], start)
        np.testing.assert_allclose(every[:, 0], only_first, rtol=1e-5)
