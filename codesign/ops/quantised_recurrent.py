"""The LSTM whose products are integers, their inputs quantised by their own range (DynamicQuantizeLSTM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from codesign.executor.kernels.recurrent import Cell
from codesign.graph import Op
from codesign.ops.arguments import optional, required
from codesign.ops.base import Array, ShapeAndType, Value, operator
from codesign.ops.quantisation import DEQUANTISE_FLOPS, QUANTISE_FLOPS, quantised_to_range
from codesign.ops.quantised import integer_product
from codesign.ops.recurrent import Extents, Recurrent
from codesign.work import Scan, Work


@dataclass(frozen=True, slots=True)
class QuantisedWeights:
    """Weights (inputs, gates * hidden) of one direction with their scale and zero point, of all or of each column."""

    integers: Array
    scale: Array
    zero: Array

    def product(self, values: Array) -> Array:
        """`values` (rows, inputs) as uint8 over their range, times the weights, as floats."""
        quantised, scale, zero = quantised_to_range(values)
        sums = integer_product(quantised, self.integers, zero, self.zero)
        return np.asarray(sums.astype(np.float32) * (scale * self.scale))


@dataclass(frozen=True)
class QuantisedCell(Cell):
    """A cell whose recurrent weights are integers."""

    weights: QuantisedWeights | None = None

    def carried(self, hidden: Array) -> Array:
        assert self.weights is not None
        return self.weights.product(hidden)


@operator("DynamicQuantizeLSTM", domain="com.microsoft")
class DynamicQuantizeLSTM(Recurrent):
    """LSTM with W (directions, inputs, 4 hidden) and R (directions, hidden, 4 hidden) of 8 bits, turned against the
    standard's. Inputs as LSTM's, then scale and zero point of W and of R, one or one a column for each direction.

    The inputs of all steps have one range, the states of a step another.
    """

    @staticmethod
    def _standard(op: Op, inputs: Sequence[Any]) -> tuple[Op, list[Any]]:
        """The operation as an LSTM on weights in the standard's layout."""
        turned = list(inputs[:8])
        for index in (1, 2):
            weights = required(op, inputs, index, "W, R")
            if isinstance(weights, Value):
                turned[index] = replace(weights, shape=(weights.shape[0], *weights.shape[:0:-1]), constant=None)
            else:
                turned[index] = np.swapaxes(weights, 1, 2)
        return replace(op, kind="LSTM", domain=""), turned

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        return super().infer(*self._standard(op, inputs))

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        inner, arrays = self._standard(op, inputs)
        return super().compute(inner, [*arrays, *(required(op, inputs, index, "scale") for index in range(8, 12))])

    @staticmethod
    def _projected(values: Array, weights: Any) -> Array:
        return np.asarray(weights.product(values))

    def _cell(self, op: Op, inputs: Sequence[Array | None], found: Extents, direction: int) -> tuple[Any, Any, Array]:
        cell, _, bias = super()._cell(op, inputs, found, direction)
        sides = [
            QuantisedWeights(
                required(op, inputs, index, "W, R")[direction].T,
                np.asarray(required(op, inputs, scale, "scale")[direction]),
                np.asarray(required(op, inputs, scale + 1, "zero point")[direction]),
            )
            for index, scale in ((1, 8), (2, 10))
        ]
        quantised = QuantisedCell(
            cell.recurrent, cell.bias, cell.activations, cell.clip, cell.peephole, cell.coupled, weights=sides[1]
        )
        return quantised, sides[0], bias

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """The LSTM's, with its inputs and states quantised and its sums dequantised."""
        inner, values = self._standard(op, inputs)
        found = self._extents(inner, values)
        work = super().work(inner, values, outputs)
        assert isinstance(work, Scan)
        quantised = found.batch * (found.inputs + found.hidden * found.directions)
        sums = 2 * 4 * found.directions * found.batch * found.hidden
        extra = int(QUANTISE_FLOPS * quantised + DEQUANTISE_FLOPS * sums)
        others = tuple(value.operand() for index in range(8, 12) if (value := optional(inputs, index)) is not None)
        return replace(
            work, kind=op.kind, reads=(*work.reads, *others), step_flops=work.step_flops + extra, dtype="uint8"
        )
