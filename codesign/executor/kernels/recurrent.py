"""Cells of recurrent networks: one step from the projected inputs and the state, as the ONNX standard defines each.

All act on a batch: `projected` (batch, gates * hidden) holds the inputs' share of the gates with its bias; recurrent
weights are (gates * hidden, hidden), gates in the standard's order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Activation = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Cell:
    """Weights of one direction. `bias` (gates * hidden) is the recurrent one; `peephole` is of input, output and
    forget gate, or None; `clip` limits what enters an activation, None does not."""

    recurrent: Array
    bias: Array
    activations: tuple[Activation, ...]
    clip: float | None = None
    peephole: tuple[Array, Array, Array] | None = None
    coupled: bool = False
    reset_after: bool = False

    def carried(self, hidden: Array) -> Array:
        """What the state before (batch, hidden) adds to the gates."""
        return np.asarray(hidden @ self.recurrent.T)

    def limited(self, values: Array) -> Array:
        return values if self.clip is None else np.clip(values, -self.clip, self.clip)


Step = Callable[[Cell, Array, Sequence[Array]], list[Array]]


def rnn_step(cell: Cell, projected: Array, state: Sequence[Array]) -> list[Array]:
    (activation,) = cell.activations
    return [activation(cell.limited(projected + state[0] @ cell.recurrent.T + cell.bias))]


def gru_step(cell: Cell, projected: Array, state: Sequence[Array]) -> list[Array]:
    """Gates update, reset, hidden; `reset_after` applies the reset to the product, not to the state before it."""
    gate, candidate = cell.activations
    (hidden,) = state
    width = hidden.shape[-1]
    both = slice(0, 2 * width)
    gates = projected[:, both] + hidden @ cell.recurrent[both].T + cell.bias[both]
    update, reset = np.split(gate(cell.limited(gates)), 2, axis=-1)
    weights, bias = cell.recurrent[2 * width :], cell.bias[2 * width :]
    scaled = hidden if cell.reset_after else reset * hidden
    product = scaled @ weights.T + bias
    product = reset * product if cell.reset_after else product
    proposed = candidate(cell.limited(projected[:, 2 * width :] + product))
    return [(1 - update) * proposed + update * hidden]


def lstm_step(cell: Cell, projected: Array, state: Sequence[Array]) -> list[Array]:
    """Gates input, output, forget, cell; the state is (hidden, cell)."""
    gate, candidate, squash = cell.activations
    hidden, memory = state
    gates = projected + cell.carried(hidden) + cell.bias
    to_input, to_output, to_forget, to_cell = np.split(gates, 4, axis=-1)
    if cell.peephole is not None:
        to_input, to_forget = to_input + cell.peephole[0] * memory, to_forget + cell.peephole[2] * memory
    entering = gate(cell.limited(to_input))
    keeping = 1 - entering if cell.coupled else gate(cell.limited(to_forget))
    memory = keeping * memory + entering * candidate(cell.limited(to_cell))
    if cell.peephole is not None:
        to_output = to_output + cell.peephole[1] * memory
    return [gate(cell.limited(to_output)) * squash(memory), memory]


def run_direction(
    step: Step, cell: Cell, projected: Array, state: Sequence[Array], lengths: Array | None, backward: bool
) -> tuple[Array, list[Array]]:
    """All steps of one direction: hidden states (steps, batch, hidden), zero beyond a sequence's end, and the last
    state. `projected` (steps, batch, gates * hidden); `lengths` (batch,), None when all sequences fill the steps."""
    steps = projected.shape[0]
    states = list(state)
    hidden = np.zeros((steps, *states[0].shape), states[0].dtype)
    for position in reversed(range(steps)) if backward else range(steps):
        stepped = step(cell, projected[position], states)
        if lengths is None:
            states, hidden[position] = stepped, stepped[0]
            continue
        alive = (position < lengths)[:, None]
        states = [np.where(alive, new, old) for new, old in zip(stepped, states, strict=True)]
        hidden[position] = np.where(alive, stepped[0], 0)
    return hidden, states
