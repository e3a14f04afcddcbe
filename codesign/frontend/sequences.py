"""Sequences of tensors, resolved while loading where their lengths are known: no operation on them is left to run.

In a dynamic walk, sequences whose length or positions come from data stay values, and operations on them operations.
"""

from __future__ import annotations

import numpy as np
import onnx

from codesign.errors import BadModel, UnboundDimension, UnsupportedOperator
from codesign.frontend.attributes import bound_attributes, plain_attributes
from codesign.frontend.bodies import bodies_of, body_graph, name_outputs, record
from codesign.frontend.scope import Scope
from codesign.frontend.walk import Handler, Walk, as_scalar, register
from codesign.graph import Op

SEQUENCES: dict[tuple[str, str], Handler] = {}
MOST_PARTS = 4096
"""Parts of one SplitToSequence that become operations of their own."""


@register(SEQUENCES, "SequenceConstruct", "SequenceEmpty")
def construct(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    scope.names[node.output[0]] = tuple(scope.tensor(item, name) for item in node.input)
    return True


@register(SEQUENCES, "SequenceAt")
def at(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    items = _items(walk, node, name, scope)
    place = None if items is None else _position(walk, node, 1, name, scope, len(items))
    if items is None or place is None:
        return False
    scope.names[node.output[0]] = items[place]
    return True


@register(SEQUENCES, "SequenceInsert")
def insert(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    found = _items(walk, node, name, scope)
    if found is None:
        return False
    items, place = list(found), _position(walk, node, 2, name, scope, len(found), len(found))
    if place is None:
        return False
    items.insert(place, scope.tensor(node.input[1], name))
    scope.names[node.output[0]] = tuple(items)
    return True


@register(SEQUENCES, "SequenceErase")
def erase(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    found = _items(walk, node, name, scope)
    if found is None:
        return False
    items, place = list(found), _position(walk, node, 1, name, scope, len(found), len(found) - 1)
    if place is None:
        return False
    if not items:
        raise BadModel(f"node '{name}' (SequenceErase): the sequence is empty")
    del items[place]
    scope.names[node.output[0]] = tuple(items)
    return True


@register(SEQUENCES, "SequenceLength")
def length(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    items = _items(walk, node, name, scope)
    if items is None:
        return False
    values = np.asarray(len(items), dtype=np.int64)
    scope.names[node.output[0]] = walk.add_constant(scope.prefix + node.output[0], values)
    return True


@register(SEQUENCES, "SplitToSequence")
def split(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    """A Split, and a Squeeze of each part where the node asks for parts of length one without their axis."""
    settings = plain_attributes(bound_attributes(node, scope.bindings, name), name)
    source = scope.tensor(node.input[0], name)
    if source in walk.unknown:
        return False
    shape = walk.tensors[source].shape
    axis = settings.get("axis", 0)
    if not -len(shape) <= axis < len(shape):
        raise BadModel(f"node '{name}' (SplitToSequence): axis {axis} is outside the input's {len(shape)} dimensions")
    sizes, keep = np.ones(shape[axis], dtype=np.int64), bool(settings.get("keepdims", 1))
    if len(node.input) > 1 and node.input[1]:
        given, keep = walk.constant(scope.tensor(node.input[1], name)), True
        if given is None and walk.dynamic:
            return False
        if given is None:
            raise UnboundDimension(f"node '{name}' (SplitToSequence): 'split' is computed by the model")
        sizes = given if given.ndim else _parts(shape[axis], int(given), name)
    if len(sizes) > MOST_PARTS and walk.dynamic:
        return False
    if len(sizes) > MOST_PARTS:
        raise UnsupportedOperator(f"node '{name}' (SplitToSequence): {len(sizes)} parts are more than {MOST_PARTS}")
    lengths = walk.add_constant(f"{name}/split", np.asarray(sizes, dtype=np.int64))
    outputs = tuple(f"{name}/part_{index}" for index in range(len(sizes)))
    sources = scope.sources or (node.name or name,)
    parts = walk.emit(Op(name, "Split", (source, lengths), outputs, {"axis": axis}, "", 13, sources))
    if not keep:
        axes = walk.add_constant(f"{name}/axes", np.asarray([axis], dtype=np.int64))
        squeezes = [
            Op(walk.unique(f"{part}/Squeeze"), "Squeeze", (part, axes), (f"{part}/squeezed",), {}, "", 13, sources)
            for part in parts
        ]
        parts = tuple(walk.emit(op)[0] for op in squeezes)
    scope.names[node.output[0]] = parts
    return True


@register(SEQUENCES, "ConcatFromSequence")
def concat(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    """A Concat, of items with a new axis where the node stacks them."""
    settings = plain_attributes(bound_attributes(node, scope.bindings, name), name)
    items = _items(walk, node, name, scope)
    if items is None or not items:
        return False
    sources = scope.sources or (node.name or name,)
    axis = settings.get("axis", 0)
    if settings.get("new_axis", 0):
        items = stacked(walk, items, axis, name, sources)
    op = Op(name, "Concat", items, (scope.prefix + node.output[0],), {"axis": axis}, "", 13, sources)
    scope.names[node.output[0]] = walk.emit(op)[0]
    return True


@register(SEQUENCES, "SequenceMap")
def mapped(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    """A body for each item: in the place of the node where the items are known, else an operation that holds it."""
    body = bodies_of(node, name, scope, ("body",))["body"]
    meanings = [scope.meaning(item, name) for item in node.input]
    lengths = {len(meaning) for meaning in meanings if isinstance(meaning, tuple)}
    sources = scope.sources or (node.name or name,)
    if len(lengths) != 1 or meanings[0] in walk.unknown or lengths.pop() * len(body.node) > MOST_PARTS:
        inputs = tuple(walk.single(meaning, name, sources) for meaning in meanings)
        reason = f"node '{name}' (SequenceMap): the items of a sequence are known only when it runs"
        if not walk.dynamic:
            raise UnboundDimension(reason)
        graph = body_graph(walk, name, "body", body, scope, [reason] * len(body.input))
        record(walk, node, name, scope, inputs, {}, {"body": graph}, [reason] * len(node.output))
        return True
    results: list[list[str]] = [[] for _ in node.output]
    for number in range(len(meanings[0])):
        arguments = [meaning[number] if isinstance(meaning, tuple) else meaning for meaning in meanings]
        outputs = walk.body(body, scope.nested(f"{name}/item_{number}/", sources), arguments)
        for items, found in zip(results, outputs, strict=True):
            items.append(walk.single(found, name, sources))
    name_outputs(node, name, scope, [tuple(items) for items in results])
    return True


def stacked(walk: Walk, items: tuple[str, ...], axis: int, name: str, sources: tuple[str, ...]) -> tuple[str, ...]:
    """Each item with an axis of length one put in at `axis`, ready to be joined along it."""
    axes = walk.add_constant(f"{name}/axes", np.asarray([axis], dtype=np.int64))
    return tuple(
        walk.emit(
            Op(
                walk.unique(f"{name}/Unsqueeze"),
                "Unsqueeze",
                (item, axes),
                (f"{item}/unsqueezed",),
                {},
                "",
                13,
                sources,
            )
        )[0]
        for item in items
    )


def _items(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> tuple[str, ...] | None:
    """The items of the sequence that a node reads; None when it is known only when the graph runs."""
    found = scope.meaning(node.input[0], name) if node.input else None
    if isinstance(found, str) and found in walk.unknown:
        return None
    if not isinstance(found, tuple):
        raise BadModel(f"node '{name}' ({node.op_type}): its input is not a sequence")
    return found


def _position(
    walk: Walk, node: onnx.NodeProto, index: int, name: str, scope: Scope, size: int, default: int | None = None
) -> int | None:
    """The position that input `index` gives, `default` when it is absent; None when it is known only at run time."""
    if default is not None and (len(node.input) <= index or not node.input[index]):
        return default
    place = as_scalar(walk.constant(scope.tensor(node.input[index], name)))
    if place is None:
        if walk.dynamic:
            return None
        raise UnboundDimension(f"node '{name}' ({node.op_type}): the position is computed by the model")
    last = size if node.op_type == "SequenceInsert" else size - 1
    if not -size <= place <= last:
        raise BadModel(f"node '{name}' ({node.op_type}): position {place} is outside a sequence of {size}")
    return int(place) + (size if place < 0 else 0)


def _parts(extent: int, size: int, name: str) -> np.ndarray:
    if size < 1:
        raise BadModel(f"node '{name}' (SplitToSequence): parts of length {size}")
    return np.asarray([min(size, extent - start) for start in range(0, extent, size)], dtype=np.int64)
