"""The first layer of BERT as one operation: rows of three tables added up and normalised (ONNX Runtime)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, narrowed, operands, optional, required, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.normalisation import MEAN_VARIANCE_FLOPS, row_work, standardise
from codesign.work import Work


@operator("EmbedLayerNormalization", domain="com.microsoft")
class EmbedLayerNormalization(Operator):
    """Inputs: ids of words and of segments (batch, length), tables of words, positions and segments, gain, bias, mask,
    ids of positions. Outputs: the rows (batch, length, width), the number of words that each mask lets through, and
    the sum before normalisation."""

    @staticmethod
    def _tables(op: Op, inputs: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Tables of words and positions, and of segments or None. Raises BadModel when they do not fit together."""
        words, positions, segments = required(op, inputs, 2, "word_embedding"), required(
            op, inputs, 3, "position_embedding"
        ), optional(inputs, 4)  # fmt: skip
        ids = required(op, inputs, 0, "input_ids").shape
        widths = {table.shape[-1] for table in (words, positions, segments) if table is not None}
        if len(ids) != 2 or len(widths) != 1 or (segments is None) != (optional(inputs, 1) is None):
            raise bad(op, f"ids {list(ids)}, tables of widths {sorted(widths)} and segments do not fit together")
        if optional(inputs, 8) is None and positions.shape[0] < ids[1]:
            raise bad(op, f"{ids[1]} words but {positions.shape[0]} positions")
        return words, positions, segments

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        words, _, _ = self._tables(op, inputs)
        ids = required(op, inputs, 0, "input_ids").shape
        rows = ((*ids, words.shape[1]), words.dtype)
        return [rows, ((ids[0],), "int32"), rows][: len(op.outputs)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        words, positions, segments = self._tables(op, inputs)
        ids, kinds, places = required(op, inputs, 0, "input_ids"), optional(inputs, 1), optional(inputs, 8)
        places = np.arange(ids.shape[1]) if places is None else places
        total = widened(_rows(op, words, ids)) + widened(_rows(op, positions, places))
        if segments is not None and kinds is not None:
            total += widened(_rows(op, segments, kinds))
        result, _, _ = standardise(total.copy(), (2,), op.attributes.get("epsilon", 1e-12))
        result *= widened(required(op, inputs, 5, "gamma"))
        result += widened(required(op, inputs, 6, "beta"))
        mask = optional(inputs, 7)
        seen = np.zeros(ids.shape[0], np.int32) if mask is None else (mask == 1).sum(axis=1, dtype=np.int32)
        return [narrowed(result, words.dtype), seen, narrowed(total, words.dtype)][: len(op.outputs)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """The normalisation; of each table only the rows looked up are read."""
        result, tables = outputs[0], [table for table in self._tables(op, inputs) if table is not None]
        rows = tuple(table.operand(min(result.elements, table.elements)) for table in tables)
        work = row_work(op, [result], outputs, result.shape[-1], MEAN_VARIANCE_FLOPS + len(tables) - 1)
        others = operands(inputs, 5, 6, 7, 8)
        return replace(work, kind="LayerNormalization", reads=(*operands(inputs, 0, 1), *rows, *others))


def _rows(op: Op, table: Array, ids: Array) -> Array:
    if ids.size and (ids.min() < 0 or ids.max() >= table.shape[0]):
        raise bad(op, f"ids from {ids.min()} to {ids.max()} in a table of {table.shape[0]} rows")
    return np.asarray(table[ids])
