"""One network takes the same time as a float graph deployed in int8 and as the file that onnxruntime quantises."""

from __future__ import annotations

import onnx
import pytest
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

import workloads
from codesign import load
from codesign.lower import lower
from codesign.registry import device
from codesign.simulation import simulate
from codesign.transforms import optimise
from codesign.work import Contraction
from tests.test_quantised_networks import Calibration

# Residual sums and plain convolutions; depthwise ones; both, with ReLU6.
NETWORKS = {"mlperf_tiny_ic": {}, "mlperf_tiny_kws": {}, "mobilenetv2": {"image": 64}}
APART = 0.03
"""Relative. Scales and zero points are read beside the weights, and sums are called apart from what they follow."""


@pytest.fixture(scope="module", params=NETWORKS)
def forms(request, tmp_path_factory):
    """The float graph, and the same network quantised to int8 between QuantizeLinear and DequantizeLinear."""
    folder = tmp_path_factory.mktemp(request.param)
    built = workloads.build(request.param, bind=NETWORKS[request.param])
    onnx.save(workloads.materialise(built, 0), folder / "raw.onnx")
    quant_pre_process(folder / "raw.onnx", folder / "float.onnx", skip_symbolic_shape=True)
    types = {"activation_type": quantization.QuantType.QInt8, "weight_type": quantization.QuantType.QInt8}
    source, target = folder / "float.onnx", folder / "int8.onnx"
    quantization.quantize_static(
        source, target, Calibration(source), quant_format=quantization.QuantFormat.QDQ, per_channel=True, **types
    )
    return load(source), load(target)


@pytest.mark.parametrize("name", ["ethos-u65-256", "stm32l4r5"])
def test_both_forms_take_the_same_time(forms, name):
    of_float, of_integers = (simulate(graph, device(name), "int8").document.latency_s for graph in forms)
    assert of_integers == pytest.approx(of_float, rel=APART)


def test_requantisation_is_all_that_quantised_products_do_to_their_results(forms):
    works = [work for work in lower(optimise(forms[1])) if isinstance(work, Contraction)]
    products = [work for work in works if work.writes[0].dtype == "int8"]
    assert len(products) > len(works) / 2
    assert all(work.requantise_flops == work.epilogue_flops > 0 for work in products)


def test_the_ends_of_a_quantised_network_cost_nothing_when_its_floats_are_deployed_in_its_type(forms):
    graph = optimise(forms[1])
    ends = {
        dtype: [work for work in lower(graph, dtype) if work.kind in ("QuantizeLinear", "DequantizeLinear")]
        for dtype in ("int8", "float32")
    }
    assert [work.kind for work in ends["int8"]] == [work.kind for work in ends["float32"]]
    assert all(work.free for work in ends["int8"])
    assert sum(work.flops for work in ends["float32"]) > 0
