"""SLAB: normalisation that is gone after folding, and linear attention in both orders of its products."""

from __future__ import annotations

import numpy as np
import pytest

import codesign
import workloads
from codesign.executor import Executor
from codesign.frontend import from_proto
from codesign.transforms import optimise
from codesign.transforms.channel_affine import fold_channel_affine
from codesign.transforms.dead_code import remove_dead_code
from tests.block_case import run_block
from tests.transform_case import Build, keeps_values, kinds
from tests.workload_case import random_inputs, reduced, session_of
from workloads.slab import simplified_linear_attention

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("name", ["prepbn_hosts", "slab_hosts", "slab_llama_350m"])
def test_folding_leaves_no_normalisation_and_the_same_answer(name: str) -> None:
    model = reduced(name)
    graph, inputs = from_proto(model), random_inputs(session_of(model))
    folded = optimise(graph)
    assert not {"BatchNormalization", "LayerNormalization"} & kinds(folded).keys()
    before, after = (Executor(one).run(inputs) for one in (graph, folded))
    for output, expected in before.items():
        assert np.abs(after[output] - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("device", ["h200", "ethos-u65-256", "host"])
def test_a_folded_norm_takes_less_time_than_a_layer_norm(device: str) -> None:
    chosen = codesign.device(device)
    host, foldable = (codesign.simulate(codesign.load(f"zoo:{n}"), chosen) for n in ("host_reference", "prepbn_hosts"))
    assert foldable.latency_s < host.latency_s


@pytest.mark.parametrize("side", [2, 5])
def test_linear_attention_is_its_definition_whichever_product_comes_first(side: int) -> None:
    """Tokens fewer and more than the head's size; the convolution beside it is subtracted by zero values elsewhere."""
    tokens = RANDOM.standard_normal((1, 1 + side * side, 12), dtype=np.float32)
    [found] = run_block(lambda graph, value: simplified_linear_attention(graph, value, 2, side), tokens)
    assert found.shape == tokens.shape
    again = np.concatenate([tokens, tokens])
    [twice] = run_block(lambda graph, value: simplified_linear_attention(graph, value, 2, side), again)
    np.testing.assert_allclose(twice[1], found[0], atol=1e-5)


def rows(build: Build, share: bool) -> tuple[str, str]:
    """Rows and their normalisation, with a part of themselves added if `share`."""
    x = build.op("Tanh", build.input(6, 4))
    variance = build.constant(RANDOM.random(4) + 0.5, parameter=True)
    normal = build.op("BatchNormalization", x, *(build.parameter(4) for _ in range(3)), variance)
    return x, build.op("Add", normal, build.op("Mul", x, build.constant(0.7))) if share else normal


@pytest.mark.parametrize("share", [False, True])
def test_normalised_rows_fold_into_all_products_that_read_them(share: bool) -> None:
    build = Build()
    _, normal = rows(build, share)
    viewed = build.reshape(normal, 2, 3, 4)
    results = [build.op("MatMul", viewed, build.parameter(4, width)) for width in (5, 3)]
    results += [build.op("Gemm", normal, build.parameter(2, 4), build.parameter(2), transB=1)]
    found = keeps_values(build.graph(*results), lambda graph: remove_dead_code(fold_channel_affine(graph)))
    assert kinds(found) == {"Tanh": 1, "Reshape": 2, "MatMul": 2, "Gemm": 1, "Add": 3}


def test_rows_that_something_else_reads_stay() -> None:
    build = Build()
    _, normal = rows(build, True)
    graph = build.graph(build.op("MatMul", normal, build.parameter(4, 5)), build.op("Neg", normal))
    assert fold_channel_affine(graph) is graph


def test_linear_attention_costs_less_than_attention() -> None:
    from workloads.counts import count

    assert count("slab_hosts").macs < count("prepbn_hosts").macs
    assert workloads.info("slab_hosts").family == "slab"
