"""Whole networks written by both of torch's exporters: executed as onnxruntime does, simulated on every device.

Needs the `exporters` extra: `pytest -m exporters tests/test_exporters.py`.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from codesign import load
from codesign.transforms import optimise
from tests.model_case import DEVICES, check_simulates, error_against_onnxruntime

exported = pytest.importorskip("tests.exported", reason="needs the exporters extra", exc_type=ImportError)
pytestmark = [pytest.mark.exporters, pytest.mark.long]
MODELS = Path(__file__).parent / "data" / "models"


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


def fused_by_onnxruntime(source: Path, path: Path, family: str) -> None:
    from onnxruntime.transformers import optimizer

    result = optimizer.optimize_model(str(source), model_type=family, num_heads=2, hidden_size=16, opt_level=0)
    onnx.save(result.model, path)


def with_inferred_shapes(source: Path, path: Path, _family: str) -> None:
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    onnx.save(SymbolicShapeInference.infer_shapes(onnx.load(source)), path)


def with_weights_of_4_bits(source: Path, path: Path, _family: str) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantiser = MatMulNBitsQuantizer(onnx.load(source), block_size=16, is_symmetric=False)
    quantiser.process()
    quantiser.model.save_model_to_file(str(path))


@pytest.mark.parametrize("tool", [fused_by_onnxruntime, with_inferred_shapes, with_weights_of_4_bits])
@pytest.mark.parametrize(
    ("name", "family"),
    [("bert_2_layers__legacy", "bert"), ("vit_2_layers__dynamo", "vit"), ("llama_2_layers__dynamo", "gpt2")],
)
def test_tools_that_need_torch_or_sympy(name, family, tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.onnx"
    tool(MODELS / f"{name}.onnx", path, family)
    graph = load(path)
    fused = optimise(graph)
    assert error_against_onnxruntime(path, graph, fused, optimised=False) < 1e-4
    for device in DEVICES:
        check_simulates(fused, device)
