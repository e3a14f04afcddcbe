"""Recurrent layers: values against the standard's cases and onnxruntime, work against hand counts."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.errors import BadModel
from codesign.work import Scan
from tests.onnx_case import NodeCase, check_standard_case, normal, standard_case_names

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@pytest.mark.parametrize("name", standard_case_names(*GATES))
def test_operator_agrees_with_the_standards_own_case(name):
    check_standard_case(name)


def layer(kind, direction="forward", states=True, lengths=None, peephole=False, **attributes):
    """A layer of 5 steps, batch 3, 4 inputs and 6 hidden units against onnxruntime."""
    directions, gates = 2 if direction == "bidirectional" else 1, GATES[kind]
    inputs = [
        normal(5, 3, 4),
        normal(directions, gates * 6, 4, seed=1),
        normal(directions, gates * 6, 6, seed=2),
        normal(directions, 2 * gates * 6, seed=3),
        None if lengths is None else np.array(lengths, np.int32),
        normal(directions, 3, 6, seed=4) if states else None,
    ]
    if kind == "LSTM":
        inputs += [normal(directions, 3, 6, seed=5) if states else None]
        inputs += [normal(directions, 18, seed=6) if peephole else None]
    outputs = 3 if kind == "LSTM" else 2
    return NodeCase(kind, inputs, outputs, opset=14, hidden_size=6, direction=direction, **attributes)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("states", [False, True])
def test_directions_and_initial_states(kind, direction, states):
    layer(kind, direction, states).check()


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_sequences_of_different_length(kind, direction):
    layer(kind, direction, lengths=[5, 2, 3]).check()


@pytest.mark.parametrize("kind", GATES)
def test_clipping(kind):
    layer(kind, clip=0.5).check()


def test_reset_after_the_product():
    layer("GRU", "bidirectional", linear_before_reset=1).check()


def test_peepholes_and_coupled_gates():
    layer("LSTM", peephole=True).check()
    layer("LSTM", input_forget=1).check()


@pytest.mark.parametrize(
    ("activations", "alpha", "beta"),
    [
        (["HardSigmoid", "ScaledTanh", "Softsign"], [0.3, 0.8], [0.4, 0.9]),
        (["Sigmoid", "LeakyRelu", "Affine"], [0.2, 0.7], [0.1]),
        (["Sigmoid", "Softplus", "Elu"], [0.9], []),
    ],
)
def test_activations_with_parameters(activations, alpha, beta):
    attributes = {"activation_alpha": alpha} | ({"activation_beta": beta} if beta else {})
    layer("LSTM", activations=activations, **attributes).check()


def test_work_of_an_lstm():
    work = layer("LSTM", "bidirectional").work()
    assert isinstance(work, Scan)
    assert (work.steps, work.lanes) == (5, 6)
    assert work.macs == 5 * 2 * 3 * 4 * 6 * (4 + 6)
    assert work.state_bytes == 2 * 2 * 3 * 6 * 4
    # 8 bias additions, three logistic functions of 4, two tanh of 5, and 4 to combine, a hidden unit.
    assert work.step_flops == 2 * 3 * 6 * (8 + 12 + 10 + 4)


def test_weights_that_do_not_fit_are_named():
    case = NodeCase("GRU", [normal(5, 3, 4), normal(1, 12, 4), normal(1, 18, 6)], hidden_size=6)
    with pytest.raises(BadModel, match=r"node 'node' \(GRU\): expected W \[1, 18, 4\]"):
        case.inferred()
