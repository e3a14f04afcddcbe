"""Another batch for a model exported with a fixed one: the walk is repeated with other inputs, and operations that have
the old batch written in their constants are given the new one.

The first conversion says where the batch is: a tensor whose shape differs between the two holds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from codesign.errors import BadModel
from codesign.frontend.walk import Walk
from codesign.graph import Op, Tensor, Weight

Shape = tuple[int, ...]
RECURRENT_STATES: dict[str, tuple[int, ...]] = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
"""Input positions of initial states, [directions, batch, hidden]."""
MAY_LOSE_BATCH = frozenset(("Shape", "Size", "DynamicQuantizeLinear"))
"""Operations whose result need not grow with the batch; so do all reductions."""
TO_THE_END = np.iinfo(np.int64).max


class Rebatch:
    """Adjusts operations during the second walk. `base` is the first one, at batch `old`.

    `_inside` counts the positions before the batch in an axis it shares (time-major rows).
    """

    def __init__(self, base: Walk, old: int, new: int) -> None:
        self.base = base
        self.old = old
        self.new = new
        self._inside: dict[str, int] = {}
        self._rules: dict[str, Callable[[Walk, Op], Op]] = {
            "Reshape": self._reshape,
            "Expand": self._expand,
            "Concat": self._concat,
            "Slice": self._slice,
            "Resize": self._resize,
            "GatherND": self._lookup,
            "Gather": self._lookup,
            **dict.fromkeys(RECURRENT_STATES, self._recurrent),
        }

    def input_shapes(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Shapes of the inputs with the new batch in front where the old one was."""
        return {
            name: (self.new, *shape[1:]) if shape and shape[0] == self.old else shape for name, shape in shapes.items()
        }

    def __call__(self, walk: Walk, op: Op) -> Op:
        """The operation as it has to be at the new batch."""
        self._inside.update(
            (name, self._inside[one]) for one in op.inputs if one in self._inside for name in op.outputs
        )
        rule = self._rules.get(op.kind)
        if rule is None or not any(self._axes(walk, name) for name in op.inputs):
            return op
        return rule(walk, op)

    def check(self, walk: Walk) -> None:
        """Raises BadModel naming the first operation that loses the batch."""
        for op in walk.ops:
            if op.kind in MAY_LOSE_BATCH or op.kind.startswith("Reduce") or op.bodies:
                continue
            grown = [name for name in op.inputs if name not in walk.weights and self._axes(walk, name)]
            if grown and not any(self._axes(walk, name) or name not in self.base.tensors for name in op.outputs):
                raise self._blocked(op, "its result stays the same although its input grows")

    def _axes(self, walk: Walk, name: str) -> list[int]:
        """Axes along which a tensor grew."""
        before, after = self.base.tensors.get(name), walk.tensors.get(name)
        if before is None or after is None or len(before.shape) != len(after.shape):
            return []
        return [axis for axis, (one, two) in enumerate(zip(before.shape, after.shape, strict=True)) if one != two]

    def _fixed(self, walk: Walk, name: str) -> np.ndarray | None:
        """The values of a constant that did not follow the batch; None when they did, or are not known."""
        before = self.base.constant(name) if name in self.base.values else None
        after = walk.constant(name)
        return after if before is not None and after is not None and np.array_equal(before, after) else None

    def _blocked(self, op: Op, reason: str) -> BadModel:
        return BadModel(f"cannot change the batch to {self.new}: node '{op.name}' ({op.kind}) blocks, {reason}")

    def _with_constant(self, walk: Walk, op: Op, position: int, values: list[int]) -> Op:
        name = walk.add_constant(f"{op.name}/batch_{position}", np.asarray(values, dtype=np.int64))
        return replace(op, inputs=(*op.inputs[:position], name, *op.inputs[position + 1 :]))

    # One rule for each operator that exporters write the batch into

    def _reshape(self, walk: Walk, op: Op) -> Op:
        if self._fixed(walk, op.inputs[1]) is None or op.outputs[0] not in self.base.tensors:
            return op
        grown = self._axes(walk, op.inputs[0])
        if not grown:
            return op
        source = self.base.tensors[op.inputs[0]].shape
        target = list(self.base.tensors[op.outputs[0]].shape)
        outer = math.prod(source[: grown[0]]) * self._inside.get(op.inputs[0], 1)
        found = place_of_batch(outer, self.old, tuple(target))
        if found is None:
            raise self._blocked(op, f"its shape {target} does not tell where the batch of {list(source)} goes")
        place, inside = found
        target[place] = target[place] // self.old * self.new
        self._inside.pop(op.outputs[0], None)
        if inside > 1:
            self._inside[op.outputs[0]] = inside
        return self._with_constant(walk, op, 1, target)

    def _expand(self, walk: Walk, op: Op) -> Op:
        fixed = self._fixed(walk, op.inputs[1])
        if fixed is None:
            return op
        target, shape = [int(one) for one in fixed], walk.tensors[op.inputs[0]].shape
        for axis in self._axes(walk, op.inputs[0]):
            place = len(target) - len(shape) + axis
            if place >= 0 and target[place] == self.base.tensors[op.inputs[0]].shape[axis]:
                target[place] = shape[axis]
        return self._with_constant(walk, op, 1, target)

    def _concat(self, walk: Walk, op: Op) -> Op:
        """Constants joined with activations (a class token) are repeated for each sample."""
        grown = {axis for name in op.inputs for axis in self._axes(walk, name)}
        rank = len(walk.tensors[op.inputs[0]].shape)
        grown.discard(int(op.attributes.get("axis", 0)) % max(rank, 1))
        if not grown:
            return op
        wide = next(walk.tensors[name].shape for name in op.inputs if grown & set(self._axes(walk, name)))
        inputs = tuple(
            name if self._axes(walk, name) else self._repeated(walk, op, name, {axis: wide[axis] for axis in grown})
            for name in op.inputs
        )
        return replace(op, inputs=inputs)

    def _recurrent(self, walk: Walk, op: Op) -> Op:
        states = RECURRENT_STATES[op.kind]
        batch_axis = 0 if op.attributes.get("layout", 0) else 1
        inputs = list(op.inputs)
        batch = walk.tensors[op.inputs[0]].shape[batch_axis]
        for position in states:
            name = inputs[position] if position < len(inputs) else ""
            if name and walk.tensors[name].shape[batch_axis] != batch:
                inputs[position] = self._repeated(walk, op, name, {batch_axis: batch})
        return replace(op, inputs=tuple(inputs))

    def _slice(self, walk: Walk, op: Op) -> Op:
        """A slice that took all of the batch takes all of the new one."""
        if op.outputs[0] not in self.base.tensors or len(op.inputs) < 3:
            return op
        starts, ends = self._fixed(walk, op.inputs[1]), self._fixed(walk, op.inputs[2])
        axes = walk.constant(op.inputs[3]) if len(op.inputs) > 3 and op.inputs[3] else None
        if starts is None or ends is None:
            return op
        shape, result = self.base.tensors[op.inputs[0]].shape, self.base.tensors[op.outputs[0]].shape
        listed = range(len(ends)) if axes is None else [int(axis) % len(shape) for axis in axes]
        grown = self._axes(walk, op.inputs[0])
        limits = [
            TO_THE_END if axis in grown and shape[axis] == result[axis] and starts[index] >= 0 else int(ends[index])
            for index, axis in enumerate(listed)
        ]
        return self._with_constant(walk, op, 2, limits)

    def _resize(self, walk: Walk, op: Op) -> Op:
        if len(op.inputs) < 4 or self._fixed(walk, op.inputs[3]) is None or op.attributes.get("axes"):
            return op
        sizes = [int(one) for one in self._fixed(walk, op.inputs[3])]  # type: ignore[union-attr]
        for axis in self._axes(walk, op.inputs[0]):
            sizes[axis] = sizes[axis] * self.new // self.old
        return self._with_constant(walk, op, 3, sizes)

    def _lookup(self, walk: Walk, op: Op) -> Op:
        """Constant positions that name each sample are repeated, shifted to the samples that follow."""
        indices = walk.weights.get(op.inputs[1])
        along_batch = not op.attributes.get("axis", 0) and not op.attributes.get("batch_dims", 0)
        if indices is None or not along_batch or self._axes(walk, op.inputs[0]) != [0]:
            return op
        shape = indices.tensor.shape
        if not shape or shape[0] != self.old or self.new % self.old:
            raise self._blocked(op, f"its indices {list(shape)} do not tell the samples apart")
        described = Tensor(walk.unique(f"{op.name}/batch_indices"), (self.new, *shape[1:]), indices.tensor.dtype)
        values = None
        if indices.inline is not None:
            extent = self.base.tensors[op.inputs[0]].shape[0]
            values = shifted_copies(indices.inline, self.new // self.old, extent, op.kind == "GatherND")
        return replace(op, inputs=(op.inputs[0], walk.add_weight(Weight(described, value=values)), *op.inputs[2:]))

    def _repeated(self, walk: Walk, op: Op, name: str, sizes: Mapping[int, int]) -> str:
        """A tensor of one sample repeated to `sizes` by axis."""
        shape = list(walk.tensors[name].shape)
        for axis, size in sizes.items():
            if shape[axis] != 1:
                raise self._blocked(op, f"its input '{name}' of shape {shape} belongs to a batch of {self.old}")
            shape[axis] = size
        target = walk.add_constant(f"{op.name}/batch_shape", np.asarray(shape, dtype=np.int64))
        expand = Op(
            walk.unique(f"{op.name}/Expand"), "Expand", (name, target), (f"{name}/batch",), {}, "", 13, op.sources
        )
        return walk.emit(expand)[0]


def shifted_copies(indices: np.ndarray, copies: int, extent: int, coordinates: bool) -> np.ndarray:
    """`indices` repeated along their first axis, copy k shifted by k `extent`; of coordinates only the first shifts."""
    shift = np.zeros((copies, *indices.shape), dtype=indices.dtype)
    steps = (np.arange(copies) * extent).reshape(copies, *[1] * indices.ndim)
    shift[..., : 1 if coordinates else None] = steps
    return (indices + shift).reshape(copies * indices.shape[0], *indices.shape[1:])


def place_of_batch(outer: int, old: int, target: Shape) -> tuple[int, int] | None:
    """Where the batch is in a shape that data is reshaped to, row-major, with `outer` elements' worth before the batch:
    its axis, and how many positions of that axis come before it. None when it is cut apart.

    It may stand alone, or share an axis with what precedes it or follows it. Features, which follow, keep their axis
    when there is a choice: a matrix product comes next.
    """
    shared_before = shared_after = None
    before = 1
    for place, extent in enumerate(target):
        if before == 0 or before > outer:
            break
        if before == outer and extent == old:
            return place, 1
        inside = outer // before
        if outer % before == 0 and extent % (inside * old) == 0:
            if inside > 1:
                shared_before = shared_before or (place, inside)
            else:
                shared_after = shared_after or (place, 1)
        before *= extent
    return shared_before or shared_after
