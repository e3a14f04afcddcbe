"""Shorten chains of operations that only rename or reorder memory: Reshape, Flatten, Squeeze, Unsqueeze, Transpose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from codesign.graph import Graph, Op
from codesign.transforms.match import View, is_kind
from codesign.transforms.rewrite import Array, Rewriter

RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
VIEWS = (*RESHAPES, "Transpose")


def fold_views(graph: Graph) -> Graph:
    """The graph with each chain of views replaced by the shortest that does the same.

    A chain becomes nothing, one Reshape, one Transpose, or both in either order; a Transpose that moves only
    extents of one is a Reshape. Chains that start at a constant become a constant, computed when it is asked for;
    it does not count as a parameter while the original is read elsewhere. Values read from within a chain stay.
    """
    view = View(graph)
    rewriter = Rewriter(view)
    for chain, layout in _chains(view):
        source, result = chain[0].inputs[0], chain[-1].outputs[0]
        if view.is_constant(source):
            _fold_constant(view, rewriter, chain)
            continue
        steps = _shortest(layout, view.shape(source), view.shape(result))
        if _cost([kind for kind, _ in steps]) < _cost([op.kind for op in chain]):
            _write(rewriter, chain, steps)
    return rewriter.build()


def _chains(view: View) -> Iterator[tuple[list[Op], Layout]]:
    """Longest runs of views, each read by the next alone, with where they put their source's elements."""
    done: set[int] = set()
    for op in view.graph.ops:
        if id(op) in done or not is_view(view, op):
            continue
        chain: list[Op] = []
        layout = Layout(view.shape(op.inputs[0]))
        following: Op | None = op
        while following is not None and is_view(view, following) and layout.apply(view, following):
            chain.append(following)
            result = following.outputs[0]
            following = view.sole_reader(result)
            if following is not None and following.inputs[0] != result:
                following = None
        done.update(id(one) for one in chain)
        if chain:
            yield chain, layout


def is_view(view: View, op: Op) -> bool:
    """True for an operation that only renames or reorders elements, and has any."""
    return is_kind(op, *VIEWS) and 0 not in view.shape(op.inputs[0])


@dataclass(eq=False)
class Atom:
    """A run of elements of the source that a chain of views never takes apart."""

    extent: int


