"""Remove operations that change nothing: Identity, inference-time Dropout, padding by nothing, adding zero."""

from __future__ import annotations

from collections.abc import Callable

from codesign.dtypes import dtype
from codesign.graph import Graph, Op
from codesign.transforms.match import View, is_kind
from codesign.transforms.rewrite import Rewriter


def remove_identities(graph: Graph) -> Graph:
    """The graph without operations whose result is their first input (or, for Add and Mul, the other than a constant).

    Values, types and shapes of what stays are unchanged, except that x + 0 keeps the sign of a negative zero. Only
    constants in memory are looked at. An identity between a graph input and a graph output stays.
    """
    view = View(graph)
    rewriter = Rewriter(view)
    for op in graph.ops:
        same = _same(view, op)
        if same is not None:
            rewriter.remove([op], same)
    return rewriter.build()


def _same(view: View, op: Op) -> str | None:
    """The input that is the result of `op`."""
    rule = _RULES.get(op.kind)
    if rule is None or op.epilogue or not is_kind(op, op.kind) or any(op.outputs[1:]):
        return None
    index = rule(view, op)
    if index is None:
        return None
    same, result = view.tensor(op.inputs[index]), view.tensor(op.outputs[0])
    return same.name if (same.shape, same.dtype) == (result.shape, result.dtype) else None


Rule = Callable[[View, Op], int | None]
"""Index of the input that is the result if shape and type stay, or None."""


def _always(view: View, op: Op) -> int | None:
    return 0


def _dropout(view: View, op: Op) -> int | None:
    training = view.scalar(op.inputs[2]) if len(op.inputs) > 2 and op.inputs[2] else 0.0
    return 0 if training == 0.0 else None


def _pad(view: View, op: Op) -> int | None:
    pads = view.integers(op, "pads", 1)
    return 0 if pads is not None and not any(pads) else None


def _slice(view: View, op: Op) -> int | None:
    """A slice that keeps all extents keeps all elements, in order unless a step is negative."""
    if len(op.inputs) < 5 or not op.inputs[4]:
        return 0
    steps = view.integers(op, "steps", 4)
    return 0 if steps is not None and all(step > 0 for step in steps) else None


def _single(view: View, op: Op) -> int | None:
    return 0 if len(op.inputs) == 1 else None


def _neutral(element: float, commutative: bool) -> Rule:
    """A binary operation one side of which is its neutral element. Integer division by one included."""

    def rule(view: View, op: Op) -> int | None:
        if not dtype(view.tensor(op.outputs[0]).dtype).is_float:
            return None
        if view.scalar(op.inputs[1]) == element:
            return 0
        return 1 if commutative and view.scalar(op.inputs[0]) == element else None

    return rule


_RULES: dict[str, Rule] = {
    "Identity": _always,
    "Cast": _always,
    "Expand": _always,
    "Tile": _always,
    "Dropout": _dropout,
    "Pad": _pad,
    "Slice": _slice,
    "Concat": _single,
    "Sum": _single,
    "Max": _single,
    "Min": _single,
    "Mean": _single,
    "Add": _neutral(0.0, True),
    "Sub": _neutral(0.0, False),
    "Mul": _neutral(1.0, True),
    "Div": _neutral(1.0, False),
}
