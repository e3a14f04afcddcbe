"""Bodies of control flow as graphs of their own, and the operations that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from codesign.errors import BadModel, UnboundDimension
from codesign.frontend.attributes import bound_attributes, subgraphs
from codesign.frontend.scope import Meaning, Scope
from codesign.frontend.types import ELEMENT_TYPES
from codesign.frontend.walk import Walk
from codesign.graph import Graph, Op, Tensor

Result = Tensor | str
"""What is known of a result: its shape and type, or why they are not known before the graph runs."""


def bodies_of(node: onnx.NodeProto, name: str, scope: Scope, keys: Sequence[str]) -> dict[str, onnx.GraphProto]:
    found = subgraphs(bound_attributes(node, scope.bindings, name))
    missing = [key for key in keys if key not in found]
    if missing:
        raise BadModel(f"node '{name}' ({node.op_type}): attribute '{missing[0]}' is missing")
    return found


def name_outputs(node: onnx.NodeProto, name: str, scope: Scope, outputs: Sequence[Meaning]) -> None:
    if len(node.output) > len(outputs):
        raise BadModel(f"node '{name}' ({node.op_type}) has {len(node.output)} outputs, its body gives {len(outputs)}")
    scope.names.update({local: meaning for local, meaning in zip(node.output, outputs, strict=False) if local})


def known(place: Walk | Graph, name: str) -> Result:
    """What is known of the value called `name`."""
    return place.unknown[name] if name in place.unknown else place.tensors[name]


def stated_results(body: onnx.GraphProto, walk: Walk) -> dict[str, Any]:
    """What the model states of the outputs of a body, for when no trip tells: an extent that it does not state is 0."""
    if not walk.dynamic:
        return {}
    types = [item.type.tensor_type for item in body.output]
    return {
        "stated_results": tuple(
            (tuple(dim.dim_value for dim in tensor.shape.dim), ELEMENT_TYPES.get(tensor.elem_type, "float32"))
            for tensor in types
        )
    }


def record(
    walk: Walk,
    node: onnx.NodeProto,
    name: str,
    scope: Scope,
    inputs: tuple[str, ...],
    attributes: Mapping[str, Any],
    bodies: Mapping[str, Graph],
    results: Sequence[Result],
) -> None:
    """Enter an operation that holds bodies, with what its outputs are."""
    outputs = [walk.unique(scope.prefix + item) if item else "" for item in node.output]
    for output, found in zip(outputs, results, strict=False):
        if output and isinstance(found, Tensor):
            walk.add_tensor(Tensor(output, found.shape, found.dtype))
        elif output:
            walk.add_unknown(output, str(found))
    walk.ops.append(
        Op(
            name, node.op_type, inputs, tuple(outputs), attributes, "", scope.imports.get("", 0),
            scope.sources or (node.name or name,), (), bodies,
        )
    )  # fmt: skip
    name_outputs(node, name, scope, outputs)


def body_graph(
    walk: Walk, name: str, key: str, graph: onnx.GraphProto, scope: Scope, arguments: Sequence[Result]
) -> Graph:
    """A body as a Graph of its own. Its constants belong to the outermost graph and are captured."""
    prefix = f"{name}/{key}/"
    inner = scope.nested(prefix, (name,))
    if len(graph.input) != len(arguments):
        raise BadModel(f"node '{name}': its body has {len(graph.input)} inputs, expected {len(arguments)}")
    names = [walk.unique(prefix + item.name) for item in graph.input]
    for local, found in zip(names, arguments, strict=True):
        if isinstance(found, Tensor):
            walk.add_tensor(Tensor(local, found.shape, found.dtype))
        else:
            walk.add_unknown(local, found)
    outside, walk.ops = walk.ops, []
    try:
        outputs = tuple(walk.single(item, name, inner.sources) for item in walk.body(graph, inner, list(names)))
        ops = tuple(walk.ops)
    finally:
        walk.ops = outside
    own = {*names, *(item for op in ops for item in op.outputs)}
    used = dict.fromkeys([*(item for op in ops for item in op.reads()), *outputs])
    present = [item for item in dict.fromkeys((*names, *used, *own)) if item]
    tensors = {item: walk.tensors[item] for item in present if item in walk.tensors}
    unknown = {item: walk.unknown[item] for item in present if item in walk.unknown}
    captured = tuple(item for item in used if item not in own)
    return Graph(prefix.rstrip("/"), tensors, {}, ops, tuple(names), outputs, captured, unknown=unknown)


def branch_graphs(walk: Walk, name: str, scope: Scope, bodies: Mapping[str, onnx.GraphProto]) -> dict[str, Graph]:
    """The branches as Graphs. One that cannot be for the shapes at hand (it is for other rates or ranks of the input)
    refuses to run, should the condition ask for it; raises BadModel when none can be."""
    graphs: dict[str, Graph] = {}
    refused: dict[str, BadModel] = {}
    for key, graph in bodies.items():
        before = walk.mark()
        try:
            graphs[key] = body_graph(walk, name, key, graph, scope, [])
        except UnboundDimension:
            raise
        except BadModel as error:
            refused[key] = error
            walk.restore(before)
    if not graphs:
        raise next(iter(refused.values()))
    like = next(iter(graphs.values()))
    graphs |= {key: _refusing_graph(walk, f"{name}/{key}", like, str(error)) for key, error in refused.items()}
    return {key: graphs[key] for key in bodies}


def _refusing_graph(walk: Walk, name: str, like: Graph, reason: str) -> Graph:
    """A body with the outputs of `like` that says why it cannot run."""
    results = [known(like, item) for item in like.outputs]
    outputs = tuple(walk.unique(f"{name}/{number}") for number in range(len(results)))
    named = dict(zip(outputs, results, strict=True))
    tensors = {item: Tensor(item, like.shape, like.dtype) for item, like in named.items() if isinstance(like, Tensor)}
    unknown = {item: found for item, found in named.items() if isinstance(found, str)}
    for tensor in tensors.values():
        walk.add_tensor(tensor)
    for item, why in unknown.items():
        walk.add_unknown(item, why)
    types = tuple((tensor.shape, tensor.dtype) for tensor in tensors.values())
    op = Op(walk.unique(name), "Refuse", (), outputs, {"reason": reason, "results": types}, sources=(name,))
    return Graph(name, tensors, {}, (op,), (), outputs, unknown=unknown)
