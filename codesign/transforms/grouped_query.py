"""Let attention read key and value heads that several query heads share, instead of repeated copies of them."""

from __future__ import annotations

from dataclasses import replace

from codesign.graph import Graph, Op
from codesign.transforms.match import View, is_kind
from codesign.transforms.rewrite import Rewriter
from codesign.transforms.views import reshape


def share_key_value_heads(graph: Graph) -> Graph:
    """The graph with Attention whose key and value are (batch, heads, 1, ...) repeated and flattened reading them once.

    This is grouped-query attention (arXiv:2305.13245): the operator lets neighbouring query heads share a head, in
    the order that the repetition had, so values are unchanged. Repetitions that nothing reads any more are dead.
    """
    view = View(graph)
    rewriter = Rewriter(view)
    for op in graph.ops:
        if not is_kind(op, "Attention") or len(op.inputs) > 4:
            continue
        repetitions = [_repetition(view, name) for name in op.inputs[1:3]]
        heads = {view.shape(repeated.inputs[0])[:2] for repeated in repetitions if repeated is not None}
        if None in repetitions or len(heads) != 1:
            continue
        ops: list[Op] = []
        names = [_shared(view, rewriter, repeated, ops) for repeated in repetitions if repeated is not None]
        new = replace(op, inputs=(op.inputs[0], *names, *op.inputs[3:]))
        rewriter.replace([op, *_only_read_by(view, op)], [*ops, new])
    return rewriter.build()


def _repetition(view: View, name: str) -> Op | None:
    """The operation that repeats (batch, heads, 1, length, depth) for each of a group of heads, before `name` flattens.

    None when `name` is anything else.
    """
    flat = view.producer(name, "Reshape")
    repeated = view.producer(flat.inputs[0], "Expand", "Tile") if flat is not None else None
    if repeated is None:
        return None
    before, after = view.shape(repeated.inputs[0]), view.shape(repeated.outputs[0])
    if len(before) != 5 or before[2] != 1 or (*before[:2], *before[3:]) != (*after[:2], *after[3:]):
        return None
    batch, heads, group, length, depth = after
    return repeated if view.shape(name) == (batch, heads * group, length, depth) else None


def _shared(view: View, rewriter: Rewriter, repeated: Op, ops: list[Op]) -> str:
    """The heads before they were repeated, (batch, heads, length, depth); the view that makes them goes to `ops`."""
    batch, heads, _, length, depth = view.shape(repeated.inputs[0])
    result = rewriter.tensor(repeated.inputs[0], (batch, heads, length, depth))
    ops.append(reshape(rewriter, repeated.inputs[0], result, (batch, heads, length, depth)))
    return result


def _only_read_by(view: View, op: Op) -> list[Op]:
    """The repetitions and the views after them that nothing but `op` needs."""
    needless: list[Op] = []
    for name in dict.fromkeys(op.inputs[1:3]):
        reader: Op = op
        while view.sole_reader(name) is reader and is_kind(reader, "Attention", "Reshape"):
            reader = view.producer(name) or op
            needless.append(reader)
            name = reader.inputs[0]
    return needless
