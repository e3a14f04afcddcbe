"""Blocks of the workloads against their definitions in numpy, on the executor and on onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.block_case import run_block
from workloads.blocks.recurrence import Recurrence, linear_recurrence, unit_lower_inverse
from workloads.builder import Builder, Value

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def test_a_scan_carries_its_states_and_stacks_its_results_along_the_axis_scanned() -> None:
    def block(graph: Builder, value: Value, start: Value) -> tuple[Value, Value]:
        weight = graph.weight("weight", 3, 3)

        def step(states: list[Value], slices: list[Value]) -> tuple[list[Value], list[Value]]:
            after = graph.add(graph.matmul(states[0], weight), slices[0])
            return [after], [after]

        [last], [every] = graph.scan(step, [start], [value], axis=1)
        return last, every

    for length in (5, 80):  # unrolled by the frontend, and kept as a loop
        value, start = normal(2, length, 3) * 0.1, normal(2, 3)
        last, every = run_block(block, value, start)
        assert every.shape == value.shape
        np.testing.assert_array_equal(last, every[:, -1])
        [only_first, _] = run_block(block, value[:, :1], start)
        np.testing.assert_allclose(every[:, 0], only_first, rtol=1e-5)


DECAYS = {"none": None, "head": 1, "channel": 8, "element": 6}
"""Sizes of the decay's last dimension, for key size 8 and value size 6."""


def recurrence_reference(query, key, value, log_decay, rates, beta, state):  # type: ignore[no-untyped-def]
    """The definition, token by token, in float64."""
    state = state.astype(np.float64)
    outputs = []
    for t in range(query.shape[2]):
        if rates is not None:
            state = np.exp(log_decay[:, :, t, None, :] * rates) * state
        elif log_decay is not None:
            state = np.exp(log_decay[:, :, t, :, None]) * state
        written = value[:, :, t]
        if beta is not None:
            written = beta[:, :, t] * (written - np.einsum("bhk,bhkv->bhv", key[:, :, t], state))
        state = state + key[:, :, t, :, None] * written[:, :, None, :]
        outputs.append(np.einsum("bhk,bhkv->bhv", query[:, :, t], state))
    return np.stack(outputs, 2), state


@settings(max_examples=12, deadline=None)
@given(
    decay=st.sampled_from(list(DECAYS)),
    delta=st.booleans(),
    chunk=st.sampled_from([4, 16, 32, 64]),
    chunks=st.integers(1, 3),
    strength=st.sampled_from([0.01, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_every_form_of_a_recurrence_agrees_with_its_definition(
    decay: str, delta: bool, chunk: int, chunks: int, strength: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    lead, tokens = (1, 2), chunk * chunks
    query, key = (random.standard_normal((*lead, tokens, 8), dtype=np.float32) for _ in range(2))
    key /= np.linalg.norm(key, axis=-1, keepdims=True)
    value, state = random.standard_normal((*lead, tokens, 6), dtype=np.float32), normal(*lead, 8, 6)
    rates = -np.exp(random.standard_normal((8, 6), dtype=np.float32)) if decay == "element" else None
    log_decay = None
    if size := DECAYS[decay]:
        log_decay = (
            strength * random.random((*lead, tokens, size), dtype=np.float32) * (1 if decay == "element" else -1)
        )
    beta = random.random((*lead, tokens, 1), dtype=np.float32) if delta else None
    gates = {"log_decay": log_decay, "rates": rates, "beta": beta}
    optional = {field: array for field, array in gates.items() if array is not None}
    expected = recurrence_reference(query, key, value, **gates, state=state)
    forms = ["recurrent"]
    if not (decay == "element" or (delta and decay != "none")):
        forms.append("chunked")
    if not delta:
        forms.append("parallel")
    for form in forms:

        def block(graph: Builder, q: Value, k: Value, v: Value, s: Value, *rest: Value, form: Any = form) -> Any:
            operands = Recurrence(q, k, v, **dict(zip(optional, rest, strict=True)))
            return linear_recurrence(graph, operands, form, s, chunk=chunk)

        computed = run_block(block, query, key, value, state, *optional.values())
        for array, exact in zip(computed, expected, strict=True):
            np.testing.assert_allclose(array, exact, rtol=1e-3, atol=1e-4, err_msg=form)


@pytest.mark.parametrize("size", [3, 17, 64])
def test_forward_substitution_inverts_unit_lower_triangular_matrices(size: int) -> None:
    lower = np.tril(0.3 * normal(2, size, size), -1)
    [inverse] = run_block(unit_lower_inverse, lower)
    np.testing.assert_allclose(inverse @ (np.eye(size) + lower), np.broadcast_to(np.eye(size), lower.shape), atol=1e-3)
