"""Every model file of the test data: executed as onnxruntime does, plain and transformed, and simulated everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from codesign import load
from codesign.lower import lower
from codesign.transforms import optimise
from tests.model_case import DEVICES, check_simulates, error_against_onnxruntime

MODELS = sorted((Path(__file__).parent / "data" / "models").glob("*.onnx"))
ROWS = 6
"""Rows for the models of scikit-learn, which take any number of them."""


def loaded(path: Path):
    return load(path, batch=ROWS if path.stem.endswith("sklearn") else None)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_model_file_is_executed_as_onnxruntime_does(path):
    graph = loaded(path)
    assert error_against_onnxruntime(path, graph, optimise(graph), optimised=False) < 1e-4


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_model_file_is_lowered_and_simulated_on_every_device(path):
    graph = loaded(path)
    assert all(work.reads or work.writes for work in lower(graph))
    fused = optimise(graph)
    for device in DEVICES:
        check_simulates(fused, device)
