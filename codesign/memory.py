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


def appended(graph: Graph) -> dict[str, str]:
    """The cache that each present one extends in place: `{present: past}` of attentions that are the past's only
    reader. A deployment keeps room for the tokens to come, so that both lie at one address."""
    readers = graph.consumers()
    return {
        present: past
        for op in graph.ops
        if op.kind == "Attention" and not op.domain and len(op.outputs) > 2
        for past, present in zip(op.inputs[4:6], op.outputs[1:3], strict=False)
        if past and present and readers[past] == [op] and past not in graph.outputs
    }


def live_bytes(graph: Graph, values: Mapping[str, Value]) -> list[int]:
    """Activation bytes alive while each operation runs: its inputs, its outputs, and what later ones still read. A
    cache that is extended in place counts once."""
    last = last_uses(graph)
    produced = {name: index for index, op in enumerate(graph.ops) for name in op.outputs if name}
    for present, past in appended(graph).items():
        last[past] = produced[present] - 1
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
