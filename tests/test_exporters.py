"""Whole networks written by both of torch's exporters: executed as onnxruntime does, simulated on every device.

Needs the `exporters` extra: `pytest -m exporters tests/test_exporters.py`.
"""

from __future__ import annotations

import pytest

from codesign import load
from codesign.transforms import optimise
from tests.model_case import DEVICES, check_simulates, error_against_onnxruntime

exported = pytest.importorskip("tests.exported", reason="needs the exporters extra", exc_type=ImportError)
pytestmark = [pytest.mark.exporters, pytest.mark.long]


@pytest.mark.parametrize("exporter", exported.EXPORTERS)
@pytest.mark.parametrize("name", exported.CASES)
def test_exported_network_agrees_with_onnxruntime_and_simulates(name, exporter, tmp_path, capsys):
    path = tmp_path / f"{name}.onnx"
    exported.export(name, exporter, path)
    graph = optimise(load(path))
    error = error_against_onnxruntime(path, graph)
    with capsys.disabled():
        print(f"\n{name:16} {exporter:8} {len(graph.ops):5} operations, error over spread {error:.1e}")
    assert error < 1e-4
    for device in DEVICES:
        check_simulates(graph, device)
