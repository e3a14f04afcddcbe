"""Every built-in network, none listed here: its counts, and its reduced form checked, executed and simulated."""

from __future__ import annotations

import importlib

import numpy as np
import onnx
import pytest

import codesign
import workloads
from codesign.frontend import from_proto
from tests.workload_case import macs_by_onnx_shapes, random_inputs, reduced, run_here, run_onnxruntime, session_of
from workloads.counts import macs_of, parameters_of
from workloads.registry import CATALOG, entry, index

FAMILIES = sorted(set(index().values()))
REDUCED = [name for name in workloads.names() if entry(name).reduced]
REPRESENTATIVES = workloads.representatives()
OTHERS = sorted(set(workloads.names()) - set(REPRESENTATIVES))

LARGEST_FILE = 3_000_000
"""Bytes of any network's file without weights."""
DEVICES = ("h200", "ethos-u65-256", "stm32l4r5")
"""A GPU, an NPU and a microcontroller; on the last a network may not fit, and then the report says by how much."""


def check_counts(name: str) -> None:
    model = workloads.build(name)
    status = workloads.info(name).status(parameters_of(model), macs_of(model))
    assert status != "differs", f"{name}: {parameters_of(model):,} parameters, {macs_of(model):,} MACs"
    assert model.ByteSize() < LARGEST_FILE


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_counts_are_the_published_or_explained(name: str) -> None:
    check_counts(name)


@pytest.mark.long
@pytest.mark.parametrize("name", OTHERS)
def test_counts_of_the_other_variants_are_the_published_or_explained(name: str) -> None:
    check_counts(name)


@pytest.mark.parametrize("name", REDUCED)
def test_reduced_form_runs_alike_here_and_in_onnxruntime(name: str) -> None:
    model = reduced(name)
    onnx.checker.check_model(model, full_check=True)
    inputs = random_inputs(session_of(model))
    expected, found = run_onnxruntime(model, inputs), run_here(model, inputs)
    assert found.keys() == expected.keys()
    for output, values in expected.items():
        assert np.isfinite(values).all(), output
        assert values.std() > 1e-6, f"{output} says nothing of the input"
        assert np.abs(found[output] - values).max() <= 1e-4 * np.abs(values).max(), output


@pytest.mark.parametrize("name", REDUCED)
def test_reduced_form_simulates_on_every_kind_of_device(name: str) -> None:
    graph = from_proto(workloads.build_reduced(name), source=f"zoo:{name}")
    for device in DEVICES:
        document = codesign.simulate(graph, codesign.device(device)).document
        assert document.latency_s > 0
        assert document.fits or document.why


@pytest.mark.parametrize("name", REDUCED)
def test_lowered_work_holds_the_macs_that_onnx_shapes_give(name: str) -> None:
    model = workloads.build_reduced(name, batch=2)
    assert macs_of(model) == macs_by_onnx_shapes(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_catalogue_and_tables_of_a_family_name_the_same_variants(family: str) -> None:
    importlib.import_module(f"workloads.{family}")
    for name in (name for name, module in index().items() if module == family):
        assert entry(name).definition.__module__ == f"workloads.{family}"
        assert workloads.info(name).name == name


def test_every_definition_has_a_reduced_form() -> None:
    definitions = {entry(name).definition for name in workloads.names()}
    assert {entry(name).definition for name in REDUCED} == definitions


def test_index_read_without_parsing_is_what_the_parsed_files_say() -> None:
    import yaml

    parsed = {
        name: path.stem
        for path in CATALOG.glob("*.yaml")
        for name in yaml.safe_load(path.read_text(encoding="utf-8"))["variants"]
    }
    assert index() == parsed


def test_claims_are_of_networks_that_exist() -> None:
    for claim in workloads.claims():
        assert claim.values.keys() <= set(workloads.names())


@pytest.mark.long
def test_page_of_the_networks_is_current() -> None:
    from codesign.study.zoo import count_page, rows

    page = CATALOG.with_name("TABLE.md")
    assert page.read_text(encoding="utf-8") == count_page(list(rows(workloads.names()))), (
        "write it again: codesign workloads --page workloads/TABLE.md"
    )
