"""Let attention append to its cache of keys and values, instead of reading what a concatenation copied."""

from __future__ import annotations

from dataclasses import replace

from codesign.graph import Graph, Op
from codesign.transforms.match import View, is_kind
from codesign.transforms.rewrite import Rewriter


def append_to_caches(graph: Graph) -> Graph:
    """The graph with Attention whose keys and values are (past, new) concatenated along the tokens taking both as its
    own past and new ones; it hands the concatenations back as its present ones.

    The past must be an input of the graph: the cache of a decode step. The operator's own causal mask is left alone,
    as its alignment differs with a past. Values are unchanged.
    """
    view = View(graph)
    rewriter = Rewriter(view)
    caches = set(graph.inputs)
    for op in graph.ops:
        if not is_kind(op, "Attention") or any(op.inputs[4:]) or op.attributes.get("is_causal", 0):
            continue
        pairs = [_append(view, op, name, caches) for name in op.inputs[1:3]]
        if len(op.outputs) > 1 or len(view.shape(op.inputs[0])) != 4 or pairs[0] is pairs[1]:
            continue
        if (keys := pairs[0]) is not None and (values := pairs[1]) is not None:
            mask = op.inputs[3] if len(op.inputs) > 3 else ""
            inputs = (op.inputs[0], keys.inputs[1], values.inputs[1], mask, keys.inputs[0], values.inputs[0])
            outputs = (op.outputs[0], keys.outputs[0], values.outputs[0])
            rewriter.replace([keys, values, op], [replace(op, inputs=inputs, outputs=outputs)])
    return rewriter.build()


def _append(view: View, attention: Op, name: str, caches: set[str]) -> Op | None:
    """The concatenation of a cache and new tokens that writes `name`, when only `attention` reads both."""
    found = view.producer(name, "Concat")
    if found is None or len(found.inputs) != 2 or found.inputs[0] not in caches:
        return None
    along_tokens = int(found.attributes["axis"]) % len(view.shape(name)) == 2
    readers = view.readers(name), view.readers(found.inputs[0])
    return found if along_tokens and readers == ([attention], [found]) else None
