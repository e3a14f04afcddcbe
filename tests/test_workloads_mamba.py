"""Mamba: the forms of its scan agree, its state does not grow, and its recurrence is as long as its sequence."""

from __future__ import annotations

import numpy as np
import pytest

import workloads
from codesign.frontend import from_proto
from codesign.lower import lower
from codesign.work import Scan
from tests.workload_case import assert_close, outputs_here

TOKENS = np.random.default_rng(0).integers(0, 100, (2, 9))


def test_parallel_form_equals_the_recurrence() -> None:
    recurrent, parallel = (
        outputs_here("mamba_130m", {"input_ids": TOKENS}, sequence=9, form=form) for form in ("recurrent", "parallel")
    )
    assert_close(parallel, recurrent)


@pytest.mark.parametrize("first", [1, 2, 7])
def test_decode_steps_continue_the_prefill(first: int) -> None:
    whole = outputs_here("mamba_130m", {"input_ids": TOKENS}, sequence=9)
    found = outputs_here("mamba_130m", {"input_ids": TOKENS[:, :first]}, sequence=first)
    for step in range(first, 9):
        past = {name.replace("present", "past"): value for name, value in found.items() if name != "logits"}
        found = outputs_here("mamba_130m_decode", {"input_ids": TOKENS[:, step : step + 1], **past})
    assert_close(found, {**whole, "logits": whole["logits"][:, -1:]})


def test_simulated_scan_has_a_dependent_step_for_each_token_and_never_writes_its_states() -> None:
    fused = lower(from_proto(workloads.build("mamba_130m", configuration={"layers": 1})))
    [scan] = [work for work in fused if isinstance(work, Scan)]
    assert scan.steps == 2048
    assert scan.macs == 0  # a state that decays element by element gives no matrix unit work
    unfused = lower(from_proto(workloads.build("mamba_130m", configuration={"layers": 1, "form": "parallel"})))
    traffic = [sum(operand.bytes for work in works for operand in work.writes) for works in (fused, unfused)]
    assert sum(operand.bytes for operand in scan.writes) < 2 * 2048 * 1536 * 4
    assert traffic[1] > 10 * traffic[0]


def test_decode_step_moves_bytes_that_do_not_depend_on_the_context() -> None:
    model = workloads.build("mamba_1_4b_decode")
    states = [value for value in model.graph.input if value.name.startswith("past_state")]
    elements = sum(int(np.prod([d.dim_value for d in v.type.tensor_type.shape.dim])) for v in states)
    assert elements == 48 * 4096 * (16 + 3)
