"""Whole networks, executed as they are and after all transforms, against onnxruntime with the same seeded weights."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from codesign.executor import Executor, random_inputs
from codesign.frontend import from_proto
from codesign.transforms import optimise
from tests.onnx_case import relative_error
from workloads import build, materialise

NETWORKS = {
    "mlperf_tiny_ad": {},
    "mlperf_tiny_ic": {},
    "mlperf_tiny_kws": {},
    "mlperf_tiny_vww": {},
    "mobilenetv2": {},
    "pvt_tiny": {},
    "poolformer_s12": {},
    "bert_tiny": {},
    "gpt2_small": {"configuration": {"layers": 2}},
    "gpt2_small_decode": {"configuration": {"layers": 2}},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network_agrees_with_onnxruntime(name):
    model = materialise(build(name, **NETWORKS[name]), 1)
    graph = from_proto(model)
    inputs = random_inputs(graph, 2)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(list(graph.outputs), inputs)
    for variant in (graph, optimise(graph)):
        outputs = Executor(variant).run(inputs)
        for output, reference in zip(graph.outputs, expected, strict=True):
            assert outputs[output].shape == reference.shape
            assert np.ptp(reference) > 0
            assert relative_error(outputs[output], reference) < 1e-4