class Layout:
    """Where the elements of a source stand after views: its axes, and the present axes, as lists of atoms."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.source: list[list[Atom]] = [[Atom(extent)] if extent > 1 else [] for extent in shape]
        self.axes: list[list[Atom]] = [list(axis) for axis in self.source]

    def apply(self, view: View, op: Op) -> bool:
        """Follow `op`. False, with nothing changed that matters, when it cuts across atoms."""
        if op.kind == "Transpose":
            rank = len(self.axes)
            order = tuple(op.attributes.get("perm", ())) or tuple(reversed(range(rank)))
            self.axes = [self.axes[axis] for axis in order]
            return True
        return self._reshape(view.shape(op.outputs[0]))

    def _reshape(self, shape: tuple[int, ...]) -> bool:
        atoms = _flat(self.axes)
        axes: list[list[Atom]] = []
        for extent in shape:
            axis: list[Atom] = []
            left = extent
            while left > 1:
                atom = atoms.pop(0)
                if left % atom.extent == 0:
                    left //= atom.extent
                    axis.append(atom)
                elif atom.extent % left == 0:
                    rest = self._split(atom, left)
                    axis.append(atom)
                    atoms.insert(0, rest)
                    left = 1
                else:
                    return False
            axes.append(axis)
        self.axes = axes
        return True

    def _split(self, atom: Atom, extent: int) -> Atom:
        """Make `atom` hold its first `extent` and return a new atom, right after it, for the rest."""
        rest = Atom(atom.extent // extent)
        atom.extent = extent
        for axes in (self.source, self.axes):
            for axis in axes:
                if atom in axis:
                    axis.insert(axis.index(atom) + 1, rest)
        return rest


Step = tuple[str, tuple[int, ...]]
"""("Reshape", shape) or ("Transpose", permutation)."""


def _shortest(layout: Layout, source: tuple[int, ...], result: tuple[int, ...]) -> list[Step]:
    """The fewest steps from the source's shape to the result's."""
    before, after = _flat(layout.source), _flat(layout.axes)
    if before == after:
        return [("Reshape", result)] if source != result else []
    by_axes = [
        _through(groups, layout.axes, source, result) for groups in (layout.source, _grouped(layout.axes, before))
    ]
    by_runs = _through(_runs(before, after), [after], source, result)
    return min((steps for steps in (*by_axes, by_runs) if steps is not None), key=len)


def _flat(axes: list[list[Atom]]) -> list[Atom]:
    return [atom for axis in axes for atom in axis]


def _through(
    groups: list[list[Atom]], axes: list[list[Atom]], source: tuple[int, ...], result: tuple[int, ...]
) -> list[Step] | None:
    """Reshape to `groups`, transpose to the order of `axes`, reshape to the result.

    None when `axes` cut a group.
    """
    order = _order(groups, axes)
    if order is None:
        return None
    middle = tuple(int(np.prod([atom.extent for atom in group], dtype=np.int64)) for group in groups)
    steps: list[Step] = [("Reshape", middle)] if middle != source else []
    steps.append(("Transpose", order))
    moved = tuple(middle[axis] for axis in order)
    return [*steps, ("Reshape", result)] if moved != result else steps


def _order(groups: list[list[Atom]], axes: list[list[Atom]]) -> tuple[int, ...] | None:
    """Permutation of the groups that puts their atoms in the order of `axes`; empty groups go to empty axes."""
    where = {id(group[0]): index for index, group in enumerate(groups) if group}
    empty = [index for index, group in enumerate(groups) if not group]
    order: list[int] = []
    for axis in axes:
        if not axis and empty:
            order.append(empty.pop(0))
        rest = list(axis)
        while rest:
            index = where.get(id(rest[0]))
            if index is None or rest[: len(groups[index])] != groups[index]:
                return None
            order.append(index)
            rest = rest[len(groups[index]) :]
    return (*order, *empty)


def _grouped(axes: list[list[Atom]], before: list[Atom]) -> list[list[Atom]]:
    """The result's axes in the order of the source, extents of one before all others; the source's atoms one by one
    when an axis gathers atoms that do not follow each other there."""
    position = {id(atom): index for index, atom in enumerate(before)}
    groups = sorted(axes, key=lambda axis: position[id(axis[0])] if axis else -1)
    return groups if _flat(groups) == before else [[atom] for atom in before]


def _runs(before: list[Atom], after: list[Atom]) -> list[list[Atom]]:
    """Atoms that follow each other in both orders, together."""
    following = {id(left): right for left, right in pairwise(after)}
    runs: list[list[Atom]] = []
    for atom in before:
        if runs and following.get(id(runs[-1][-1])) is atom:
            runs[-1].append(atom)
        else:
            runs.append([atom])
    return runs


def _cost(kinds: Sequence[str]) -> tuple[int, int]:
    """Copies first, then views: a Transpose moves memory and a Reshape renames it."""
    return kinds.count("Transpose"), len(kinds)


def _write(rewriter: Rewriter, chain: Sequence[Op], steps: Sequence[Step]) -> None:
    name, shape = chain[0].inputs[0], rewriter.shape_of(chain[0].inputs[0])
    result = chain[-1].outputs[0]
    if not steps:
        rewriter.remove(chain, name)
        return
    ops = []
    for index, (kind, argument) in enumerate(steps):
        shape = argument if kind == "Reshape" else tuple(shape[axis] for axis in argument)
        output = result if index == len(steps) - 1 else rewriter.tensor(result, shape)
        ops.append(
            reshape(rewriter, name, output, argument) if kind == "Reshape" else transpose(name, output, argument)
        )
        name = output
    rewriter.replace(chain, ops)


def reshape(rewriter: Rewriter, source: str, result: str, shape: tuple[int, ...]) -> Op:
    """A Reshape of `source` to `shape`, written to `result`."""
    target = rewriter.constant(f"{result}.shape", np.array(shape, np.int64))
    return Op("", "Reshape", (source, target), (result,), opset=14)


def transpose(source: str, result: str, order: Sequence[int]) -> Op:
    """A Transpose of `source` by `order`, written to `result`."""
    return Op("", "Transpose", (source,), (result,), {"perm": tuple(order)}, opset=13)


def _fold_constant(view: View, rewriter: Rewriter, chain: Sequence[Op]) -> None:
    source, result = chain[0].inputs[0], chain[-1].outputs[0]
    if result in view.pinned:
        return
    shapes = [view.shape(op.outputs[0]) for op in chain]
    orders = [op.attributes.get("perm") if op.kind == "Transpose" else () for op in chain]

    def follow(values: Array) -> Array:
        for shape, order in zip(shapes, orders, strict=True):
            values = values.reshape(shape) if order == () else values.transpose(order)
        return values

    counts = view.graph.weights[source].is_parameter and all(
        reader is chain[0] or rewriter.is_removed(reader) for reader in view.readers(source)
    )
    rewriter.remove(chain, rewriter.derived([source], shapes[-1], follow, counts))
