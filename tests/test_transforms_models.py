"""The pipeline on graphs from both of torch's exporters, against onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from codesign.executor.executor import Executor
from codesign.frontend import load
from codesign.lower import lower
from codesign.transforms import PIPELINE, optimise
from tests.onnx_case import relative_error
from tests.transform_case import Array, assert_consistent, kinds, seeded_inputs

MODELS = Path(__file__).parent / "data" / "models"

FUSED = {
    "bert_2_layers__legacy": {"Attention": 2, "LayerNormalization": 5, "MatMul": 12},
    "convolutions__legacy": {"Conv": 3, "ConvTranspose": 1, "GroupNormalization": 1, "LayerNormalization": 1},
    "gpt2_2_layers__dynamo": {"Attention": 2, "LayerNormalization": 5, "MatMul": 9},
    "llama_2_layers__dynamo": {"Attention": 2, "RMSNormalization": 5, "MatMul": 15, "RotaryEmbedding": 4},
    "swin_2_blocks__legacy": {"Attention": 2, "LayerNormalization": 6, "Conv": 1},
    "vit_2_layers__dynamo": {"Attention": 2, "LayerNormalization": 5, "Conv": 1},
}
"""Operations of each kind that the layers of the models have by their definition."""
PIECES = {
    "BatchNormalization", "InstanceNormalization", "Erf", "Tanh", "Sigmoid", "Softmax", "IsNaN", "Sqrt", "Pow", "Div",
    "Reciprocal", "Expand", "Gelu", "Swish", "Sub", "Neg",
}  # fmt: skip
"""What must not be left by itself: pieces of formulas, and activations that follow a product."""


def model_inputs(inputs: dict[str, Array]) -> dict[str, Array]:
    """Inputs of a model; a padding mask, the second of two whole-number inputs, hides the last two positions."""
    names = list(inputs)
    if len(names) == 2 and inputs[names[1]].dtype == np.int64:
        mask = np.ones_like(inputs[names[1]])
        mask[..., -2:] = 0
        return {**inputs, names[1]: mask}
    return inputs


@pytest.mark.parametrize("name", FUSED)
def test_exported_model_is_fused_and_agrees_with_onnxruntime(name: str) -> None:
    path = MODELS / f"{name}.onnx"
    graph = load(path)
    result = optimise(graph)
    assert_consistent(result)
    counts = kinds(result)
    assert {kind: counts.get(kind, 0) for kind in FUSED[name]} == FUSED[name]
    assert PIECES.isdisjoint(counts)
    assert sum(work.macs for work in lower(result)) == sum(work.macs for work in lower(graph))
    needed = {source for op in PIPELINE[0](graph).ops for source in op.sources}
    assert {source for op in result.ops for source in op.sources} == needed

    inputs = model_inputs(seeded_inputs(graph))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(list(graph.outputs), inputs)
    found = Executor(result).run(inputs)
    for output, theirs in zip(graph.outputs, expected, strict=True):
        assert relative_error(found[output], np.asarray(theirs)) < 1e-5


def test_causal_mask_of_an_exporter_becomes_an_attribute() -> None:
    result = optimise(load(MODELS / "gpt2_2_layers__dynamo.onnx"))
    attention = [op for op in result.ops if op.kind == "Attention"]
    assert [(len(op.inputs), op.attributes["is_causal"]) for op in attention] == [(3, 1), (3, 1)]


def test_shared_heads_of_an_exporter_are_not_repeated() -> None:
    result = optimise(load(MODELS / "llama_2_layers__dynamo.onnx"))
    attention = [op for op in result.ops if op.kind == "Attention"]
    assert [(op.attributes["q_num_heads"], op.attributes["kv_num_heads"]) for op in attention] == [(4, 2), (4, 2)]
    widths = [[result.tensors[name].shape[2] for name in op.inputs[:3]] for op in attention]
    assert widths == [[16, 8, 8], [16, 8, 8]]


def test_model_optimised_twice_is_the_same() -> None:
    once = optimise(load(MODELS / "vit_2_layers__dynamo.onnx"))
    assert [op.kind for op in optimise(once).ops] == [op.kind for op in once.ops]
