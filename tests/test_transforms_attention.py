"""Attention recognised in the forms that exporters write, and grouped heads read once."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from codesign.graph import Graph
from codesign.lower import lower
from codesign.transforms import optimise
from codesign.transforms.attention import fuse_attention
from tests.transform_case import Build, keeps_values, kinds

BATCH, HEADS, LENGTH, DEPTH = 2, 3, 5, 8


def attention_inputs(build: Build, keys: int = LENGTH, heads: int = HEADS) -> tuple[str, str, str]:
    """Query (batch, heads, m, k), key and value (batch, heads, n, k)."""
    query = build.input(BATCH, HEADS, LENGTH, DEPTH)
    return query, build.input(BATCH, heads, keys, DEPTH), build.input(BATCH, heads, keys, DEPTH)


def turned(build: Build, key: str) -> str:
    return str(build.op("Transpose", key, perm=(0, 1, 3, 2)))


def causal(fill: float, length: int = LENGTH) -> np.ndarray:
    return np.triu(np.full((1, 1, length, length), fill, np.float32), 1)


def only_attention(graph: Graph, tolerance: float = 1e-5) -> dict[str, object]:
    """Attributes of the one Attention that everything became."""
    result = keeps_values(graph, optimise, tolerance)
    assert kinds(result) == {"Attention": 1}
    assert sum(work.macs for work in lower(result)) == sum(work.macs for work in lower(graph))
    return dict(result.ops[0].attributes)


Scores = Callable[[Build, str, str], str]


def _scaled_after(build: Build, query: str, key: str) -> str:
    return str(build.op("Mul", build.op("MatMul", query, turned(build, key)), build.constant(0.25)))


def _divided_after(build: Build, query: str, key: str) -> str:
    return str(build.op("Div", build.op("MatMul", query, turned(build, key)), build.constant(4.0)))


def _scaled_query(build: Build, query: str, key: str) -> str:
    return str(build.op("MatMul", build.op("Mul", build.constant(0.25), query), turned(build, key)))


def _root_on_both(build: Build, query: str, key: str) -> str:
    root = build.constant([0.5])
    left, right = build.op("Mul", query, root), build.op("Mul", turned(build, key), root)
    return str(build.op("MatMul", left, right))


def _key_turned_in_three_axes(build: Build, query: str, key: str) -> str:
    flat = build.op("Transpose", build.reshape(key, -1, LENGTH, DEPTH), perm=(0, 2, 1))
    right = build.op("Mul", build.reshape(flat, BATCH, HEADS, DEPTH, LENGTH), build.constant(0.5))
    return str(build.op("MatMul", build.op("Mul", query, build.constant(0.5)), right))


@pytest.mark.parametrize(
    "scores", [_scaled_after, _divided_after, _scaled_query, _root_on_both, _key_turned_in_three_axes]
)
def test_scale_is_found_wherever_it_stands(scores: Scores) -> None:
    build = Build()
    query, key, value = attention_inputs(build)
    result = build.op("MatMul", build.op("Softmax", scores(build, query, key), axis=-1), value)
    assert only_attention(build.graph(result)) == {"scale": pytest.approx(0.25)}


def test_unscaled_attention_has_scale_one_not_the_default() -> None:
    build = Build()
    query, key, value = attention_inputs(build)
    scores = build.op("MatMul", query, turned(build, key))
    assert only_attention(build.graph(build.op("MatMul", build.op("Softmax", scores, axis=3), value))) == {"scale": 1.0}


def test_guard_against_rows_without_keys_is_part_of_attention() -> None:
    build = Build()
    query, key, value = attention_inputs(build)
    soft = build.op("Softmax", _scaled_after(build, query, key), axis=-1)
    guarded = build.op("Where", build.op("IsNaN", soft), build.constant(0.0), soft)
    assert only_attention(build.graph(build.op("MatMul", guarded, value))) == {"scale": 0.25}


def test_added_masks_of_every_rank_are_summed_into_one() -> None:
    build = Build()
    query, key, value = attention_inputs(build)
    scores = build.op("Add", _scaled_after(build, query, key), build.input(HEADS, 1, LENGTH))
    scores = build.op("Add", build.input(BATCH, 1, LENGTH, LENGTH), scores)
    graph = build.graph(build.op("MatMul", build.op("Softmax", scores, axis=-1), value))
    result = keeps_values(graph, optimise)
    assert kinds(result) == {"Add": 1, "Attention": 1}


@pytest.mark.parametrize("fill", [-math.inf, -3.4028234663852886e38, -1e9])
def test_constant_causal_mask_becomes_an_attribute(fill: float) -> None:
    build = Build()
    query, key, value = attention_inputs(build)
    scores = build.op("Add", _scaled_after(build, query, key), build.constant(causal(fill)))
    attributes = only_attention(build.graph(build.op("MatMul", build.op("Softmax", scores, axis=-1), value)))
    assert attributes == {"scale": 0.25, "is_causal": 1}


def test_choice_between_constants_by_a_causal_constant_becomes_an_attribute() -> None:
    build = Build()
    query, key, value = attention_inputs(build)
    visible = build.constant(causal(1.0) == 0, bool)
    mask = build.op("Where", visible, build.constant(0.0), build.constant(-3.4028234663852886e38))
    scores = build.op("Add", _scaled_after(build, query, key), mask)
    attributes = only_attention(build.graph(build.op("MatMul", build.op("Softmax", scores, axis=-1), value)))
    assert attributes == {"scale": 0.25, "is_causal": 1}


def test_selected_scores_with_a_causal_constant_become_an_attribute() -> None:
    build = Build()
    query, key, value = attention_inputs(build)
    visible = build.constant(causal(1.0) == 0, bool)
    scores = build.op("Where", visible, _scaled_after(build, query, key), build.constant(-1e4))
    attributes = only_attention(build.graph(build.op("MatMul", build.op("Softmax", scores, axis=-1), value)))
    assert attributes == {"scale": 0.25, "is_causal": 1}


def test_mask_that_hides_nothing_goes() -> None:
    build = Build()
    query, key, value = attention_inputs(build, keys=9)
    scores = build.op("Add", _scaled_after(build, query, key), build.constant(np.zeros((1, 1, 1, 9))))
    attributes = only_attention(build.graph(build.op("MatMul", build.op("Softmax", scores, axis=-1), value)))
    assert attributes == {"scale": 0.25}


def test_mask_aligned_at_the_end_of_longer_keys_is_not_causal_by_attribute() -> None:
    build = Build()
    query, key, value = attention_inputs(build, keys=9)
    mask = np.triu(np.full((LENGTH, 9), -math.inf, np.float32), 5)
    scores = build.op("Add", _scaled_after(build, query, key), build.constant(mask))
    attributes = only_attention(build.graph(build.op("MatMul", build.op("Softmax", scores, axis=-1), value)))
    assert attributes == {"scale": 0.25}


@pytest.mark.parametrize(("keeps", "fill"), [(True, -math.inf), (False, -math.inf), (True, -1e9), (False, -1e9)])
def test_scores_selected_by_data_keep_their_meaning(keeps: bool, fill: float) -> None:
    build = Build()
    query, key, value = attention_inputs(build)
    padding = np.array([True, True, True, False, False]) == keeps
    condition = build.op("And", build.input(BATCH, 1, 1, LENGTH, dtype="bool"), build.constant([True] * LENGTH, bool))
    condition = build.op("Or" if keeps else "And", condition, build.constant(padding, bool))
    scores, hidden = _scaled_after(build, query, key), build.constant(fill)
    choice = (condition, scores, hidden) if keeps else (condition, hidden, scores)
    soft = build.op("Softmax", build.op("Where", *choice), axis=-1)
    result = keeps_values(build.graph(build.op("MatMul", soft, value)), fuse_attention)
    assert kinds(result)["Attention"] == 1
    assert "Softmax" not in kinds(result)


def test_window_mask_through_a_fifth_axis_is_laid_on_four() -> None:
    images, windows = 2, 4
    build = Build()
    query, key, value = (build.input(images * windows, HEADS, LENGTH, DEPTH) for _ in range(3))
    scores = build.op("Add", _scaled_after(build, query, key), build.parameter(1, HEADS, LENGTH, LENGTH))
    scores = build.reshape(scores, images, windows, HEADS, LENGTH, LENGTH)
    scores = build.op("Add", scores, build.parameter(1, windows, 1, LENGTH, LENGTH))
    scores = build.reshape(scores, images * windows, HEADS, LENGTH, LENGTH)
    result = keeps_values(build.graph(build.op("MatMul", build.op("Softmax", scores, axis=-1), value)), optimise)
    assert kinds(result) == {"Expand": 1, "Reshape": 1, "Add": 1, "Attention": 1}
    mask = result.tensors[result.ops[-1].inputs[3]]
    assert mask.shape == (images * windows, HEADS, LENGTH, LENGTH)


def test_three_axes_are_split_into_batch_and_heads_by_the_mask() -> None:
    build = Build()
    query, key, value = (build.input(BATCH * HEADS, LENGTH, DEPTH) for _ in range(3))
    scores = build.op("MatMul", query, build.op("Transpose", key, perm=(0, 2, 1)))
    scores = build.reshape(scores, BATCH, HEADS, LENGTH, LENGTH)
    scores = build.op("Add", scores, build.input(BATCH, 1, LENGTH, LENGTH))
    scores = build.reshape(scores, BATCH * HEADS, LENGTH, LENGTH)
    graph = build.graph(build.op("MatMul", build.op("Softmax", scores, axis=-1), value))
    result = keeps_values(graph, optimise)
    assert kinds(result) == {"Reshape": 4, "Attention": 1}


def test_three_axes_without_a_mask_are_one_head() -> None:
    build = Build()
    query, key, value = (build.input(4, LENGTH, DEPTH) for _ in range(3))
    scores = build.op("MatMul", query, build.op("Transpose", key, perm=(0, 2, 1)))
    graph = build.graph(build.op("MatMul", build.op("Softmax", scores, axis=-1), value))
    assert kinds(keeps_values(graph, optimise)) == {"Reshape": 4, "Attention": 1}


def test_key_held_transposed_is_turned() -> None:
    build = Build()
    query, _, value = attention_inputs(build)
    scores = build.op("MatMul", query, build.input(BATCH, HEADS, DEPTH, LENGTH))
    graph = build.graph(build.op("MatMul", build.op("Softmax", scores, axis=-1), value))
    assert kinds(keeps_values(graph, optimise)) == {"Transpose": 1, "Attention": 1}


@pytest.mark.parametrize("broken", ["axis", "scale after mask", "probabilities returned", "scores read twice"])
def test_what_is_not_attention_stays(broken: str) -> None:
    build = Build()
    query, key, value = attention_inputs(build)
    scores = _scaled_after(build, query, key)
    outputs = []
    if broken == "scale after mask":
        scores = build.op("Add", scores, build.input(LENGTH, LENGTH))
        scores = build.op("Mul", scores, build.constant(2.0))
    if broken == "scores read twice":
        outputs.append(build.op("Exp", scores))
    soft = build.op("Softmax", scores, axis=2 if broken == "axis" else -1)
    if broken == "probabilities returned":
        outputs.append(soft)
    graph = build.graph(build.op("MatMul", soft, value), *outputs)
    assert fuse_attention(graph) is graph


def test_repeated_key_and_value_heads_are_read_once() -> None:
    build = Build()
    group = 2
    query = build.input(BATCH, 2 * group, LENGTH, DEPTH)
    repeated = []
    for _ in range(2):
        heads = build.op("Unsqueeze", build.input(BATCH, 2, LENGTH, DEPTH), build.constant([2], np.int64))
        copies = build.op("Expand", heads, build.constant([BATCH, 2, group, LENGTH, DEPTH], np.int64))
        repeated.append(build.reshape(copies, BATCH, 2 * group, LENGTH, DEPTH))
    key, value = repeated
    graph = build.graph(build.op("MatMul", build.op("Softmax", _scaled_after(build, query, key), axis=-1), value))
    result = keeps_values(graph, optimise)
    assert kinds(result) == {"Attention": 1}
    assert result.ops[0].inputs == graph.inputs
    assert set(result.ops[0].sources) == {op.name for op in build.ops}


def test_one_head_shared_by_all_is_read_once() -> None:
    build = Build()
    query, key, value = attention_inputs(build, heads=1)
    graph = build.graph(build.op("MatMul", build.op("Softmax", _scaled_after(build, query, key), axis=-1), value))
    assert kinds(keeps_values(graph, optimise)) == {"Attention": 1}


@pytest.mark.parametrize("shape", [(), (1,), (LENGTH,), (LENGTH, 1), (HEADS, 1, 1), (BATCH, 1, LENGTH, 1)])
def test_a_bias_with_fewer_axes_or_one_column_is_laid_on_all_keys(shape):
    build = Build()
    query, key, value = attention_inputs(build)
    scores = build.op("Add", _scaled_after(build, query, key), build.input(*shape))
    graph = build.graph(build.op("MatMul", build.op("Softmax", scores, axis=-1), value))
    assert kinds(keeps_values(graph, optimise))["Attention"] == 1
