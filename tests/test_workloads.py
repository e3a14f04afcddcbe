"""The registry, builder and storage of the built-in networks, and how decode steps and masks behave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import workloads
from codesign.errors import BadParameter, DoesNotFit
from tests.workload_case import macs_by_onnx_shapes, random_inputs, reduced, run_onnxruntime, session_of
from workloads.counts import parameters_of
from workloads.facts import parse_figure


@pytest.mark.parametrize("name", ["gpt2_small", "llama3_8b"])
@pytest.mark.parametrize("new_tokens", [1, 3])
def test_decode_step_equals_the_last_token_of_prefill(name: str, new_tokens: int) -> None:
    past, batch = 7, 2
    tokens = np.random.default_rng(1).integers(0, 500, (batch, past + new_tokens))

    def run(member: str, ids: np.ndarray[Any, Any], cache: dict[str, Any], **bind: int) -> dict[str, Any]:
        return run_onnxruntime(reduced(member, 3, batch, **bind), {"input_ids": ids, **cache})

    whole = run(name, tokens, {}, sequence=past + new_tokens)
    first = run(name, tokens[:, :past], {}, sequence=past)
    cache = {key.replace("present", "past_key_values"): value for key, value in first.items() if key != "logits"}
    step = run(f"{name}_decode", tokens[:, past:], cache, sequence=new_tokens, past=past)
    assert step.keys() == whole.keys()
    for key, expected in whole.items():
        assert np.abs(step[key] - expected).max() < 1e-4 * expected.std(), key


@pytest.mark.parametrize(("sequence", "past"), [(32, 100), (1, 1023)])
def test_bound_lengths_scale_the_macs_as_the_transformer_formula_says(sequence: int, past: int) -> None:
    """12 s l h^2 + 2 s t l h, and one token's logits (Narayanan et al., SC 2021, arXiv:2104.04473, appendix)."""
    layers, width, vocabulary = 12, 768, 50257
    model = workloads.build("gpt2_small_decode", bind={"sequence": sequence, "past": past})
    products = 2 * sequence * (past + sequence) * layers * width
    assert macs_by_onnx_shapes(model) == 12 * sequence * layers * width**2 + products + vocabulary * width


def test_batch_multiplies_macs_and_leaves_parameters() -> None:
    one, four = workloads.build("vit_tiny"), workloads.build("vit_tiny", batch=4)
    assert macs_by_onnx_shapes(four) == 4 * macs_by_onnx_shapes(one)
    assert parameters_of(four) == parameters_of(one)


def test_nodes_are_named_by_their_place_in_the_network() -> None:
    nodes = [node.name for node in workloads.build("vit_tiny").graph.node]
    assert "layer3/attention/query_key_value/MatMul" in nodes
    assert len(set(nodes)) == len(nodes)


def test_padding_does_not_change_the_tokens_before_it() -> None:
    model = workloads.materialise(workloads.build("bert_tiny", bind={"sequence": 6}), seed=0)
    session = session_of(model)
    ids, mask = np.arange(6)[None], np.array([[1, 1, 1, 1, 0, 0]])
    other = np.where(mask, ids, 99)
    states = [
        session.run(None, {"input_ids": x, "attention_mask": mask, "token_type_ids": 0 * ids})[0] for x in (ids, other)
    ]
    np.testing.assert_array_equal(states[0][:, :4], states[1][:, :4])
    assert not np.array_equal(states[0][:, 4:], states[1][:, 4:])


def test_seeds_make_weights_reproducible_and_independent_of_depth() -> None:
    short = workloads.materialise(workloads.build("vit_tiny", configuration={"layers": 1}), seed=5)
    long = workloads.materialise(workloads.build("vit_tiny", configuration={"layers": 2}), seed=5)
    other = workloads.materialise(workloads.build("vit_tiny", configuration={"layers": 1}), seed=6)
    values = {tensor.name: tensor.raw_data for tensor in long.graph.initializer}
    assert all(values[tensor.name] == tensor.raw_data for tensor in short.graph.initializer)
    assert all(values[tensor.name] != tensor.raw_data for tensor in other.graph.initializer)


def test_saved_without_a_seed_the_file_holds_no_weights(tmp_path: Path) -> None:
    path = workloads.save("resnet50", tmp_path / "resnet50.onnx")
    assert path.stat().st_size < 200_000
    assert [file.name for file in tmp_path.iterdir()] == ["resnet50.onnx"]


