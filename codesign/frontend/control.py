"""Control flow: an If with a known condition becomes its branch, a Loop or Scan of few known trips is unrolled; others
stay operations that hold their bodies, and what is known of their trips stands in attribute `trip_count`. In a dynamic
walk, what differs between branches or trips is unknown; elsewhere it is bounded or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from codesign.errors import BadModel, UnboundDimension
from codesign.frontend.attributes import bound_attributes, plain_attributes
from codesign.frontend.bodies import (
    Result,
    bodies_of,
    body_graph,
    branch_graphs,
    known,
    name_outputs,
    record,
    stated_results,
)
from codesign.frontend.scope import Meaning, Scope
from codesign.frontend.sequences import stacked
from codesign.frontend.walk import Handler, Walk, as_scalar, register
from codesign.graph import Op, Tensor

CONTROL: dict[tuple[str, str], Handler] = {}
MOST_TRIPS = 64
"""Loops of more trips than this stay loops."""
TRIPS = ".trips"
"""Ending of the name by which the trips of a Loop are bound, after the node's own name."""
MOST_UNROLLED = 4096
"""Nodes that unrolling one loop may make; more stay a loop."""
MOST_UNROLLED_SCAN = 32
"""Nodes that unrolling one Scan may make. Its shapes are known without unrolling, and where it stays its steps are one
kernel's, not as many launches."""


