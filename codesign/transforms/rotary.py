"""Recognise rotary position embedding in the slices and products that exporters write for it."""

from __future__ import annotations

import numpy as np

from codesign.graph import Graph, Op
from codesign.transforms.match import Match, Node, Value, View, first_match
from codesign.transforms.rewrite import Array, Rewriter

LARGEST_TABLE_ELEMENTS = 1 << 22
"""Tables with more elements are not read to see whether their halves are equal (16 MiB of float32)."""


def fuse_rotary_embedding(graph: Graph) -> Graph:
    """The graph with x cos + (-x2, x1) sin, x = (x1, x2) in halves, as RotaryEmbedding (arXiv:2104.09864).

    Exporters write the cosine and sine of an angle for both channels that it turns; the operator takes them once, so
    the tables must be constants that are there and whose halves are equal. Values agree to rounding.
    """
    view = View(graph)
    rewriter = Rewriter(view)
    for op in graph.ops:
        found = first_match(view, ROTATED, op) if op.kind == "Add" else None
        tables = _tables(view, rewriter, found) if found is not None else None
        if found is not None and tables is not None:
            inputs = (found.tensors["x"], *tables)
            rewriter.replace(found.ops, [Op("", "RotaryEmbedding", inputs, op.outputs, opset=23)])
    return rewriter.build()


x = Value("x")


def _swaps_halves(view: View, op: Op) -> bool:
    """True for a Concat of the second half of the last axis, negated, before the first half."""
    rank = len(view.shape(op.outputs[0]))
    negated = view.producer(op.inputs[0], "Neg")
    second = view.producer(negated.inputs[0], "Slice") if negated is not None else None
    first = view.producer(op.inputs[1], "Slice")
    if first is None or second is None or int(op.attributes["axis"]) % rank != rank - 1:
        return False
    half = view.shape(op.outputs[0])[-1] // 2
    return _start(view, first, rank) == 0 and _start(view, second, rank) == half == view.shape(op.inputs[0])[-1]


def _start(view: View, op: Op, rank: int) -> int | None:
    """Where a slice of the last axis alone, by steps of one, begins; None for any other."""
    starts, axes = view.integers(op, "starts", 1), view.integers(op, "axes", 3)
    steps = view.integers(op, "steps", 4) or (1,)
    if starts is None or axes is None or len(axes) != 1 or axes[0] % rank != rank - 1 or steps != (1,):
        return None
    return starts[0] % view.shape(op.inputs[0])[-1]


ROTATED = Node(
    "Add",
    Node("Mul", x, Value("cosine")),
    Node("Mul", Node("Concat", Node("Neg", Node("Slice", x)), Node("Slice", x), where=_swaps_halves), Value("sine")),
)


def _tables(view: View, rewriter: Rewriter, found: Match) -> tuple[str, str] | None:
    """Cosine and sine as (batch, length, half the channels)."""
    shape = view.shape(found.tensors["x"])
    names = found.tensors["cosine"], found.tensors["sine"]
    if len(shape) != 4 or not all(_is_doubled(view, name, shape) for name in names):
        return None
    batch, _, length, width = shape

    def half(values: Array) -> Array:
        table = values.reshape(-1, length, width)[..., : width // 2]
        return np.broadcast_to(table, (batch, length, width // 2))

    cosine, sine = (rewriter.derived([name], (batch, length, width // 2), half, False) for name in names)
    return cosine, sine


def _is_doubled(view: View, name: str, shape: tuple[int, ...]) -> bool:
    """True for a constant of one table for all heads whose two halves of channels are equal."""
    weight = view.graph.weights.get(name)
    own = view.shape(name)
    aligned = (*(1,) * (4 - len(own)), *own)
    if weight is None or weight.tensor.elements > LARGEST_TABLE_ELEMENTS:
        return False
    if aligned[0] not in (1, shape[0]) or aligned[1] != 1 or aligned[2:] != shape[2:]:
        return False
    values = weight.array()
    half = shape[3] // 2
    return values is not None and np.array_equal(values[..., :half], values[..., half:])
