"""What a graph keeps in memory: its weights, and the activations alive while each operation runs."""

from __future__ import annotations

from collections.abc import Mapping

from codesign.graph import Graph
from codesign.ops.base import Value


def stored_weight_bytes(graph: Graph, values: Mapping[str, Value]) -> int:
    """Bytes of the learned values in the types of `values`, each tensor once however often it is read."""
    return sum(values[name].operand().bytes for name, weight in graph.weights.items() if weight.is_parameter)


def last_uses(graph: Graph) -> dict[str, int]:
    """Index of the last operation that reads each activation; graph outputs live to the end (`len(ops)`)."""
    last = {name: index for index, op in enumerate(graph.ops) for name in op.outputs if name}
    for index, op in enumerate(graph.ops):
        for name in op.reads():
            last[name] = index
    last.update({name: len(graph.ops) for name in graph.outputs})
    return {name: index for name, index in last.items() if name not in graph.weights}


def live_bytes(graph: Graph, values: Mapping[str, Value]) -> list[int]:
    """Activation bytes alive while each operation runs: its inputs, its outputs, and what later ones still read."""
    last = last_uses(graph)
    produced = {name: index for index, op in enumerate(graph.ops) for name in op.outputs if name}
    change = [0] * (len(graph.ops) + 2)
    for name, end in last.items():
        begin = produced.get(name, 0)
        size = values[name].operand().bytes
        change[begin] += size
        change[min(end, len(graph.ops)) + 1] -= size
    live, sizes = 0, []
    for index in range(len(graph.ops)):
        live += change[index]
        sizes.append(live)
    return sizes
