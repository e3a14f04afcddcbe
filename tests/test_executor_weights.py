"""Weights that a model does not hold: made up from a seed by their stored names, derived ones from those."""

from __future__ import annotations

import numpy as np
import pytest

from codesign import load
from codesign.errors import BadModel
from codesign.executor import Executor, random_inputs
from codesign.frontend import from_proto
from codesign.graph import Tensor, Weight, seeded_weight
from codesign.transforms import optimise
from tests.onnx_case import relative_error
from workloads import build, materialise

SMALL = (
    "mlperf_tiny_ad", "mlperf_tiny_ic", "mlperf_tiny_kws", "mlperf_tiny_vww", "mobilenetv2", "poolformer_s12",
    "pvt_tiny", "vit_tiny", "deit_tiny", "bert_tiny",
)  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_transforms_keep_the_outputs_of_a_seeded_network(name):
    graph = load(f"zoo:{name}")
    inputs = random_inputs(graph, 2)
    before, after = (Executor(variant, seed_weights=3).run(inputs) for variant in (graph, optimise(graph)))
    for output in graph.outputs:
        assert np.ptp(before[output]) > 0
        assert relative_error(after[output], before[output]) < 1e-4


def test_seeded_network_equals_the_same_network_written_with_weights_of_that_seed():
    model = build("mlperf_tiny_kws")
    structure, filled = from_proto(model), from_proto(materialise(model, 5))
    inputs = random_inputs(structure, 2)
    made_up, stored = Executor(optimise(structure), seed_weights=5).run(inputs), Executor(filled).run(inputs)
    for output in structure.outputs:
        assert relative_error(made_up[output], stored[output]) < 1e-4


def test_derived_weight_follows_its_source():
    stored = Tensor("w", (3, 4), "float32")
    source = Weight(stored)
    turned = Weight(Tensor("w.1", (4, 3), "float32"), sources=[source], derive=np.transpose)
    twice = Weight(Tensor("w.2", (4, 3), "float32"), sources=[turned], derive=lambda array: 2 * array)
    assert not twice.has_value
    assert list(twice.absent()) == ["w"]
    assert twice.array() is None
    np.testing.assert_array_equal(twice.array(seed=7), 2 * seeded_weight(stored, 7).T)


def test_derived_weight_of_stored_ones_has_values():
    source = Weight(Tensor("w", (2,), "float32"), load=lambda: np.array([1, 2], np.float32))
    derived = Weight(Tensor("w.1", (2,), "float32"), sources=[source], derive=np.negative)
    assert derived.has_value
    assert derived.inline is None
    np.testing.assert_array_equal(derived.array(), [-1, -2])


def test_message_names_the_stored_weight_that_is_absent():
    graph = optimise(load("zoo:mlperf_tiny_kws"))
    absent = {name for weight in graph.weights.values() for name in weight.absent()}
    with pytest.raises(
        BadModel, match="has no values in the model; provide its data file, or use seed_weights"
    ) as error:
        Executor(graph).run(random_inputs(graph, 0))
    assert str(error.value).split("'")[1] in absent
