"""FcaFormer: tokens that blocks leave behind, who reads them, and how they grow."""

from __future__ import annotations

import numpy as np

import workloads
from tests.block_case import run_block
from tests.workload_case import shapes_of
from workloads.builder import Builder, Value
from workloads.fcaformer import forward_cross_attention

RANDOM = np.random.default_rng(0)


def test_a_block_attends_to_what_all_before_it_in_its_stage_left_behind() -> None:
    shapes = shapes_of(workloads.build("fcaformer_l2"))
    for block in range(7):
        assert shapes[f"stage2/block{block}/attention/key_transposed"][-1] == 14 * 14 + 16 * block


def test_tokens_left_behind_wait_for_the_last_block_of_their_stage() -> None:
    """So the bytes kept between two blocks grow by the same amount with each block."""
    model = workloads.build("fcaformer_l3")
    nodes = {node.name: node for node in model.graph.node}
    waiting = list(nodes["stage2/block11/attention/kept"].input)
    assert [name.split("/")[1] for name in waiting] == [f"block{block}" for block in range(11)]
    assert {shapes_of(model)[name] for name in waiting} == {(1, 16, 320)}


def test_the_result_depends_on_the_tokens_kept() -> None:
    tokens, one, two = (RANDOM.standard_normal((1, count, 8), dtype=np.float32) for count in (6, 2, 2))

    def block(graph: Builder, *values: Value) -> Value:
        return forward_cross_attention(graph, values[0], values[1:], 2, (2, 3))

    given = ((tokens, one, two), (tokens, one, one), (tokens,))
    [both], [other], [alone] = (run_block(block, *inputs) for inputs in given)
    assert np.abs(both - other).max() > 1e-4
    assert np.abs(both - alone).max() > 1e-4
