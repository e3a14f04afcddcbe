"""Let convolutions pad their input themselves."""

from __future__ import annotations

from dataclasses import replace

from codesign.graph import Graph, Op
from codesign.transforms.match import View, is_kind
from codesign.transforms.rewrite import Rewriter


def fold_padding(graph: Graph) -> Graph:
    """The graph with Pad of the spatial axes by zero, read by one convolution, in that convolution's padding.

    Exporters write it where padding differs from side to side, as with "same" padding and a stride. Values are
    unchanged.
    """
    view = View(graph)
    rewriter = Rewriter(view)
    for op in graph.ops:
        following = view.sole_reader(op.outputs[0]) if is_kind(op, "Pad") else None
        if following is None or not is_kind(following, "Conv") or following.inputs[0] != op.outputs[0]:
            continue
        pads = _spatial(view, op)
        if pads is None or following.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", ""):
            continue
        own = following.attributes.get("pads", ()) or (0,) * len(pads)
        total = tuple(int(before) + int(more) for before, more in zip(own, pads, strict=True))
        inputs = (op.inputs[0], *following.inputs[1:])
        new = replace(following, inputs=inputs, attributes={**following.attributes, "pads": total})
        rewriter.replace([op, following], [new])
    return rewriter.build()


def _spatial(view: View, op: Op) -> tuple[int, ...] | None:
    """Padding before and after the spatial axes, as convolutions have it; None when it is not by zeros there alone."""
    pads = view.integers(op, "pads", 1)
    value = op.attributes.get("value", 0.0)
    if len(op.inputs) > 2 and op.inputs[2]:
        value = view.scalar(op.inputs[2])
    rank = len(view.shape(op.inputs[0]))
    if op.attributes.get("mode", "constant") != "constant" or value != 0.0 or pads is None:
        return None
    if len(pads) != 2 * rank or rank < 3 or min(pads) < 0:
        return None
    others = (*pads[:2], *pads[rank : rank + 2])
    return None if any(others) else (*pads[2:rank], *pads[rank + 2 :])
