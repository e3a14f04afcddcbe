"""Attention moved to the order of tokens, where projections leave their heads side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from codesign.executor import Executor
from codesign.graph import Graph
from codesign.lower import lower
from codesign.transforms.attention_layout import fold_head_transposes
from codesign.transforms.dead_code import remove_dead_code
from codesign.transforms.views import fold_views
from tests.onnx_case import relative_error
from tests.transform_case import Build, keeps_values, kinds, seeded_inputs

BATCH, LENGTH, HEADS, DEPTH = 2, 5, 4, 6
EXCHANGE = (0, 2, 1, 3)


def folded(graph: Graph) -> Graph:
    """The graph in the order of tokens, with views shortened as the pipeline does; values and MACs are kept."""
    result = keeps_values(graph, lambda before: remove_dead_code(fold_views(fold_head_transposes(before))))
    assert sum(work.macs for work in lower(result)) == sum(work.macs for work in lower(graph))
    needed = {source for op in remove_dead_code(graph).ops for source in op.sources}
    assert {source for op in result.ops for source in op.sources} == needed
    return result


def by_heads(build: Build, tokens: str, heads: int = HEADS, width: int = DEPTH) -> str:
    batch, length, _ = build.tensors[tokens].shape
    return str(build.op("Transpose", build.reshape(tokens, batch, length, heads, width), perm=EXCHANGE))


def by_tokens(build: Build, result: str) -> str:
    batch, heads, length, width = build.tensors[result].shape
    return build.reshape(build.op("Transpose", result, perm=EXCHANGE), batch, length, heads * width)


def attend(build: Build, *operands: str, outputs: int = 1, **attributes: Any) -> Any:
    return build.op("Attention", *operands, outputs=outputs, opset=23, **attributes)


def projections(build: Build, kv_heads: int = HEADS, width: int = DEPTH) -> list[str]:
    heads = (HEADS, kv_heads, kv_heads)
    return [build.input(BATCH, LENGTH, count * each) for count, each in zip(heads, (DEPTH, DEPTH, width), strict=True)]


@pytest.mark.parametrize("kv_heads", [HEADS, 2, 1])
def test_split_and_merged_heads_leave_only_attention(kv_heads: int) -> None:
    build = Build()
    query, key, value = projections(build, kv_heads, width=8)
    operands = by_heads(build, query), by_heads(build, key, kv_heads), by_heads(build, value, kv_heads, 8)
    result = folded(build.graph(by_tokens(build, attend(build, *operands, is_causal=1))))
    assert kinds(result) == {"Attention": 1}
    attributes = result.ops[0].attributes
    assert (attributes["q_num_heads"], attributes["kv_num_heads"]) == (HEADS, kv_heads)


def test_mask_past_present_and_scores_keep_their_four_axes() -> None:
    build = Build()
    operands = [by_heads(build, name) for name in projections(build)]
    mask = build.input(BATCH, HEADS, LENGTH, LENGTH + 3)
    past = [build.input(BATCH, HEADS, 3, DEPTH) for _ in range(2)]
    result, *others = attend(build, *operands, mask, *past, outputs=4)
    after = folded(build.graph(by_tokens(build, result), *others))
    assert kinds(after) == {"Attention": 1}
    assert [len(after.tensors[name].shape) for name in after.ops[0].outputs] == [3, 4, 4, 4]


def test_three_axis_form_agrees_with_onnxruntime() -> None:
    build = Build()
    query, key, value = projections(build, kv_heads=2)
    operands = by_heads(build, query), by_heads(build, key, 2), by_heads(build, value, 2)
    graph = build.graph(by_tokens(build, attend(build, *operands)))
    attention = folded(graph).ops[0]
    inputs = seeded_inputs(graph)

    def info(name: str) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, graph.tensors[name].shape)

    node = onnx.helper.make_node("Attention", attention.inputs, attention.outputs, **attention.attributes)
    body = onnx.helper.make_graph([node], "case", [info(name) for name in inputs], [info(graph.outputs[0])])
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, inputs)
    assert relative_error(Executor(graph).run(inputs)[graph.outputs[0]], np.asarray(expected)) < 1e-5


def _slices(build: Build, packed: str, axis: int) -> list[str]:
    def cut(index: int) -> str:
        bounds = [build.constant([value], np.int64) for value in (index, index + 1, axis)]
        return str(build.op("Squeeze", build.op("Slice", packed, *bounds), build.constant([axis], np.int64)))

    return [cut(index) for index in range(3)]


def _gathers(build: Build, packed: str, axis: int) -> list[str]:
    return [build.op("Gather", packed, build.constant(index, np.int64), axis=axis) for index in range(3)]


def _split(build: Build, packed: str, axis: int) -> list[str]:
    parts = build.op("Split", packed, outputs=3, axis=axis, num_outputs=3)
    return [build.op("Squeeze", part, build.constant([axis], np.int64)) for part in parts]


FIVE_AXES = {
    "parts outside heads": ((3, HEADS, DEPTH), (2, 0, 3, 1, 4), 0),
    "parts inside heads": ((HEADS, 3, DEPTH), (3, 0, 2, 1, 4), 0),
    "batch first": ((3, HEADS, DEPTH), (0, 2, 3, 1, 4), 1),
}


@pytest.mark.parametrize("select", [_slices, _gathers, _split])
@pytest.mark.parametrize("layout", FIVE_AXES)
def test_packed_projection_is_split_in_the_order_of_tokens(layout: str, select: Any) -> None:
    shape, order, axis = FIVE_AXES[layout]
    build = Build()
    packed = build.reshape(build.input(BATCH, LENGTH, 3 * HEADS * DEPTH), BATCH, LENGTH, *shape)
    operands = select(build, build.op("Transpose", packed, perm=order), axis)
    counts = kinds(folded(build.graph(by_tokens(build, attend(build, *operands)))))
    assert counts.pop("Reshape", 0) <= 4
    assert counts == {"Split": 1, "Attention": 1}


def test_projection_packed_in_each_head_is_split_before_heads() -> None:
    build = Build()
    heads = by_heads(build, build.input(BATCH, LENGTH, HEADS * 20), HEADS, 20)
    operands = build.op("Split", heads, build.constant([6, 6, 8], np.int64), outputs=3, axis=3)
    counts = kinds(folded(build.graph(by_tokens(build, attend(build, *operands)))))
    assert counts == {"Reshape": 4, "Split": 1, "Attention": 1}


def test_packed_projection_read_elsewhere_stays() -> None:
    build = Build()
    packed = build.reshape(build.input(BATCH, LENGTH, 3 * HEADS * DEPTH), BATCH, LENGTH, 3, HEADS, DEPTH)
    turned = build.op("Transpose", packed, perm=(2, 0, 3, 1, 4))
    result = attend(build, *_gathers(build, turned, 0))
    graph = build.graph(by_tokens(build, result), build.op("Relu", turned))
    assert fold_head_transposes(graph) is graph


def rotated(build: Build, heads: str) -> str:
    tables = [build.parameter(BATCH, LENGTH, DEPTH // 2) for _ in range(2)]
    return str(build.op("RotaryEmbedding", heads, *tables, opset=23))


def test_rotary_embedding_and_normalisation_move_to_the_order_of_tokens() -> None:
    build = Build()
    query, key, value = (by_heads(build, name) for name in projections(build))
    scale = build.parameter(DEPTH)
    query, key = (rotated(build, build.op("RMSNormalization", name, scale, axis=-1, opset=23)) for name in (query, key))
    result = folded(build.graph(by_tokens(build, attend(build, query, key, value))))
    assert kinds(result) == {"Reshape": 4, "RMSNormalization": 2, "RotaryEmbedding": 2, "Attention": 1}


def test_keys_that_a_cache_keeps_by_heads_are_the_only_ones_turned() -> None:
    build = Build()
    query, key, value = (by_heads(build, name) for name in projections(build))
    query, key = rotated(build, query), rotated(build, key)
    graph = build.graph(by_tokens(build, attend(build, query, key, value)), key, value)
    result = folded(graph)
    assert kinds(result)["Transpose"] == 2
    assert {op.outputs[0] for op in result.ops if op.kind == "Transpose"} == {key, value}


def test_one_operand_by_heads_is_turned_where_the_others_save_more() -> None:
    build = Build()
    query, key, _ = projections(build)
    value = build.input(BATCH, HEADS, LENGTH, DEPTH)
    graph = build.graph(by_tokens(build, attend(build, by_heads(build, query), by_heads(build, key), value)))
    assert kinds(folded(graph))["Transpose"] == 1


@pytest.mark.parametrize("keys", [LENGTH, 50])
def test_cached_keys_and_values_by_heads_leave_attention_by_heads(keys: int) -> None:
    build = Build()
    query = by_heads(build, build.input(BATCH, LENGTH, HEADS * DEPTH))
    caches = [build.input(BATCH, HEADS, keys, DEPTH) for _ in range(2)]
    graph = build.graph(by_tokens(build, attend(build, query, *caches)))
    assert fold_head_transposes(graph) is graph


def test_key_rotated_for_two_attentions_is_rotated_once() -> None:
    build = Build()
    key = rotated(build, by_heads(build, build.input(BATCH, LENGTH, HEADS * DEPTH)))
    results = []
    for _ in range(2):
        query, value = (by_heads(build, build.input(BATCH, LENGTH, HEADS * DEPTH)) for _ in range(2))
        results.append(by_tokens(build, attend(build, query, key, value)))
    counts = kinds(folded(build.graph(*results)))
    assert (counts["RotaryEmbedding"], counts["Transpose"]) == (1, 4)


def test_one_long_operand_is_not_turned_to_save_short_ones() -> None:
    build = Build()
    query = by_heads(build, build.input(BATCH, 2, HEADS * DEPTH))
    key = by_heads(build, build.input(BATCH, 50, HEADS), HEADS, 1)
    key = str(build.op("Expand", key, build.constant((BATCH, HEADS, 50, DEPTH), np.int64)))
    value = by_heads(build, build.input(BATCH, 50, HEADS), HEADS, 1)
    graph = build.graph(by_tokens(build, attend(build, query, key, value)))
    assert fold_head_transposes(graph) is graph
