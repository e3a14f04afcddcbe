"""Structure of a model before it is converted: versions, unique names, nodes in an order that can run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import onnx

from codesign.errors import BadModel, UnsupportedOperator


def opset_imports(entries: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Version by domain. Raises UnsupportedOperator for a version of the standard that this ONNX does not know."""
    imports: dict[str, int] = {}
    for entry in entries:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if imports.setdefault(domain, entry.version) != entry.version:
            raise BadModel(
                f"domain '{domain or 'ai.onnx'}' is imported in versions {imports[domain]} and {entry.version}"
            )
    newest = onnx.defs.onnx_opset_version()
    version = imports.get("", newest)
    if not 1 <= version <= newest:
        raise UnsupportedOperator(
            f"opset {version} is unknown, expected 1 to {newest}; convert it with onnx.version_converter"
        )
    return imports


def check_names(graph: onnx.GraphProto) -> None:
    """Raises BadModel when an input, initialiser or node output uses a name that is taken."""
    _check_unique("input", (item.name for item in graph.input))
    initializers = [item.name for item in graph.initializer] + [item.values.name for item in graph.sparse_initializer]
    _check_unique("initialiser", initializers)
    taken = {item.name for item in graph.input} | set(initializers)
    for node in graph.node:
        for name in node.output:
            if name and name in taken:
                raise BadModel(f"node '{node.name or node.op_type}' writes '{name}', a name that is already taken")
            taken.add(name)


def node_names(graph: onnx.GraphProto, kind: str) -> list[str]:
    """Names of the nodes of an operator, those in bodies included."""
    names, pending = [], [graph]
    while pending:
        for node in pending.pop().node:
            if node.op_type == kind and node.name:
                names.append(node.name)
            pending += [item.g for item in node.attribute if item.type == onnx.AttributeProto.GRAPH]
    return names


def _check_unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if not name:
            raise BadModel(f"an {what} has no name")
        if name in seen:
            raise BadModel(f"{what} '{name}' is defined twice")
        seen.add(name)


def in_order(nodes: Sequence[onnx.NodeProto], defined: Iterable[str]) -> Sequence[onnx.NodeProto]:
    """`nodes` such that each reads only what is in `defined` or written before; as they are when they already do.

    Raises BadModel for a value that nothing produces and for a cycle.
    """
    known = set(defined)
    for node in nodes:
        if any(name not in known for name in reads(node)):
            return _sorted(nodes, set(defined))
        known.update(node.output)
    return nodes


def reads(node: onnx.NodeProto) -> list[str]:
    """Names a node reads, those that its bodies take from outside included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            names += _free_names(attribute.g, 0)
    return names


def _free_names(graph: onnx.GraphProto, depth: int) -> list[str]:
    if depth > 24:
        raise BadModel("graphs are nested more than 24 deep")
    own = {item.name for item in graph.input} | {item.name for item in graph.initializer}
    own.update(item.values.name for item in graph.sparse_initializer)
    own.update(name for node in graph.node for name in node.output)
    names = [item.name for item in graph.output]
    for node in graph.node:
        names += node.input
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                names += _free_names(attribute.g, depth + 1)
    return [name for name in names if name and name not in own]


def _sorted(nodes: Sequence[onnx.NodeProto], defined: set[str]) -> list[onnx.NodeProto]:
    """Kahn's algorithm, stable. Only models that break the standard's rule of sorted nodes come here."""
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waits = []
    readers: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        needed = set()
        for name in reads(node):
            if name in defined:
                continue
            if name not in producer:
                raise BadModel(f"node '{node.name or node.op_type}' reads '{name}', which nothing produces")
            needed.add(producer[name])
        waits.append(len(needed))
        for other in needed:
            readers.setdefault(other, []).append(index)
    ready = deque(index for index, count in enumerate(waits) if count == 0)
    order = []
    while ready:
        order.append(ready.popleft())
        for index in readers.get(order[-1], []):
            waits[index] -= 1
            if waits[index] == 0:
                ready.append(index)
    if len(order) < len(nodes):
        stuck = next(node for node, count in zip(nodes, waits, strict=True) if count)
        raise BadModel(f"the graph is cyclic: node '{stuck.name or stuck.op_type}' waits for its own result")
    return [nodes[index] for index in order]
