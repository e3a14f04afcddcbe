"""Language models of linear recurrences: their chunked, recurrent and decode forms are one function."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import workloads
from codesign.frontend import from_proto
from codesign.lower import lower
from codesign.work import Scan
from tests.workload_case import Array, assert_close, outputs_here

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 100, (2, 16))
MODELS = {
    "mamba2_hybrid_8b": {"pattern": "M*-Mm"},
    "deltanet_340m": {},
    "deltanet_hybrid_swa": {},
    "gla_340m": {},
    "gla_7b": {},
}
SIZES: dict[str, dict[str, Any]] = {
    "gla_7b": {"width": 32, "hidden": 64, "layers": 2, "vocabulary": 100, "heads": 4, "kv_heads": 2},
    "deltanet_hybrid_swa": {"width": 32, "hidden": 64, "layers": 2, "vocabulary": 100, "head_size": 16},
}


def past_of(outputs: dict[str, Array], window: int | None = None) -> dict[str, Array]:
    """A step's states, and the last keys and values that its window reaches, as the next step's inputs."""
    past = {name.replace("present", "past"): value for name, value in outputs.items() if name.startswith("present")}
    if window is None:
        return past
    return {
        name: value[:, :, -(window - 1) :] if name.endswith((".key", ".value")) else value
        for name, value in past.items()
    }


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk", [4, 8, 16])
def test_chunked_form_equals_the_recurrence(name: str, chunk: int) -> None:
    inputs = {"input_ids": TOKENS}
    recurrent = outputs_here(name, inputs, sequence=16, form="recurrent")
    assert_close(outputs_here(name, inputs, sequence=16, chunk=chunk), recurrent, 2e-4)


@pytest.mark.parametrize("name", ["mamba2_hybrid_8b", "deltanet_340m", "gla_340m"])
def test_decode_steps_continue_the_prefill(name: str) -> None:
    whole = outputs_here(name, {"input_ids": TOKENS}, sequence=16)
    found = outputs_here(name, {"input_ids": TOKENS[:, :8]}, sequence=8)
    growing = name == "mamba2_hybrid_8b"
    for step in range(8, 16):
        sizes = {"past": step} if growing or name.startswith("deltanet") else {}
        found = outputs_here(f"{name}_decode", {"input_ids": TOKENS[:, step : step + 1], **past_of(found)}, **sizes)
    assert_close(found, {**whole, "logits": whole["logits"][:, -1:]}, 2e-4)


def test_sliding_window_layers_see_no_further_than_their_window() -> None:
    changed = TOKENS.copy()
    changed[:, 0] += 1
    attention_alone = {"sequence": 16, "attention_layers": (0, 1), "window": 3}
    outputs = [
        outputs_here("deltanet_hybrid_swa", {"input_ids": tokens}, **attention_alone)["logits"]
        for tokens in (TOKENS, changed)
    ]
    np.testing.assert_array_equal(outputs[0][:, 5:], outputs[1][:, 5:])  # two layers of reach 2
    assert np.abs(outputs[0][:, 4] - outputs[1][:, 4]).max() > 0


def test_caches_of_the_hybrid_are_a_32nd_of_the_transformers() -> None:
    def cache_elements(name: str) -> int:
        inputs = workloads.build(name, bind={"past": 1000}).graph.input
        shapes = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in inputs
                  if value.name.endswith((".key", ".value"))]  # fmt: skip
        return sum(math.prod(shape) for shape in shapes)

    assert cache_elements("transformer_8b_decode") == 32 * cache_elements("mamba2_hybrid_8b_decode")


@pytest.mark.parametrize(("form", "steps"), [("recurrent", 2048), ("chunked", 2048 // 16)])
def test_work_knows_the_dependent_steps_of_each_form(form: str, steps: int) -> None:
    configuration = {"layers": 1, "form": form, "chunk": 16}
    works = lower(from_proto(workloads.build("gla_340m", configuration=configuration)))
    assert [work.steps for work in works if isinstance(work, Scan) and work.kind == "Scan"] == [steps]


def test_aaren_outputs_are_softmax_attention_of_the_learned_query_over_each_prefix() -> None:
    tokens = RANDOM.standard_normal((2, 12, 32), dtype=np.float32)
    parallel, recurrent = (
        outputs_here("aaren", {"tokens": tokens}, form=form, layers=1) for form in ("parallel", "recurrent")
    )
    assert_close(recurrent, parallel)
    weights = {
        tensor.name.removeprefix("layer0/attention/"): np.frombuffer(tensor.raw_data, np.float32).reshape(tensor.dims)
        for tensor in workloads.materialise(workloads.build_reduced("aaren", layers=1), 0).graph.initializer
    }
    query = weights["query"].ravel() @ weights["query/weight"] + weights["query/bias"]
    key, value = np.split(tokens @ weights["key_value/weight"] + weights["key_value/bias"], 2, axis=-1)
    denominators = parallel["present_state.0.denominator"]
    for head in range(4):
        of_head = slice(8 * head, 8 * head + 8)
        scores = key[..., of_head] @ query[of_head] / np.sqrt(8)
        weight = np.exp(scores - scores.max(1, keepdims=True))
        np.testing.assert_allclose(denominators[:, head, 0], weight.sum(1), rtol=1e-5)
        numerator = np.einsum("bt,btv->bv", weight, value[..., of_head])
        np.testing.assert_allclose(parallel["present_state.0.numerator"][:, head], numerator, rtol=1e-4, atol=1e-5)


def test_aaren_streams_with_a_state_that_does_not_grow() -> None:
    tokens = RANDOM.standard_normal((2, 12, 32), dtype=np.float32)
    whole = outputs_here("aaren", {"tokens": tokens})
    found = outputs_here("aaren", {"tokens": tokens[:, :1]}, sequence=1)
    for step in range(1, 12):
        found = outputs_here("aaren_stream", {"tokens": tokens[:, step : step + 1], **past_of(found)})
    assert_close(found, {**whole, "encoded": whole["encoded"][:, -1:]})