@register(CONTROL, "If")
def branch(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    bodies = bodies_of(node, name, scope, ("then_branch", "else_branch"))
    condition = scope.tensor(node.input[0], name) if node.input else ""
    flag = as_scalar(walk.constant(condition))
    if flag is None:
        _keep_if(walk, node, name, scope, bodies, condition)
        return True
    chosen = "then_branch" if flag else "else_branch"
    outputs = walk.body(bodies[chosen], scope.nested(f"{name}/{chosen}/", (node.name or name,)), [])
    name_outputs(node, name, scope, outputs)
    return True


@register(CONTROL, "Loop")
def loop(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    body = bodies_of(node, name, scope, ("body",))["body"]
    if len(node.input) < 2 or len(body.input) != len(node.input) or len(body.output) < len(node.input) - 1:
        raise BadModel(f"node '{name}' (Loop): inputs and outputs of its body do not match its own")
    limit_name, condition_name = scope.tensor(node.input[0], name), scope.tensor(node.input[1], name)
    limit = as_scalar(walk.constant(limit_name))
    condition = as_scalar(walk.constant(condition_name)) if condition_name else True
    before = walk.mark()
    states: list[Meaning] = [scope.meaning(item, name) for item in node.input[2:]]
    bounded = limit is None or limit <= MOST_TRIPS
    possible = (
        node.name not in walk.trips and bounded and condition is not None and (limit is not None or not limit_name)
    )
    if possible:
        outputs = _unrolled_loop(walk, node, name, scope, body, states, limit, condition)
        if outputs is not None:
            name_outputs(node, name, scope, outputs)
            return True
        walk.restore(before)
    _keep_loop(walk, node, name, scope, body, states, limit, condition)
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
        flag = as_scalar(walk.constant(condition_out)) if isinstance(condition_out, str) else None
        if flag is None:
            return None
        for items, result in zip(scanned, results[carried:], strict=True):
            items.append(walk.single(result, name, sources))
        trip, alive = trip + 1, bool(flag)
    if scanned and trip == 0:
        return None
    return [*states, *(_joined(walk, items, 0, name, scope.sources or sources) for items in scanned)]


@register(CONTROL, "Scan")
def scan(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    body = bodies_of(node, name, scope, ("body",))["body"]
    if scope.imports.get("", 0) < 9 or any(scope.names.get(item) in walk.unknown for item in node.input):
        _keep_unknown_scan(walk, node, name, scope, body)
        return True
    form = _scan_form(walk, node, name, scope, body)
    if form.trips > MOST_TRIPS or form.trips * len(body.node) > MOST_UNROLLED_SCAN or form.trips == 0:
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
            items.append(walk.single(result, name, sources))
    outputs = list(states)
    for items, axis, reverse in zip(scanned, form.output_axes, form.output_reverse, strict=True):
        outputs.append(_joined(walk, items[::-1] if reverse else items, axis, name, sources))
    name_outputs(node, name, scope, outputs)
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
    graphs = branch_graphs(walk, name, scope, bodies)
    found = [[known(graph, item) for item in graph.outputs] for graph in graphs.values()]
    if any(len(each) != len(node.output) for each in found):
        raise BadModel(f"node '{name}' (If): branches do not give its {len(node.output)} outputs")
    results: list[Result] = []
    for output, options in zip(node.output, zip(*found, strict=True), strict=True):
        tensors = [option for option in options if isinstance(option, Tensor)]
        differ = len({(tensor.shape, tensor.dtype) for tensor in tensors}) > 1
        if len(tensors) < len(options):
            results.append(next(option for option in options if isinstance(option, str)))
        elif differ and walk.dynamic:
            results.append(f"node '{name}' (If): the shape of '{output}' differs between its branches")
        else:
            if differ:
                walk.warnings.append(
                    f"node '{name}' (If): '{output}' differs between branches; the larger shape is taken"
                )
            results.append(max(tensors, key=lambda tensor: tensor.elements))
    record(walk, node, name, scope, (condition,), {}, graphs, results)


def _keep_loop(
    walk: Walk,
    node: onnx.NodeProto,
    name: str,
    scope: Scope,
    body: onnx.GraphProto,
    states: Sequence[Meaning],
    limit: int | None,
    condition: bool | None,
) -> None:
    """A Loop as one operation. A carried value whose shape changes from trip to trip is unknown in all of them."""
    sources = scope.sources or (node.name or name,)
    given = [walk.single(state, name, sources) for state in states]
    carried = [known(walk, item) for item in given]
    while True:
        before = walk.mark()
        arguments = [Tensor("", (), "int64"), Tensor("", (), "bool"), *carried]
        graph = body_graph(walk, name, "body", body, scope, arguments)
        after = [known(graph, item) for item in graph.outputs[1 : 1 + len(carried)]]
        reasons = [_change(walk, name, "Loop", one, two) for one, two in zip(carried, after, strict=True)]
        if not any(reasons):
            break
        walk.restore(before)
        carried = [reason or one for reason, one in zip(reasons, carried, strict=True)]
    declared = None if walk.dynamic else walk.trips.get(node.name)
    trips = declared if declared is not None else None if limit is None else max(int(limit), 0)
    if trips is None and not walk.dynamic:
        raise UnboundDimension(
            f"node '{name}' (Loop): the number of trips depends on data; make it a constant, or bind "
            f"'{node.name or 'NAME'}{TRIPS}' to the number to count with"
        )
    if declared is not None:
        walk.warnings.append(f"node '{name}' (Loop): counted with {declared} trips, as bound; its data decide")
    exact = condition is True and as_scalar(walk.constant(graph.outputs[0])) is True
    results: list[Result] = list(carried)
    for item in graph.outputs[1 + len(carried) :]:
        tensor = known(graph, item)
        if isinstance(tensor, Tensor) and trips is not None and (exact or not walk.dynamic):
            tensor = Tensor("", (trips, *tensor.shape), tensor.dtype)
        elif isinstance(tensor, Tensor):
            tensor = f"node '{name}' (Loop): the number of trips depends on data"
        results.append(tensor)
    inputs = (scope.tensor(node.input[0], name), scope.tensor(node.input[1], name), *given)
    attributes = {**stated_results(body, walk), **({} if trips is None else {"trip_count": trips})}
    record(walk, node, name, scope, inputs, attributes, {"body": graph}, results)


def _keep_scan(
    walk: Walk, node: onnx.NodeProto, name: str, scope: Scope, body: onnx.GraphProto, form: _ScanForm
) -> None:
    carried = [walk.tensors[state] for state in form.states]
    slices = []
    for source, axis in zip(form.scanned, form.axes, strict=True):
        tensor = walk.tensors[source]
        slices.append(Tensor("", tuple(np.delete(tensor.shape, axis).tolist()), tensor.dtype))
    graph = body_graph(walk, name, "body", body, scope, [*carried, *slices])
    outputs = [known(graph, item) for item in graph.outputs]
    if any(_change(walk, name, "Scan", one, two) for one, two in zip(carried, outputs, strict=False)) or any(
        isinstance(item, str) for item in outputs
    ):
        _keep_unknown_scan(walk, node, name, scope, body)
        return
    scanned = []
    for output, axis in zip(outputs[len(carried) :], form.output_axes, strict=True):
        assert isinstance(output, Tensor)
        place = axis % (len(output.shape) + 1)
        scanned.append(Tensor("", (*output.shape[:place], form.trips, *output.shape[place:]), output.dtype))
    attributes = {**form.attributes, "trip_count": form.trips}
    inputs = (*form.states, *form.scanned)
    record(walk, node, name, scope, inputs, attributes, {"body": graph}, [*carried, *scanned])


def _keep_unknown_scan(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope, body: onnx.GraphProto) -> None:
    """A Scan of which nothing is known: over data whose shape is not, or over batches, as that of opset 8."""
    inputs = tuple(scope.tensor(item, name) for item in node.input)
    reason = next((walk.unknown[item] for item in inputs if item in walk.unknown), None)
    if reason is None:
        reason = f"node '{name}' (Scan): its states change their shape, or it is of opset 8 and scans over batches"
    if not walk.dynamic:
        raise UnboundDimension(f"{reason}; convert the model to opset 9" if scope.imports.get("", 0) < 9 else reason)
    what = f"node '{name}' (Scan)"
    attributes = plain_attributes(bound_attributes(node, scope.bindings, what), what) | stated_results(body, walk)
    graph = body_graph(walk, name, "body", body, scope, [reason] * len(body.input))
    record(walk, node, name, scope, inputs, attributes, {"body": graph}, [reason] * len(node.output))


def _change(walk: Walk, name: str, kind: str, before: Result, after: Result) -> str | None:
    """Why a carried value is unknown although it was known before the trip; None when it keeps its shape, or never
    had one. Raises UnboundDimension in a walk that is not dynamic."""
    if isinstance(before, str) or (isinstance(after, Tensor) and before.shape == after.shape):
        return None
    if isinstance(after, str):
        return after
    reason = f"node '{name}' ({kind}): a carried value changes from shape {list(before.shape)} to {list(after.shape)}"
    if not walk.dynamic:
        raise UnboundDimension(reason)
    return reason


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
