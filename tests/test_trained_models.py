"""Every trained network of some packages: executed as onnxruntime does, and simulated on every device.

    make models        # or: pytest -m models, with the packages of the extra `models` installed
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import codesign
from codesign.executor import Executor
from codesign.transforms import optimise
from tests.model_case import DEVICES, check_simulates, reference
from tests.onnx_case import relative_error
from tests.trained import DISTRIBUTIONS, TRAINED, Trained, named, shipped

pytestmark = pytest.mark.models

CLOSE = 1e-4
"""Largest difference over the output's spread, as for the exported networks."""


@pytest.mark.parametrize("package", DISTRIBUTIONS)
def test_every_file_that_a_package_ships_is_held(package) -> None:
    held = [trained.path for trained in TRAINED if trained.package == package]
    assert sorted(held) == sorted(shipped(package))


@pytest.mark.parametrize("trained", TRAINED, ids=lambda trained: trained.name)
def test_a_trained_network_computes_what_onnxruntime_does_and_simulates(trained: Trained, capsys) -> None:
    inputs, graph = trained.inputs(), optimise(trained.graph())
    expected = reference(trained.path, inputs, graph.outputs)
    found = Executor(graph).run(inputs)
    worst = 0.0
    for name, theirs in zip(graph.outputs, expected, strict=True):
        assert found[name].shape == theirs.shape
        assert found[name].dtype == theirs.dtype
        assert np.isfinite(theirs).all()
        worst = max(worst, relative_error(found[name], theirs))
    with capsys.disabled():
        print(f"\n{trained.name:48} {len(graph.ops):5} operations, error over spread {worst:.1e}")
    assert worst < CLOSE
    for device in DEVICES:
        check_simulates(graph, device)


def test_measured_zeros_are_those_that_onnxruntime_makes_and_an_npu_may_pass_over_them(capsys, tmp_path) -> None:
    trained = named("dnsmos_models/sig_bak_ovr.onnx")
    inputs, graph = trained.inputs(), trained.graph()
    measured = codesign.measure(graph, inputs)
    model, path = onnx.load(trained.path), tmp_path / "all_outputs.onnx"
    names = [node.output[0] for node in model.graph.node if node.output[0] in measured.statistics.tensors]
    stated = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in stated)
    onnx.save(model, path)
    densities = {}
    for name, values in zip(names, reference(path, inputs, tuple(names), optimised=False), strict=True):
        densities[name] = np.count_nonzero(values) / values.size
        assert measured.statistics.tensors[name].density == pytest.approx(densities[name], abs=1e-3), name
    assert min(densities.values()) < 0.5
    skipping = codesign.device("ethos-u65-256", **{"array.skips_zeros": "inputs"})
    before, after = codesign.simulate(graph, skipping).latency_s, codesign.simulate(measured, skipping).latency_s
    with capsys.disabled():
        print(f"\n{trained.name}: {before / after:.2f}x as fast on {skipping.name} passing over zero inputs")
    assert after < before
