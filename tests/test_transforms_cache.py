"""Caches of keys and values: concatenations that attention makes itself, and the memory that holds them once."""

from __future__ import annotations

import pytest

from codesign.executor import Executor, random_inputs
from codesign.graph import Graph
from codesign.lower import lower, values_of
from codesign.memory import live_bytes
from codesign.model import load
from codesign.transforms import optimise
from codesign.transforms.cache import append_to_caches
from codesign.work import Attention
from tests.transform_case import Build, keeps_values, kinds

BATCH, HEADS, PAST, NEW, WIDTH = 2, 3, 5, 1, 4


def decode_step(axis: int = 2, read_again: bool = False, causal: int = 0) -> tuple[Build, Graph]:
    """Attention over a past that is an input, concatenated with the step's own keys and values."""
    build = Build()
    past = [build.input(BATCH, HEADS, PAST, WIDTH) for _ in range(2)]
    query, *new = (build.op("Tanh", build.input(BATCH, HEADS, NEW, WIDTH)) for _ in range(3))
    present = [build.op("Concat", old, one, axis=axis) for old, one in zip(past, new, strict=True)]
    result = build.op("Attention", query, *present, is_causal=causal)
    extra = [build.op("Neg", present[0])] if read_again else []
    return build, build.graph(result, *present, *extra)


@pytest.mark.parametrize("axis", [2, -2])
def test_concatenations_with_a_cache_become_part_of_attention(axis: int) -> None:
    _, graph = decode_step(axis)
    result = keeps_values(graph, append_to_caches)
    assert kinds(result) == {"Tanh": 3, "Attention": 1}
    assert {"n3", "n4", "n5"} <= set(result.ops[-1].sources)


@pytest.mark.parametrize("changed", [{"read_again": True}, {"causal": 1}])
def test_a_cache_that_others_read_or_a_mask_aligned_otherwise_stays(changed: dict[str, int]) -> None:
    _, graph = decode_step(**changed)  # type: ignore[arg-type]
    assert append_to_caches(graph) is graph


def test_attention_stores_only_the_new_keys_and_values() -> None:
    _, graph = decode_step()
    work = next(work for work in lower(append_to_caches(graph)) if isinstance(work, Attention))
    cache, appended = BATCH * HEADS * PAST * WIDTH, BATCH * HEADS * NEW * WIDTH
    assert [operand.elements for operand in work.reads[-2:]] == [cache, cache]
    assert [operand.elements for operand in work.writes[1:]] == [appended, appended]
    assert work.kv_length == PAST + NEW


def test_a_cache_that_grows_in_place_is_held_once() -> None:
    _, graph = decode_step()
    fused = append_to_caches(graph)
    cache, new, query = (4 * BATCH * HEADS * length * WIDTH for length in (PAST, NEW, NEW))
    while_attending = live_bytes(fused, values_of(fused))[-1]
    assert while_attending == 2 * (cache + new) + 2 * new + 2 * query  # caches; new keys and values; query and result
    assert while_attending < max(live_bytes(graph, values_of(graph)))


def test_a_decode_step_of_a_zoo_network_computes_the_same_with_its_caches_in_place() -> None:
    graph = load("zoo:gpt2_small_decode", bind={"past": 7})
    inputs = random_inputs(graph, seed=0)
    before, after = (Executor(one, seed_weights=0).run(inputs) for one in (graph, optimise(graph)))
    for name, expected in before.items():
        assert after[name] == pytest.approx(expected, abs=1e-4)
