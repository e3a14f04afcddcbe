"""One step of training as an operator (ai.onnx.preview.training): Adagrad, Adam, Momentum.

Inputs are the learning rate, the number of steps done, and then all tensors, all gradients and all of each state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, required, text
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import map_work
from codesign.work import Work

DOMAIN = "ai.onnx.preview.training"


class Step(Operator):
    """`states` tensors are kept beside each that is trained; a step is `flops` operations an element."""

    states = 1
    flops = 8.0

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        count = self._count(op, len(inputs))
        kept = [*range(2, 2 + count), *range(2 + 2 * count, len(inputs))]
        found = [required(op, inputs, index, "inputs") for index in kept]
        return [(value.shape, value.dtype) for value in found]

    def _count(self, op: Op, inputs: int) -> int:
        """How many tensors are trained."""
        count, rest = divmod(inputs - 2, 2 + self.states)
        if rest or count < 1:
            raise bad(op, f"{inputs} inputs, expected 2 and {2 + self.states} for each tensor")
        return count

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        count = self._count(op, len(inputs))
        rate, steps = (float(required(op, inputs, index, name).item()) for index, name in enumerate(("R", "T")))
        groups = [[required(op, inputs, 2 + group * count + one, "inputs") for group in range(2 + self.states)]
                  for one in range(count)]  # fmt: skip
        results = []
        for tensor, gradient, *states in groups:
            regularised = op.attributes.get("norm_coefficient", 0.0) * tensor + gradient
            found = self.step(op, rate, steps, tensor, regularised, states)
            results.append([one.astype(tensor.dtype, copy=False) for one in found])
        return [result for kind in zip(*results, strict=True) for result in kind]

    def step(
        self, op: Op, rate: float, steps: float, tensor: Array, gradient: Array, states: Sequence[Array]
    ) -> list[Array]:
        """The new tensor, and its new states."""
        raise NotImplementedError

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        count = self._count(op, len(inputs))
        total = sum(output.elements for output in outputs[:count])
        return map_work(op, inputs, outputs, self.flops * total / max(outputs[0].elements, 1))


@operator("Adagrad", domain=DOMAIN)
class Adagrad(Step):
    """Duchi et al., JMLR 2011."""

    def step(
        self, op: Op, rate: float, steps: float, tensor: Array, gradient: Array, states: Sequence[Array]
    ) -> list[Array]:
        rate /= 1 + steps * op.attributes.get("decay_factor", 0.0)
        squares = states[0] + gradient * gradient
        adapted = np.sqrt(squares) + op.attributes.get("epsilon", 1e-6)
        return [tensor - rate * gradient / adapted, squares]


@operator("Adam", domain=DOMAIN)
class Adam(Step):
    """Kingma & Ba, ICLR 2015 (arXiv:1412.6980)."""

    states = 2
    flops = 14.0

    def step(
        self, op: Op, rate: float, steps: float, tensor: Array, gradient: Array, states: Sequence[Array]
    ) -> list[Array]:
        number = op.attributes.get
        alpha, beta = number("alpha", 0.9), number("beta", 0.999)
        mean = alpha * states[0] + (1 - alpha) * gradient
        squares = beta * states[1] + (1 - beta) * gradient * gradient
        if steps > 0:
            rate *= np.sqrt(1 - beta**steps) / (1 - alpha**steps)
        moved = tensor - rate * mean / (np.sqrt(squares) + number("epsilon", 1e-6))
        return [(1 - number("norm_coefficient_post", 0.0)) * moved, mean, squares]


@operator("Momentum", domain=DOMAIN)
class Momentum(Step):
    """Steps along a decaying sum of gradients; Nesterov's look one step ahead."""

    def step(
        self, op: Op, rate: float, steps: float, tensor: Array, gradient: Array, states: Sequence[Array]
    ) -> list[Array]:
        alpha, beta, mode = op.attributes.get("alpha", 0.0), op.attributes.get("beta", 1.0), text(op, "mode")
        if mode not in ("standard", "nesterov"):
            raise bad(op, f"attribute 'mode' is '{mode}', expected standard or nesterov")
        momentum = alpha * states[0] + (beta if steps > 0 else 1.0) * gradient
        direction = gradient + alpha * momentum if mode == "nesterov" else momentum
        return [tensor - rate * direction, momentum]
