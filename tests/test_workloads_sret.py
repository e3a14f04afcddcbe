"""SReT: one set of weights for two runs, and attention in slices against a mask."""

from __future__ import annotations

import zlib
from functools import partial

import numpy as np
import pytest

import workloads
from tests.block_case import run_block
from workloads.blocks.attention import encoder_attention
from workloads.builder import Builder, Value
from workloads.counts import parameters_of
from workloads.sret import sliced_attention

TOKENS = np.random.default_rng(0).standard_normal((2, 12, 8), dtype=np.float32)


def test_both_runs_of_a_block_read_one_set_of_weights_and_layers_between_of_their_own() -> None:
    model = workloads.build("sret_t")
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("stage0/block0/"):
            runs = {reader.split("/")[2] for reader in readers[tensor.name]}
            own = "between" in tensor.name or tensor.name.split("/")[3][-1] == "3" or "norm3" in tensor.name
            assert runs == ({tensor.name.split("/")[2]} if own else {"run0", "run1"}), tensor.name


def test_slicing_and_more_runs_of_attention_cost_no_parameters() -> None:
    assert parameters_of(workloads.build("sret_t")) == parameters_of(workloads.build("sret_t_noslice"))


@pytest.mark.parametrize("shuffled", [False, True])
def test_attention_in_slices_is_attention_under_a_mask(shuffled: bool) -> None:
    count, groups = TOKENS.shape[1], 3
    order = np.random.default_rng(zlib.crc32(b"order")).permutation(count) if shuffled else np.arange(count)
    group = np.empty(count, int)
    group[order] = np.arange(count) // (count // groups)
    mask = np.where(group[:, None] == group, 0, -np.inf).astype(np.float32)

    def masked(graph: Builder, value: Value) -> Value:
        return encoder_attention(graph, value, 2, mask=graph.constant("mask", mask))

    [expected] = run_block(masked, TOKENS)
    [found] = run_block(partial(sliced_attention, heads=2, groups=groups, shuffled=shuffled), TOKENS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_weights_shared_by_name_are_declared_once() -> None:
    graph = Builder("shared")
    for scope in ("a", "b"):
        with graph.scope(scope), graph.sharing("set"):
            weights = [graph.weight(name, 2) for name in ("w", "w", "v")]
    assert [weight.name for weight in weights] == ["a/w", "a/w_1", "a/v"]
    assert graph.weight("w", 2).name == "w"
