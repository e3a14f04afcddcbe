"""Clean-up transforms and the pipeline as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.graph import Graph
from codesign.transforms import PIPELINE, optimise
from codesign.transforms.common_subexpressions import merge_common_subexpressions
from codesign.transforms.dead_code import remove_dead_code
from codesign.transforms.identities import remove_identities
from codesign.transforms.views import fold_views
from tests.transform_case import Build, epilogues, keeps_values, kinds


def all_sources(graph: Graph) -> set[str]:
    return {source for op in graph.ops for source in op.sources}


def test_dead_operations_go_and_what_outputs_need_stays() -> None:
    build = Build()
    x = build.input(3, 4)
    used = build.op("Relu", x)
    build.op("Exp", build.op("Tanh", x))
    assert kinds(keeps_values(build.graph(used), remove_dead_code)) == {"Relu": 1}


def test_identities_go_and_their_sources_go_to_the_producer() -> None:
    build = Build()
    relu = build.op("Relu", build.input(3, 4))
    same = build.op("Dropout", build.op("Identity", relu))
    padded = build.op("Pad", same, build.constant([0, 0, 0, 0], np.int64))
    scaled = build.op("Div", build.op("Add", build.constant(0.0), padded), build.constant(1.0))
    result = keeps_values(build.graph(build.op("Exp", build.op("Identity", scaled))), remove_identities)
    assert kinds(result) == {"Relu": 1, "Exp": 1}
    assert all_sources(result) == {op.name for op in build.ops}


def test_identity_that_names_a_graph_output_renames_its_input() -> None:
    build = Build()
    relu = build.op("Relu", build.input(3, 4))
    result = keeps_values(build.graph(build.op("Identity", relu)), remove_identities)
    assert kinds(result) == {"Relu": 1}


def test_identity_between_graph_input_and_output_stays() -> None:
    build = Build()
    result = keeps_values(build.graph(build.op("Identity", build.input(3))), remove_identities)
    assert kinds(result) == {"Identity": 1}


def test_adding_a_zero_that_widens_the_shape_stays() -> None:
    build = Build()
    result = keeps_values(build.graph(build.op("Add", build.input(3), build.constant([[0.0]]))), remove_identities)
    assert kinds(result) == {"Add": 1}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([(12, 128, 64), ("T", 0, 2, 1), (1, 12, 64, 128)], {"Transpose": 1}),
        ([("T", 0, 2, 1, 3), ("T", 0, 2, 1, 3)], {}),
        ([(12, 8192), (1, 12, 128, 64)], {}),
        ([("T", 1, 0, 2, 3)], {"Reshape": 1}),
        ([("T", 0, 2, 1, 3), (1, 128, 768)], {"Transpose": 1, "Reshape": 1}),
        ([(12, 16, 8, 64), ("T", 0, 2, 1, 3)], {"Transpose": 1, "Reshape": 1}),
        ([(12, 16, 8, 64), ("T", 0, 2, 1, 3), (12, 128, 64)], {"Transpose": 1, "Reshape": 2}),
        ([(96, 1024), (96, 16, 64)], {"Reshape": 1}),
        ([(12, 16, 512), ("T", 0, 2, 1), (32, 3072)], {"Transpose": 1, "Reshape": 2}),
    ],
)
def test_chain_of_views_becomes_the_shortest(steps: list[tuple[int | str, ...]], expected: dict[str, int]) -> None:
    build = Build()
    value = build.op("Relu", build.input(1, 12, 128, 64))
    for step in steps:
        if step[0] == "T":
            value = build.op("Transpose", value, perm=tuple(step[1:]))
        else:
            value = build.reshape(value, *(int(extent) for extent in step))
    result = keeps_values(build.graph(build.op("Exp", value)), fold_views, tolerance=0.0)
    assert kinds(result) == {"Relu": 1, "Exp": 1, **expected}
    assert all_sources(result) == {op.name for op in build.ops}


def test_view_that_others_read_or_that_is_an_output_stays() -> None:
    build = Build()
    first = build.op("Transpose", build.op("Relu", build.input(2, 3, 4)), perm=(0, 2, 1))
    second = build.op("Transpose", first, perm=(0, 2, 1))
    result = keeps_values(build.graph(build.op("Exp", second), first), fold_views, tolerance=0.0)
    assert kinds(result) == {"Relu": 1, "Transpose": 2, "Exp": 1}


def test_views_of_constants_are_folded_when_values_are_asked_for() -> None:
    build = Build()
    weight = build.parameter(8, 300)
    product = build.op("MatMul", build.input(5, 300), build.op("Transpose", weight, perm=(1, 0)))
    result = keeps_values(build.graph(product), fold_views)
    assert kinds(result) == {"MatMul": 1}
    folded = result.weights[result.ops[0].inputs[1]]
    assert folded.inline is None
    assert folded.is_parameter
    assert result.parameters == 2400
    assert result.ops[0].sources == ("n1", "n0")


def test_views_of_absent_constants_are_absent() -> None:
    build = Build()
    product = build.op("MatMul", build.input(5, 300), build.op("Transpose", build.absent(8, 300), perm=(1, 0)))
    result = fold_views(build.graph(product))
    assert not result.weights[result.ops[0].inputs[1]].has_value


def test_transposed_constant_that_is_also_read_as_it_is_counts_once() -> None:
    build = Build()
    table = build.parameter(50, 16)
    rows = build.op("Gather", table, build.input(1, 4, dtype="int64"))
    logits = build.op("MatMul", rows, build.op("Transpose", table, perm=(1, 0)))
    result = keeps_values(build.graph(logits), fold_views)
    assert kinds(result) == {"Gather": 1, "MatMul": 1}
    assert result.parameters == 800


def test_equal_operations_merge_and_name_all_their_nodes() -> None:
    build = Build()
    x = build.input(3, 4)
    left = build.op("Mul", build.op("Exp", x), build.constant(2.0))
    right = build.op("Mul", build.op("Exp", x), build.constant(2.0))
    result = keeps_values(build.graph(build.op("Sub", left, right)), merge_common_subexpressions, tolerance=0.0)
    assert kinds(result) == {"Exp": 1, "Mul": 1, "Sub": 1}
    assert result.ops[0].sources == ("n0", "n2")


def test_operations_that_differ_in_an_attribute_or_write_an_output_do_not_merge() -> None:
    build = Build()
    x = build.input(3, 4)
    results = [build.op("Softmax", x, axis=axis) for axis in (0, 1, 1)]
    result = keeps_values(build.graph(*results), merge_common_subexpressions, tolerance=0.0)
    assert kinds(result) == {"Softmax": 3}


def test_random_operations_do_not_merge() -> None:
    build = Build()
    x = build.input(3, 4)
    noise = [build.op("Bernoulli", x) for _ in range(2)]
    assert kinds(merge_common_subexpressions(build.graph(build.op("Sub", *noise))))["Bernoulli"] == 2


def test_graph_without_anything_to_do_is_returned_as_it_is() -> None:
    build = Build()
    graph = build.graph(build.op("MatMul", build.input(3, 4), build.parameter(4, 5)))
    for transform in PIPELINE:
        assert transform(graph) is graph


def test_optimise_fuses_a_layer_into_one_operation() -> None:
    build = Build()
    x = build.input(2, 5, 8)
    product = build.op("MatMul", x, build.parameter(8, 8))
    biased = build.op("Add", product, build.parameter(8))
    gelu = build.op("Mul", biased, build.op("Sigmoid", biased))
    result = keeps_values(build.graph(build.op("Add", x, gelu)), optimise)
    assert epilogues(result) == {"MatMul": ["Add", "Swish", "Add"]}
    assert result.ops[0].sources == tuple(op.name for op in build.ops)
