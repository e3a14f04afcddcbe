"""Control flow: an If with a known condition becomes its branch, a Loop or Scan of few known trips is unrolled; others
stay operations that hold their bodies, and what is known of their trips stands in attribute `trip_count`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from codesign.errors import BadModel, UnsupportedOperator
from codesign.frontend.attributes import bound_attributes, plain_attributes, subgraphs
from codesign.frontend.scope import Meaning, Scope
from codesign.frontend.sequences import stacked
from codesign.frontend.walk import Handler, Walk, as_scalar, register
from codesign.graph import Graph, Op, Tensor

CONTROL: dict[tuple[str, str], Handler] = {}
MOST_TRIPS = 64
"""Loops of more trips than this stay loops."""
MOST_UNROLLED = 4096
"""Nodes that unrolling one loop may make; more stay a loop."""


@register(CONTROL, "If")
def branch(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    bodies = _bodies(node, name, scope, ("then_branch", "else_branch"))
    condition = scope.tensor(node.input[0], name) if node.input else ""
    known = as_scalar(walk.constant(condition))
    if known is None:
        _keep_if(walk, node, name, scope, bodies, condition)
        return True
    chosen = "then_branch" if known else "else_branch"
    outputs = walk.body(bodies[chosen], scope.nested(f"{name}/{chosen}/", (node.name or name,)), [])
    _name_outputs(node, name, scope, outputs)
    return True


@register(CONTROL, "Loop")
def loop(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    body = _bodies(node, name, scope, ("body",))["body"]
    if len(node.input) < 2 or len(body.input) != len(node.input) or len(body.output) < len(node.input) - 1:
        raise BadModel(f"node '{name}' (Loop): inputs and outputs of its body do not match its own")
    limit_name, condition_name = scope.tensor(node.input[0], name), scope.tensor(node.input[1], name)
    limit = as_scalar(walk.constant(limit_name))
    condition = as_scalar(walk.constant(condition_name)) if condition_name else True
    before = walk.mark()
    states: list[Meaning] = [scope.meaning(item, name) for item in node.input[2:]]
    bounded = limit is None or limit <= MOST_TRIPS
    possible = bounded and condition is not None and (limit is not None or not limit_name)
    if possible:
        outputs = _unrolled_loop(walk, node, name, scope, body, states, limit, condition)
        if outputs is not None:
            _name_outputs(node, name, scope, outputs)
            return True
        walk.restore(before)
    _keep_loop(walk, node, name, scope, body, states, limit if condition is not None else None)
    return True


def _unrolled_loop(
    walk: Walk,
    node: onnx.NodeProto,
    name: str,
    scope: Scope,
    body: onnx.GraphProto,
    states: list[Meaning],
    limit: int | None,
    condition: Any,
) -> list[Meaning] | None:
    """Outputs of the loop with its trips one after another; None when their number is unknown or too large."""
    carried = len(states)
    scanned: list[list[str]] = [[] for _ in body.output[1 + carried :]]
    sources = (node.name or name,)
    trip, alive = 0, bool(condition)
    while alive and (limit is None or trip < limit):
        if trip >= MOST_TRIPS or (trip + 1) * len(body.node) > MOST_UNROLLED:
            return None
        inner = scope.nested(f"{name}/trip_{trip}/", sources)
        number = walk.add_constant(f"{name}/trip_{trip}/number", np.asarray(trip, dtype=np.int64))
        going = walk.add_constant(f"{name}/trip_{trip}/condition", np.asarray(True))
        condition_out, *results = walk.body(body, inner, [number, going, *states])
        states = results[:carried]
        for items, result in zip(scanned, results[carried:], strict=True):
            items.append(_single(result, name))
        known = as_scalar(walk.constant(_single(condition_out, name)))
        if known is None:
            return None
        trip, alive = trip + 1, bool(known)
    if scanned and trip == 0:
        return None
    return [*states, *(_joined(walk, items, 0, name, scope.sources or sources) for items in scanned)]


@register(CONTROL, "Scan")
def scan(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    if scope.imports.get("", 0) < 9:
        raise UnsupportedOperator(f"node '{name}' (Scan): opset 8 scans over batches; convert the model to opset 9")
    body = _bodies(node, name, scope, ("body",))["body"]
    form = _scan_form(walk, node, name, scope, body)
    if form.trips > MOST_TRIPS or form.trips * len(body.node) > MOST_UNROLLED or form.trips == 0:
        _keep_scan(walk, node, name, scope, body, form)
        return True
    sources = scope.sources or (node.name or name,)
    states: list[Meaning] = list(form.states)
    scanned: list[list[str]] = [[] for _ in form.output_axes]
    for trip in range(form.trips):
        slices = [
            _slice_of(walk, source, axis, form.trips - 1 - trip if reverse else trip, name, sources)
            for source, axis, reverse in zip(form.scanned, form.axes, form.reverse, strict=True)
        ]
        results = walk.body(body, scope.nested(f"{name}/trip_{trip}/", sources), [*states, *slices])
        states = results[: len(states)]
        for items, result in zip(scanned, results[len(states) :], strict=True):
            items.append(_single(result, name))
    outputs = list(states)
    for items, axis, reverse in zip(scanned, form.output_axes, form.output_reverse, strict=True):
        outputs.append(_joined(walk, items[::-1] if reverse else items, axis, name, sources))
    _name_outputs(node, name, scope, outputs)
    return True


@dataclass(frozen=True)
class _ScanForm:
    states: tuple[str, ...]
    scanned: tuple[str, ...]
    axes: tuple[int, ...]
    reverse: tuple[int, ...]
    output_axes: tuple[int, ...]
    output_reverse: tuple[int, ...]
    trips: int
    attributes: Mapping[str, Any]


def _scan_form(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope, body: onnx.GraphProto) -> _ScanForm:
    what = f"node '{name}' (Scan)"
    attributes = plain_attributes(bound_attributes(node, scope.bindings, what), what)
    count = attributes.get("num_scan_inputs", 0)
    inputs = tuple(scope.tensor(item, name) for item in node.input)
    carried = len(inputs) - count
    produced = len(body.output) - carried
    if count < 1 or carried < 0 or produced < 0 or len(body.input) != len(inputs):
        raise BadModel(f"{what}: inputs and outputs of its body do not match its own")
    axes = attributes.get("scan_input_axes", (0,) * count)
    reverse = attributes.get("scan_input_directions", (0,) * count)
    output_axes = attributes.get("scan_output_axes", (0,) * produced)
    output_reverse = attributes.get("scan_output_directions", (0,) * produced)
    if len(axes) != count or len(reverse) != count or len(output_axes) != produced or len(output_reverse) != produced:
        raise BadModel(f"{what}: axes or directions are not given for each scanned input and output")
    shapes = [walk.tensors[item].shape for item in inputs[carried:]]
    if any(not -len(shape) <= axis < len(shape) for shape, axis in zip(shapes, axes, strict=True)):
        raise BadModel(f"{what}: a scan axis is outside its input")
    lengths = {shape[axis] for shape, axis in zip(shapes, axes, strict=True)}
    if len(lengths) != 1:
        raise BadModel(f"{what}: scanned inputs have lengths {sorted(lengths)}, expected one")
    return _ScanForm(
        inputs[:carried], inputs[carried:], axes, reverse, output_axes, output_reverse, lengths.pop(), attributes
    )


# Operations that keep their bodies


def _keep_if(
    walk: Walk, node: onnx.NodeProto, name: str, scope: Scope, bodies: Mapping[str, onnx.GraphProto], condition: str
) -> None:
    graphs = {key: _body_graph(walk, name, key, graph, scope, []) for key, graph in bodies.items()}
    shapes = [[graph.tensors[item] for item in graph.outputs] for graph in graphs.values()]
    if any(len(each) != len(node.output) for each in shapes):
        raise BadModel(f"node '{name}' (If): branches do not give its {len(node.output)} outputs")
    results = []
    for output, options in zip(node.output, zip(*shapes, strict=True), strict=True):
        largest = max(options, key=lambda tensor: tensor.elements)
        if len({(tensor.shape, tensor.dtype) for tensor in options}) > 1:
            walk.warnings.append(f"node '{name}' (If): '{output}' differs between branches; the larger shape is taken")
        results.append(largest)
    _record(walk, node, name, scope, (condition,), {}, graphs, results)


def _keep_loop(
    walk: Walk,
    node: onnx.NodeProto,
    name: str,
    scope: Scope,
    body: onnx.GraphProto,
    states: Sequence[Meaning],
    trips: int | None,
) -> None:
    if trips is None:
        raise UnsupportedOperator(f"node '{name}' (Loop): the number of trips depends on data; make it a constant")
    carried = [walk.tensors[_single(state, name)] for state in states]
    arguments = [Tensor("", (), "int64"), Tensor("", (), "bool"), *carried]
    graph = _body_graph(walk, name, "body", body, scope, arguments)
    outputs = [graph.tensors[item] for item in graph.outputs]
    _check_carried(name, "Loop", carried, outputs[1 : 1 + len(carried)])
    scanned = [Tensor("", (trips, *tensor.shape), tensor.dtype) for tensor in outputs[1 + len(carried) :]]
    inputs = tuple(scope.tensor(item, name) for item in node.input)
    _record(walk, node, name, scope, inputs, {"trip_count": trips}, {"body": graph}, [*carried, *scanned])


def _keep_scan(
    walk: Walk, node: onnx.NodeProto, name: str, scope: Scope, body: onnx.GraphProto, form: _ScanForm
) -> None:
    carried = [walk.tensors[state] for state in form.states]
    slices = []
    for source, axis in zip(form.scanned, form.axes, strict=True):
        tensor = walk.tensors[source]
        slices.append(Tensor("", tuple(np.delete(tensor.shape, axis).tolist()), tensor.dtype))
    graph = _body_graph(walk, name, "body", body, scope, [*carried, *slices])
    outputs = [graph.tensors[item] for item in graph.outputs]
    _check_carried(name, "Scan", carried, outputs[: len(carried)])
    scanned = []
    for tensor, axis in zip(outputs[len(carried) :], form.output_axes, strict=True):
        place = axis % (len(tensor.shape) + 1)
        scanned.append(Tensor("", (*tensor.shape[:place], form.trips, *tensor.shape[place:]), tensor.dtype))
    attributes = {**form.attributes, "trip_count": form.trips}
    inputs = (*form.states, *form.scanned)
    _record(walk, node, name, scope, inputs, attributes, {"body": graph}, [*carried, *scanned])


def _check_carried(name: str, kind: str, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
    for one, two in zip(before, after, strict=True):
        if one.shape != two.shape:
            raise UnsupportedOperator(
                f"node '{name}' ({kind}): a carried value changes from shape {list(one.shape)} to {list(two.shape)}"
            )


def _record(
    walk: Walk,
    node: onnx.NodeProto,
    name: str,
    scope: Scope,
    inputs: tuple[str, ...],
    attributes: Mapping[str, Any],
    bodies: Mapping[str, Graph],
    results: Sequence[Tensor],
) -> None:
    """Enter an operation that holds bodies, with what its outputs are."""
    outputs = [walk.unique(scope.prefix + item) if item else "" for item in node.output]
    for output, tensor in zip(outputs, results, strict=False):
        if output:
            walk.add_tensor(Tensor(output, tensor.shape, tensor.dtype))
    walk.ops.append(
        Op(
            name, node.op_type, inputs, tuple(outputs), attributes, "", scope.imports.get("", 0),
            scope.sources or (node.name or name,), (), bodies,
        )
    )  # fmt: skip
    _name_outputs(node, name, scope, outputs)


def _body_graph(
    walk: Walk, name: str, key: str, graph: onnx.GraphProto, scope: Scope, arguments: Sequence[Tensor]
) -> Graph:
    """A body as a Graph of its own. Its constants belong to the outermost graph and are captured."""
    prefix = f"{name}/{key}/"
    inner = scope.nested(prefix, (name,))
    if len(graph.input) != len(arguments):
        raise BadModel(f"node '{name}': its body has {len(graph.input)} inputs, expected {len(arguments)}")
    names = [walk.unique(prefix + item.name) for item in graph.input]
    for local, tensor in zip(names, arguments, strict=True):
        walk.add_tensor(Tensor(local, tensor.shape, tensor.dtype))
    outside, walk.ops = walk.ops, []
    try:
        outputs = tuple(_single(item, name) for item in walk.body(graph, inner, list(names)))
        ops = tuple(walk.ops)
    finally:
        walk.ops = outside
    own = {*names, *(item for op in ops for item in op.outputs)}
    used = dict.fromkeys([*(item for op in ops for item in op.reads()), *outputs])
    tensors = {item: walk.tensors[item] for item in (*names, *used, *own) if item}
    captured = tuple(item for item in used if item not in own)
    return Graph(prefix.rstrip("/"), tensors, {}, ops, tuple(names), outputs, captured)


# Pieces


def _bodies(node: onnx.NodeProto, name: str, scope: Scope, keys: Sequence[str]) -> dict[str, onnx.GraphProto]:
    found = subgraphs(bound_attributes(node, scope.bindings, name))
    missing = [key for key in keys if key not in found]
    if missing:
        raise BadModel(f"node '{name}' ({node.op_type}): attribute '{missing[0]}' is missing")
    return found


def _name_outputs(node: onnx.NodeProto, name: str, scope: Scope, outputs: Sequence[Meaning]) -> None:
    if len(node.output) > len(outputs):
        raise BadModel(f"node '{name}' ({node.op_type}) has {len(node.output)} outputs, its body gives {len(outputs)}")
    scope.names.update({local: meaning for local, meaning in zip(node.output, outputs, strict=False) if local})


def _single(meaning: Meaning, name: str) -> str:
    if not isinstance(meaning, str):
        raise UnsupportedOperator(f"node '{name}': a sequence is carried by a loop that cannot be unrolled")
    return meaning


def _slice_of(walk: Walk, source: str, axis: int, index: int, name: str, sources: tuple[str, ...]) -> str:
    """Slice `index` of a scanned tensor, without its axis."""
    number = walk.add_constant(f"{name}/index_{index}", np.asarray(index, dtype=np.int64))
    gather = walk.unique(f"{name}/Gather")
    return walk.emit(Op(gather, "Gather", (source, number), (f"{gather}/slice",), {"axis": axis}, "", 13, sources))[0]


def _joined(walk: Walk, items: Sequence[str], axis: int, name: str, sources: tuple[str, ...]) -> str:
    """The results of all trips along a new axis."""
    parts = stacked(walk, tuple(items), axis, name, sources)
    joined = walk.unique(f"{name}/Concat")
    return walk.emit(Op(joined, "Concat", parts, (f"{joined}/result",), {"axis": axis}, "", 13, sources))[0]
