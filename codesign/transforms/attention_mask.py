"""Masks of attention: what a constant one hides, and how several become the one that the operator takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codesign.dtypes import numpy_dtype
from codesign.graph import Op
from codesign.transforms.match import View
from codesign.transforms.rewrite import Array, Rewriter
from codesign.transforms.views import reshape

HIDDEN = -1e4
"""An added value at or below this hides a key: exp(-1e4) is zero in every floating type."""
LARGEST_MASK_ELEMENTS = 1 << 24
"""Constants with more elements are not read to see what they hide (64 MiB of float32)."""


@dataclass(frozen=True)
class Mask:
    """A mask on scores of `shape`: values that are added or, when `hidden` is given, a selection.

    A selection replaces scores by `hidden` where it is false (`keeps`) or true.
    """

    name: str
    shape: tuple[int, ...]
    keeps: bool = True
    hidden: float | None = None


class Masks:
    """The masks of one graph; constant ones are read once."""

    def __init__(self, view: View, rewriter: Rewriter) -> None:
        self.view = view
        self.rewriter = rewriter
        self._constants: dict[str, Array | None] = {}

    def lay(
        self, masks: Sequence[Mask], scores: tuple[int, int, int, int], like: str, ops: list[Op]
    ) -> tuple[str, bool]:
        """The one mask ("" for none) to lay on `scores`, and whether they are causal.

        Operations that make it are added to `ops`; `like` is a tensor of the type of the scores.
        """
        is_causal = False
        names: list[str] = []
        for mask in masks:
            hides = self._hides(mask, scores)
            if hides == "later" and not is_causal:
                is_causal = True
            elif hides != "nothing":
                names.append(self._four_axes(self._added(mask, like, len(masks) == 1, ops), mask.shape, scores, ops))
        if not names:
            return "", is_causal
        total = names[0]
        for name in names[1:]:
            shapes = self.rewriter.shape_of(total), self.rewriter.shape_of(name)
            summed = self.rewriter.tensor(like, np.broadcast_shapes(*shapes))
            ops.append(Op("", "Add", (total, name), (summed,), opset=14))
            total = summed
        return total, is_causal

    def _hides(self, mask: Mask, scores: tuple[int, int, int, int]) -> str:
        """What a mask hides: "nothing", all "later" keys (the standard's causal form), or "" for anything else."""
        values = self._constant(mask.name)
        if values is None or math.prod(values.shape[:-2]) != 1 or (1, *values.shape)[-1] not in (1, scores[3]):
            return ""
        if mask.hidden is not None:
            if mask.hidden > HIDDEN:
                return ""
            hidden = ~values.astype(bool) if mask.keeps else values.astype(bool)
        else:
            hidden = values <= HIDDEN
            if np.any(values[~hidden] != 0):
                return ""
        if not hidden.any():
            return "nothing"
        length = scores[2]
        square = hidden.shape[-2:] == (length, length) == scores[2:]
        return "later" if square and np.array_equal(hidden.reshape(length, length), _later(length)) else ""

    def _constant(self, name: str) -> Array | None:
        """The values of a constant, or of a choice between two scalars by one; None when absent or very large."""
        if name not in self._constants:
            self._constants[name] = self._read(name)
        return self._constants[name]

    def _read(self, name: str) -> Array | None:
        weight = self.view.graph.weights.get(name)
        if weight is not None:
            return weight.array() if weight.tensor.elements <= LARGEST_MASK_ELEMENTS else None
        choice = self.view.producer(name, "Where")
        if choice is None:
            return None
        condition = self._constant(choice.inputs[0])
        yes, no = (self.view.scalar(one) for one in choice.inputs[1:])
        return None if condition is None or yes is None or no is None else np.where(condition, yes, no)

    def _added(self, mask: Mask, like: str, alone: bool, ops: list[Op]) -> str:
        """The mask as values to add or, when it is the only one and hides by minus infinity, as truth values."""
        if mask.hidden is None:
            return mask.name
        shape = self.view.shape(mask.name)
        if alone and mask.hidden == -math.inf:
            if mask.keeps:
                return mask.name
            kept = self.rewriter.tensor(mask.name, shape)
            ops.append(Op("", "Not", (mask.name,), (kept,), opset=1))
            return kept
        number = numpy_dtype(self.view.tensor(like).dtype).type
        zero = self.rewriter.constant(f"{like}.visible", np.asarray(number(0)))
        hidden = self.rewriter.constant(f"{like}.hidden", np.asarray(number(mask.hidden)))
        added = self.rewriter.tensor(like, shape)
        choice = (mask.name, zero, hidden) if mask.keeps else (mask.name, hidden, zero)
        ops.append(Op("", "Where", choice, (added,), opset=16))
        return added

    def _four_axes(self, name: str, applied: tuple[int, ...], scores: tuple[int, int, int, int], ops: list[Op]) -> str:
        """A mask that was laid on scores seen as `applied`, with axes that can be laid on `scores`."""
        shape = self.rewriter.shape_of(name)
        if len(shape) < 2 or shape[-1] != scores[3]:  # the operator takes a matrix, and keys that it lacks as hidden
            shape = (*(*(1,) * (2 - len(shape)), *shape)[:-1], scores[3])
            name = self._expanded(name, shape, ops)
        if len(shape) <= 2 or applied == scores:
            return name
        aligned = (*(1,) * (len(applied) - len(shape)), *shape)
        leading, full = aligned[:-2], applied[:-2]
        if full[-1] == scores[1] and math.prod(full) == scores[0] * scores[1]:
            batch, repeats, heads = leading[:-1], full[:-1], leading[-1:]
        else:
            batch, repeats, heads = leading, full, ()
        if any(extent != 1 for extent in batch) and batch != repeats:
            aligned = (*repeats, *heads, *aligned[-2:])
            name = self._expanded(name, aligned, ops)
            batch = repeats
        if heads:
            four = (math.prod(batch), *heads, *aligned[-2:])
        else:
            four = (*(scores[:2] if math.prod(batch) > 1 else (1, 1)), *aligned[-2:])
        if self.rewriter.shape_of(name) == four:
            return name
        result = self.rewriter.tensor(name, four)
        ops.append(reshape(self.rewriter, name, result, four))
        return result

    def _expanded(self, name: str, shape: tuple[int, ...], ops: list[Op]) -> str:
        target = self.rewriter.constant(f"{name}.shape", np.array(shape, np.int64))
        result = self.rewriter.tensor(name, shape)
        ops.append(Op("", "Expand", (name, target), (result,), opset=13))
        return result


def _later(length: int) -> Array:
    """True where the key stands after the query."""
    return np.triu(np.ones((length, length), bool), 1)
