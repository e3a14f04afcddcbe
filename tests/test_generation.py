"""Text generation: against simulating each step, its parts against the whole, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from codesign.errors import BadParameter
from codesign.graph import Graph
from codesign.lower import lower
from codesign.model import load
from codesign.registry import device
from codesign.report.generation import GenerationDocument
from codesign.simulation import simulate
from codesign.study.generation import generate
from codesign.study.lengths import Lengths
from codesign.transforms import optimise
from tests.commands import refused, run

DECODERS = ["zoo:gpt2_small_decode", "zoo:llama3_8b_decode"]


def decode_step(name: str, past: int, batch: int = 2) -> Graph:
    return optimise(load(name, batch=batch, bind={"past": past}))


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("past", [1, 333, 500])
def test_a_step_between_two_lengths_is_the_one_that_is_built_there(name: str, past: int) -> None:
    between, built = Lengths(lambda length: decode_step(name, length), 100, 900).graph(past), decode_step(name, past)
    assert between.tensors == built.tensors
    assert lower(between, "float16") == lower(built, "float16")


def test_graphs_that_differ_in_more_than_a_length_are_built_at_each() -> None:
    graphs = {1: load("zoo:gpt2_small_decode", bind={"past": 1}), 3: load("zoo:vit_tiny")}
    asked = []

    def build(length: int) -> Graph:
        asked.append(length)
        return graphs.get(length, graphs[1])

    assert Lengths(build, 1, 3).graph(2) is graphs[1]
    assert asked == [1, 3, 2]


@pytest.mark.parametrize(("name", "prompt", "tokens", "batch"), [("h200", 64, 257, 4), ("pim-gpt", 30, 129, 1)])
def test_decoding_takes_what_each_of_its_steps_takes(name: str, prompt: int, tokens: int, batch: int) -> None:
    chosen = device(name)
    found = generate("zoo:gpt2_small", chosen, prompt, tokens, batch)
    steps = found.steps
    contexts = np.arange(prompt, prompt + tokens - 1, 8)
    each = [simulate(load("zoo:gpt2_small_decode", batch, {"past": int(past)}), chosen) for past in contexts]
    ours = steps.set_index("context").loc[contexts]
    assert ours.latency_s.sum() == pytest.approx(sum(step.latency_s for step in each), rel=5e-3)
    assert ours.energy_J.sum() == pytest.approx(sum(step.energy_J for step in each), rel=5e-3)


@pytest.mark.long
def test_4096_tokens_of_an_8b_model_take_what_each_of_their_steps_takes() -> None:
    chosen = device("h200")
    found = generate("zoo:llama3_8b", chosen, 2048, 4096, 8)
    contexts = np.arange(2048, 2048 + 4095, 13)
    steps = Lengths(lambda past: decode_step("zoo:llama3_8b_decode", past, 8), 2048, 6142)
    each = [simulate(steps.graph(int(past)), chosen).latency_s for past in contexts]
    assert found.steps.set_index("context").loc[contexts].latency_s.sum() == pytest.approx(sum(each), rel=5e-3)


def test_parts_sum_to_the_whole() -> None:
    found = generate("zoo:gpt2_small", device("h200"), 100, 50, 3)
    document, steps = found.document, found.steps
    assert len(steps) == 49
    assert document.time_to_first_token_s + steps.latency_s.sum() == pytest.approx(document.total_s)
    assert document.prefill_energy_J + steps.energy_J.sum() == pytest.approx(document.energy_J)
    assert document.tokens_per_s == pytest.approx(150 / document.total_s)
    assert document.energy_per_token_J == pytest.approx(document.energy_J / 150)
    prefill = simulate(load("zoo:gpt2_small", 3, {"sequence": 100}), device("h200"))
    assert document.time_to_first_token_s == pytest.approx(prefill.latency_s)
    assert document.prefill_energy_J == pytest.approx(prefill.energy_J)


def test_memory_grows_by_keys_and_values_of_each_layer() -> None:
    """Two tensors of 8 heads by 128 in 32 layers, two bytes an element (llama3_8b shares keys among four heads)."""
    document = generate("zoo:llama3_8b", device("h200"), 256, 16, 4).document
    assert document.cache_bytes_per_token == pytest.approx(2 * 8 * 128 * 32 * 2, rel=0.01)


def test_longer_contexts_larger_batches_and_more_bandwidth_do_what_they_must() -> None:
    base = generate("zoo:gpt2_small", device("h200"), 200, 100, 2).document
    longer = generate("zoo:gpt2_small", device("h200"), 600, 100, 2).document
    larger = generate("zoo:gpt2_small", device("h200"), 200, 100, 16).document
    faster = generate("zoo:gpt2_small", device("h200", **{"dram.bandwidth": 9e12}), 200, 100, 2).document
    assert base.time_per_token_s is not None
    assert longer.time_per_token_s is not None
    assert longer.time_per_token_s >= base.time_per_token_s
    assert larger.tokens_per_s > base.tokens_per_s
    assert faster.total_s <= base.total_s
    assert larger.longest_context is not None
    assert base.longest_context is not None
    assert larger.longest_context < base.longest_context


def test_the_longest_context_fits_and_one_more_token_does_not() -> None:
    small = device("h200", **{"dram.capacity": 400_000_000})
    document = generate("zoo:gpt2_small", small, 100, 10, 8).document
    longest = document.longest_context
    assert longest is not None
    assert longest < 1024
    fits = [
        simulate(load("zoo:gpt2_small_decode", 8, {"past": past}), small).fits for past in (longest - 1, longest)
    ]
    assert fits == [True, False]
    beyond = generate("zoo:gpt2_small", small, 100, longest, 8).document
    assert not beyond.fits
    assert "more than" in beyond.why
    assert beyond.levers


def test_one_token_needs_no_decode_step() -> None:
    document = generate("zoo:gpt2_small", device("h200"), 64, 1).document
    assert document.steps == []
    assert document.time_per_token_s is None
    assert document.total_s == document.time_to_first_token_s


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_lengths_below_one_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(BadParameter, match="= 0: expected at least 1"):
        generate("zoo:gpt2_small", device("h200"), *sizes)


def test_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_file, csv_file, page = (tmp_path / name for name in ("g.json", "g.csv", "g.html"))
    words = ("generate", "zoo:gpt2_small", "--device", "h200", "--prompt", 32, "--tokens", 9)
    assert run(*words, "--json", json_file, "--csv", csv_file, "--html", page) == 0
    assert "Time to first token" in capsys.readouterr().out
    document = GenerationDocument.model_validate(json.loads(json_file.read_text()))
    assert (document.prompt, document.tokens) == (32, 9)
    assert len(csv_file.read_text().splitlines()) == 9
    assert "What does a token cost" in page.read_text()


def test_a_network_that_generates_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "generate", "zoo:vit_tiny", "--device", "h200", "--prompt", 8, "--tokens", 2)
    assert "no dimension 'sequence'" in line
