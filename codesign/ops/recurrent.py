"""Recurrent layers RNN, GRU and LSTM: the inputs of all steps projected at once, then one step after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from codesign.dtypes import dtype as element_type
from codesign.graph import Op
from codesign.ops.activations import ACTIVATIONS
from codesign.ops.arguments import bad, operands, optional, required, text
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.work import Scan, Work


@dataclass(frozen=True, slots=True)
class Layer:
    """What tells one kind of layer from another. `uses` counts how often each activation is evaluated for a hidden
    unit and step; `combine_flops` the other operations, biases (two a gate) apart."""

    gates: int
    states: int
    activations: tuple[str, ...]
    uses: tuple[int, ...]
    combine_flops: int


LAYERS = {
    "RNN": Layer(1, 1, ("Tanh",), (1,), 0),
    # Reset product; then (1 - z) h' + z h.
    "GRU": Layer(3, 1, ("Sigmoid", "Tanh"), (2, 1), 5),
    # f c + i g, then o times the squashed cell.
    "LSTM": Layer(4, 2, ("Sigmoid", "Tanh", "Tanh"), (3, 1, 1), 4),
}
# Multiply and add for each of three gates.
_PEEPHOLE_FLOPS = 6


def _affine(values: Array, alpha: float = 1.0, beta: float = 0.0) -> Array:
    return np.asarray(values * values.dtype.type(alpha) + values.dtype.type(beta))


def _scaled_tanh(values: Array, alpha: float = 1.0, beta: float = 1.0) -> Array:
    return np.asarray(np.tanh(values * values.dtype.type(beta)) * values.dtype.type(alpha))


# Parameters that each activation takes; what is not here takes none.
_PARAMETERS = {
    "Affine": ("alpha", "beta"), "ScaledTanh": ("alpha", "beta"), "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",), "ThresholdedRelu": ("alpha",), "Elu": ("alpha",),
}  # fmt: skip
_OWN: dict[str, tuple[Callable[..., Array], float]] = {"Affine": (_affine, 2), "ScaledTanh": (_scaled_tanh, 7)}


@dataclass(frozen=True, slots=True)
class Extents:
    """Extents of a layer on its input."""

    steps: int
    batch: int
    inputs: int
    hidden: int
    directions: int


@operator(*LAYERS)
class Recurrent(Operator):
    """Inputs: X, W, R, B, sequence lengths, initial hidden state, and for LSTM initial cell and peepholes.

    Outputs: all hidden states, the last one, and for LSTM the last cell. `layout` 1 puts the batch first.
    """

    @staticmethod
    def _extents(op: Op, inputs: Sequence[Any]) -> Extents:
        values, weights = required(op, inputs, 0, "X").shape, required(op, inputs, 1, "W").shape
        recurrent, layer = required(op, inputs, 2, "R").shape, LAYERS[op.kind]
        if len(values) != 3 or len(weights) != 3 or len(recurrent) != 3:
            raise bad(op, f"expected 3-D X, W and R, got {list(values)}, {list(weights)}, {list(recurrent)}")
        steps, batch = values[:2] if not op.attributes.get("layout", 0) else values[1::-1]
        hidden = recurrent[2]
        directions = 2 if text(op, "direction", "forward") == "bidirectional" else 1
        expected = ((directions, layer.gates * hidden, values[2]), (directions, layer.gates * hidden, hidden))
        if (tuple(weights), tuple(recurrent)) != expected:
            raise bad(
                op, f"expected W {list(expected[0])}, R {list(expected[1])}: got {list(weights)}, {list(recurrent)}"
            )
        return Extents(steps, batch, values[2], hidden, directions)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        found, kind = self._extents(op, inputs), required(op, inputs, 0, "X").dtype
        if op.attributes.get("layout", 0):
            everything = (found.batch, found.steps, found.directions, found.hidden)
            last: tuple[int, ...] = (found.batch, found.directions, found.hidden)
        else:
            everything = (found.steps, found.directions, found.batch, found.hidden)
            last = (found.directions, found.batch, found.hidden)
        return [(everything, kind), (last, kind), (last, kind)][: len(op.outputs)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        from codesign.executor.kernels.recurrent import run_direction

        found, layer = self._extents(op, inputs), LAYERS[op.kind]
        batch_first = bool(op.attributes.get("layout", 0))
        values = required(op, inputs, 0, "X")
        values = values.swapaxes(0, 1) if batch_first else values
        lengths = optional(inputs, 4)
        runs = []
        for direction in range(found.directions):
            cell, weights, bias = self._cell(op, inputs, found, direction)
            projected = self._projected(values.reshape(-1, found.inputs), weights) + bias
            states = [self._initial(inputs, 5 + state, found, direction, values.dtype, batch_first)
                      for state in range(layer.states)]  # fmt: skip
            backward = direction == 1 or text(op, "direction", "forward") == "reverse"
            projected = projected.reshape(found.steps, found.batch, -1)
            runs.append(run_direction(_step(op.kind), cell, projected, states, lengths, backward))
        hidden = np.stack([run[0] for run in runs], axis=1)
        last = [np.stack([run[1][state] for run in runs]) for state in range(layer.states)]
        if batch_first:
            hidden, last = hidden.transpose(2, 0, 1, 3), [state.swapaxes(0, 1) for state in last]
        return [hidden, *last][: len(op.outputs)]

    @staticmethod
    def _projected(values: Array, weights: Any) -> Array:
        """What the inputs (steps * batch, inputs) add to the gates."""
        return np.asarray(values @ weights.T)

    @staticmethod
    def _initial(
        inputs: Sequence[Array | None], index: int, found: Extents, direction: int, kind: Any, batch_first: bool
    ) -> Array:
        given = optional(inputs, index)
        if given is None:
            return np.zeros((found.batch, found.hidden), kind)
        return given[:, direction] if batch_first else given[direction]

    def _cell(self, op: Op, inputs: Sequence[Array | None], found: Extents, direction: int) -> tuple[Any, Array, Array]:
        """The cell of a direction, its input weights and their bias."""
        from codesign.executor.kernels.recurrent import Cell

        weights, recurrent = required(op, inputs, 1, "W")[direction], required(op, inputs, 2, "R")[direction]
        biases, peephole = optional(inputs, 3), optional(inputs, 7) if op.kind == "LSTM" else None
        bias = np.zeros((2, weights.shape[0]), weights.dtype) if biases is None else biases[direction].reshape(2, -1)
        cell = Cell(
            recurrent,
            bias[1],
            tuple(function for function, _ in self._activations(op, direction)),
            float(op.attributes["clip"]) if op.attributes.get("clip") else None,
            None if peephole is None else tuple(peephole[direction].reshape(3, found.hidden)),
            bool(op.attributes.get("input_forget", 0)),
            bool(op.attributes.get("linear_before_reset", 0)),
        )
        return cell, weights, bias[0]

    @staticmethod
    def _activations(op: Op, direction: int) -> list[tuple[Callable[[Array], Array], float]]:
        """The activations of a direction with the operations each costs. Parameters are given in the order of the
        activations that take any; those that are not given have the standard's defaults."""
        layer = LAYERS[op.kind]
        names = [one.decode() if isinstance(one, bytes) else str(one) for one in op.attributes.get("activations", ())]
        names = names or list(layer.activations) * 2
        given = {f"activation_{key}": list(op.attributes.get(f"activation_{key}", ())) for key in ("alpha", "beta")}
        found: list[tuple[Callable[[Array], Array], float]] = []
        for name in names:
            known = {one.lower(): one for one in (*ACTIVATIONS, *_OWN)}
            if name.lower() not in known:
                raise bad(op, f"activation '{name}' is unknown; expected one of {', '.join(known.values())}")
            name = known[name.lower()]
            parameters = {
                key: given[f"activation_{key}"].pop(0)
                for key in _PARAMETERS.get(name, ())
                if given[f"activation_{key}"]
            }
            if name in _OWN:
                found.append((partial(_OWN[name][0], **parameters), _OWN[name][1]))
            else:
                function, inner = ACTIVATIONS[name], Op(op.name, name, (), (), parameters)
                found.append((partial(function.apply, inner), function.flops))
        count = len(layer.activations)
        return found[direction * count : (direction + 1) * count]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        found, layer, kind = self._extents(op, inputs), LAYERS[op.kind], required(op, inputs, 0, "X").dtype
        units = found.batch * found.hidden
        each = 0.0
        for direction in range(found.directions):
            costs = [flops for _, flops in self._activations(op, direction)]
            each += sum(uses * flops for uses, flops in zip(layer.uses, costs, strict=True))
            each += layer.combine_flops + 2 * layer.gates
            each += _PEEPHOLE_FLOPS * (op.kind == "LSTM" and optional(inputs, 7) is not None)
        return Scan(
            kind=op.kind,
            reads=operands(inputs),
            writes=tuple(output.operand() for output in outputs),
            steps=found.steps,
            step_macs=found.directions * units * layer.gates * (found.inputs + found.hidden),
            step_flops=int(units * each),
            state_bytes=element_type(kind).bytes_for(found.directions * units * layer.states),
            lanes=found.directions * found.batch,
            dtype=kind,
        )


def _step(kind: str) -> Any:
    from codesign.executor.kernels import recurrent

    return {"RNN": recurrent.rnn_step, "GRU": recurrent.gru_step, "LSTM": recurrent.lstm_step}[kind]
