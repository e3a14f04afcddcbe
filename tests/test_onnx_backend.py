"""The ONNX backend: driven by ONNX's own test, held to the standard's own cases, and what its interface promises."""

from __future__ import annotations

import os
import unittest
import warnings

import numpy as np
import onnx
import onnx.backend.test
import pytest
from onnx import TensorProto, helper

import codesign.onnx_backend as backend
from codesign.errors import BadParameter, UnsupportedOperator
from codesign.onnx_backend.conformance import Case, Outcome, check_similar, conformance, exceptions, outcome
from codesign.study.packages import Unavailable

UNLIKE_ONNX_RUNNER = {
    "test_loop16_seq_none": "a sequence with an item without dimensions, which the runner cannot compare",
    "test_attention_4d_causal_fp16_expanded": "half precision: our products are summed in single precision and are at "
    "most 4.0e-4 from exact arithmetic, the values expected 4.9e-4",
}
"""Cases of newer versions, or of the runner, that are not among the exceptions on record."""


@pytest.fixture
def tolerance(monkeypatch):
    """The runner with the tolerance that conformance is measured at."""
    similar = onnx.backend.test.BackendTest.assert_similar_outputs.__func__

    def assert_similar(cls, ref_outputs, outputs, rtol, atol, model_dir=None):
        similar(cls, ref_outputs, outputs, 1e-3, 1e-5, model_dir)

    monkeypatch.setattr(onnx.backend.test.BackendTest, "assert_similar_outputs", classmethod(assert_similar))


def test_onnx_backend_test_drives_the_executor(tolerance, tmp_path, monkeypatch):
    """All cases of the installed version: of operators, of exported graphs, and nine whole networks."""
    monkeypatch.setenv("ONNX_HOME", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        suite = onnx.backend.test.BackendTest(backend.CodesignBackend, __name__).include("_cpu$").test_suite
        result = unittest.TestResult()
        suite.run(result)
    incompatible = [(test, reason) for test, reason in result.skipped if reason.startswith("Not compatible")]
    failed = {
        test.id().rsplit(".", 1)[-1].removesuffix("_cpu"): trace
        for test, trace in result.failures + result.errors + incompatible
    }
    assert set(failed) == {*exceptions(), *UNLIKE_ONNX_RUNNER}, failed
    assert result.testsRun - len(result.skipped) > 2000


@pytest.mark.long
def test_the_standard_cases_pass_but_those_on_record():
    try:
        outcomes = conformance()
    except Unavailable as error:
        if os.environ.get("CODESIGN_PACKAGES") == "required":
            raise
        pytest.skip(str(error))
    assert len(outcomes) == 1905
    assert [(one.case.name, one.failure) for one in outcomes if one.surprising] == []
    assert sum(one.failure is None for one in outcomes) >= 1895


def test_a_listed_case_that_passes_is_as_surprising_as_one_that_fails(tmp_path):
    case = Case("node", "test_case", tmp_path)
    assert Outcome(case, None, "a reason").surprising
    assert Outcome(case, "AssertionError", None).surprising
    assert not Outcome(case, "AssertionError", "a reason").surprising
    assert not Outcome(case, None, None).surprising


def square() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "x"], ["y"]), helper.make_node("ReduceSum", ["y"], ["sum"], keepdims=0)],
        "square",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [onnx.ValueInfoProto(name="y"), onnx.ValueInfoProto(name="sum")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def written(folder, x, y):
    onnx.save(square(), folder / "model.onnx")
    data = folder / "test_data_set_0"
    data.mkdir()
    for name, array in {"input_0": x, "output_0": y, "output_1": y.sum()}.items():
        (data / f"{name}.pb").write_bytes(onnx.numpy_helper.from_array(np.asarray(array)).SerializeToString())
    return Case("node", "test_square", folder)


def test_a_case_fails_by_value_shape_and_type(tmp_path):
    x = np.arange(3, dtype=np.float32)
    assert outcome(written(tmp_path, x, x * x)).failure is None
    for wrong, reason in ((x * x + 1, "output 0"), ((x * x)[None], "shape"), ((x * x).astype(np.float64), "type")):
        folder = tmp_path / reason
        folder.mkdir()
        failure = outcome(written(folder, x, wrong)).failure
        assert failure is not None
        assert reason in failure


def test_sequences_and_nothing_are_compared():
    check_similar([[np.ones(2)], None], [[np.ones(2)], None])
    for found in ([[np.ones(2), np.ones(2)], None], [np.ones(2), None], [[np.ones(2)], np.ones(2)]):
        with pytest.raises(AssertionError):
            check_similar(found, [[np.ones(2)], None])


def test_a_prepared_model_takes_any_size_by_order_or_by_name():
    prepared = backend.prepare(square())
    for size in (1, 4, 2, 4):
        x = np.arange(size, dtype=np.float32)
        for given in ([x], {"x": x}, x):
            y, total = prepared.run(given)
            np.testing.assert_array_equal(y, x * x)
            assert total == (x * x).sum()
    with pytest.raises(BadParameter, match="2 inputs given, the model has 1"):
        prepared.run([x, x])


def test_one_node_runs_by_itself():
    node = helper.make_node("Softmax", ["x"], ["y"], axis=0)
    (y,) = backend.run_node(node, [np.zeros(4, np.float32)])
    np.testing.assert_allclose(y, 0.25)
    old = helper.make_node("Dropout", ["x"], ["y"], ratio=0.5)
    (y,) = backend.run_node(old, [np.ones(2, np.float32)], opset_version=7)
    np.testing.assert_array_equal(y, 1)
    gelu = helper.make_node("FastGelu", ["x"], ["y"], domain="com.microsoft")
    (y,) = backend.run_node(gelu, {"x": np.zeros(2, np.float32)})
    np.testing.assert_array_equal(y, 0)


def test_values_are_computed_on_the_cpu_alone():
    assert backend.supports_device("CPU")
    assert backend.supports_device("CPU:0")
    assert not backend.supports_device("CUDA")
    with pytest.raises(BadParameter, match="device 'CUDA'"):
        backend.run_model(square(), [np.zeros(2, np.float32)], device="CUDA")


def test_a_model_with_an_unknown_operator_is_not_compatible():
    model = square()
    assert backend.is_compatible(model)
    model.graph.node[0].op_type = "Mull"
    assert not backend.is_compatible(model)
    with pytest.raises(UnsupportedOperator, match="'Mull'"):
        backend.run_model(model, [np.zeros(2, np.float32)])