def test_saved_with_a_seed_the_file_runs(tmp_path: Path) -> None:
    path = workloads.save("bert_tiny", tmp_path / "bert.onnx", seed_weights=0)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = session_of(workloads.materialise(workloads.build("bert_tiny"), seed=0))
    inputs = random_inputs(session)
    np.testing.assert_array_equal(session.run(None, inputs)[0], expected.run(None, inputs)[0])


def test_weights_beyond_the_limit_go_to_one_file_beside_and_read_back_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = workloads.materialise(workloads.build("bert_tiny"), seed=2)
    monkeypatch.setattr("workloads.storage.INLINE_LIMIT", 1_000_000)
    with pytest.raises(DoesNotFit, match=r"workloads\.save"):
        workloads.materialise(workloads.build("bert_tiny"), seed=2)
    path = workloads.save("bert_tiny", tmp_path / "bert.onnx", seed_weights=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bert.onnx", "bert.onnx.data"]
    assert path.stat().st_size < 1_000_000
    values = {tensor.name: tensor.raw_data for tensor in inline.graph.initializer}
    assert {tensor.name: tensor.raw_data for tensor in onnx.load(path).graph.initializer} == values


def test_building_llama3_8b_takes_under_a_second_and_200_megabytes() -> None:
    script = (
        "import resource, time, workloads, workloads.llama\n"
        "start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "workloads.build('llama3_8b')\n"
        "print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, kibibytes = map(float, done.stdout.split())
    assert seconds < 1
    assert kibibytes * 1024 < 200e6


def test_names_are_listed_without_importing_onnx() -> None:
    script = "import sys, workloads; assert 'vit_tiny' in workloads.names(); print('onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_importing_takes_no_catalogue_and_no_onnx() -> None:
    script = "import sys, workloads; print(sorted({'onnx', 'yaml', 'numpy', 'pydantic'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_variant_of_two_families_is_refused_with_both(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"itransformer_traffic": "itransformer", "s_mamba_traffic": "s_mamba"}
    monkeypatch.setattr("workloads.registry.index", lambda: known)
    with pytest.raises(BadParameter, match="itransformer and s_mamba have one: say itransformer_traffic or s_mamba_tr"):
        workloads.build("traffic")


@pytest.mark.parametrize(
    ("text", "value", "half_digit"), [("13.2M", 13.2e6, 0.05e6), ("0.57G", 0.57e9, 0.005e9), (4306, 4306, 0.5)]
)
def test_figures_keep_the_digits_that_were_printed(text: str | int, value: float, half_digit: float) -> None:
    figure = parse_figure(text)
    assert figure.value == pytest.approx(value)
    assert figure.half_digit == pytest.approx(half_digit)


@pytest.mark.parametrize(("count", "agrees"), [(28.49e6, True), (27.51e6, True), (28.6e6, False)])
def test_a_count_agrees_when_rounding_gives_the_printed_digits(count: float, agrees: bool) -> None:
    assert parse_figure("28M").agrees(count, tolerance=0.01) == agrees


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadParameter, match="did you mean vit_tiny"):
        workloads.build("vit_tinny")


def test_unknown_dimension_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadParameter, match="no dimension 'sequense'; did you mean sequence"):
        workloads.build("gpt2_small", bind={"sequense": 4})


def test_unknown_configuration_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadParameter, match="no configuration parameter 'layer'; did you mean layers"):
        workloads.build("vit_tiny", configuration={"layer": 1})


@pytest.mark.parametrize(
    ("name", "bind", "message"),
    [
        ("gpt2_small", {"sequence": 0}, "'sequence' = 0; expected an integer of at least 1"),
        ("gpt2_small_decode", {"past": 1024}, "past \\+ sequence = 1025; expected at most 1024"),
        ("bert_base", {"sequence": 513}, "expected at most 512"),
        ("vit_tiny", {"image": 225}, "multiple of 16"),
        ("pvt_tiny", {"image": 112}, "multiple of 32"),
        ("mlperf_tiny_kws", {"image": 1}, "no dimension 'image'; known: none"),
    ],
)
def test_sizes_that_cannot_be_meant_are_refused(name: str, bind: dict[str, int], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        workloads.build(name, bind=bind)


def test_saving_into_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="does not exist"):
        workloads.save("bert_tiny", tmp_path / "nowhere" / "bert.onnx")
