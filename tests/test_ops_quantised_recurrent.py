"""The LSTM with integer products against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.work import Scan
from tests.onnx_case import NodeCase, normal
from tests.test_ops_quantised import bytes_like

STEPS, BATCH, INPUTS, HIDDEN = 5, 3, 7, 6


def layer(directions=1, signed=True, columns=False, lengths=None, initial=False, peephole=False, bias=True, **settings):
    size = (directions, 4 * HIDDEN) if columns else (directions,)
    weights = [bytes_like(directions, rows, 4 * HIDDEN, signed=signed) for rows in (INPUTS, HIDDEN)]
    inputs = [normal(STEPS, BATCH, INPUTS), *weights, normal(directions, 8 * HIDDEN) / 5 if bias else None]
    inputs += [None if lengths is None else np.array(lengths, np.int32)]
    inputs += [normal(directions, BATCH, HIDDEN, seed=seed) if initial else None for seed in (3, 4)]
    inputs += [normal(directions, 3 * HIDDEN) / 5 if peephole else None]
    for seed in (1, 2):
        # onnxruntime takes scales of columns with zero points of zero alone.
        zero = np.full(size, 0 if columns else 9, weights[0].dtype)
        inputs += [np.abs(normal(*size, seed=seed)) / 200 + np.float32(0.001), zero]
    return NodeCase("DynamicQuantizeLSTM", inputs, 3, hidden_size=HIDDEN, domain="com.microsoft", **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"signed": False},
        {"columns": True},
        {"direction": "reverse"},
        {"directions": 2, "direction": "bidirectional", "columns": True},
        {"initial": True},
        {"peephole": True},
        {"bias": False},
        {"input_forget": 1},
    ],
    ids=str,
)
def test_layer(settings):
    layer(**settings).check(1e-5)


def test_sequences_of_different_lengths():
    """A step's states have one range, that of sequences which are over included; what these hold is onnxruntime's own
    affair, so that results may be some of 255 steps of that range apart."""
    layer(lengths=[5, 3, 1]).check(1 / 255)


def test_work_is_the_lstms_in_bytes():
    work = layer().work()
    assert isinstance(work, Scan)
    assert (work.dtype, work.steps, work.step_macs) == ("uint8", STEPS, BATCH * HIDDEN * 4 * (INPUTS + HIDDEN))
