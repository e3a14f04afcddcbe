"""Lowering: from a Graph to the Work of each of its operations, in the element type of a deployment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from codesign.dtypes import dtype as element_type
from codesign.errors import BadModel
from codesign.graph import Graph, Op
from codesign.ops.base import Value, find
from codesign.work import Operand, Work

if TYPE_CHECKING:
    from codesign.statistics.document import Statistics


def lower(graph: Graph, dtype: str | None = None) -> tuple[Work, ...]:
    """Work of each operation, in order. `dtype` replaces every floating type of the graph, None keeps the types.

    Raises BadModel naming the operation whose work cannot be stated.
    """
    values = values_of(graph, dtype)
    return tuple(work_of(op, values) for op in graph.ops)


def values_of(graph: Graph, dtype: str | None = None) -> dict[str, Value]:
    """What is known of each tensor of the graph, floating types replaced by `dtype` when it is given.

    Raises UnboundDimension for a graph with shapes that only a run tells.
    """
    graph.check_known()
    target = element_type(dtype).name if dtype is not None else None
    values = {}
    for name, tensor in graph.tensors.items():
        weight = graph.weights.get(name)
        is_float = element_type(tensor.dtype).is_float
        values[name] = Value(
            tensor.shape,
            target if target is not None and is_float else tensor.dtype,
            "weight" if weight is not None else "activation",
            constant=weight.inline if weight is not None and not is_float else None,
        )
    if graph.statistics is not None:
        values.update(_measured(graph.statistics, values))
    return values


def _measured(statistics: Statistics, values: Mapping[str, Value]) -> Iterator[tuple[str, Value]]:
    """The values that statistics know more of. Where indices point and which experts are chosen depends on how many
    tokens there are, so that it is left out for another batch or length than was measured."""
    for name, value in values.items():
        found, pointed = statistics.tensors.get(name), statistics.routing.get(name)
        if found is not None:
            alike = found.shape == value.shape
            yield (
                name,
                replace(
                    value,
                    density=found.density,
                    patterns=found.patterns,
                    distinct=pointed.distinct if pointed is not None and alike else None,
                    filled=found.filled if alike else None,
                ),
            )


def work_of(op: Op, values: Mapping[str, Value]) -> Work:
    """Work of one operation with its epilogue: the operands the epilogue reads and the arithmetic it adds."""
    inputs = [values[name] if name else None for name in op.inputs]
    outputs = [values[name] for name in op.outputs if name]
    work = find(op).work(op, inputs, outputs)
    if not op.epilogue:
        return work
    flops = sum(_epilogue_flops(follower, outputs[0].elements) for follower in op.epilogue)
    return replace(work, reads=work.reads + epilogue_operands(op, values), epilogue_flops=work.epilogue_flops + flops)


def epilogue_operands(op: Op, values: Mapping[str, Value]) -> tuple[Operand, ...]:
    """Operands that the epilogue reads beside the value it follows."""
    names: Sequence[str] = [name for follower in op.epilogue for name in follower.inputs if name and name != "@"]
    return tuple(values[name].operand() for name in names)


def _epilogue_flops(follower: Op, elements: int) -> int:
    flops = find(follower).flops_per_element(follower)
    if flops is None:
        raise BadModel(f"operation '{follower.name}' ({follower.kind}) cannot follow another as its epilogue")
    return int(elements * flops)
