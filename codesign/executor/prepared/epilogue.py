"""The part of an epilogue that a kernel applies itself: a bias, an addend, limits and an activation, in this order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from codesign.executor.prepared.step import is_weight, number
from codesign.graph import Graph, Op
from codesign.ops.arguments import text

IsBias = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Epilogue:
    """Names of the bias (a weight) and of the addend (of the result's shape), limits, the activation by the name that
    kernels give it, and the operations that remain to be done."""

    bias: str = ""
    addend: str = ""
    low: float = -math.inf
    high: float = math.inf
    activation: str = ""
    rest: tuple[Op, ...] = ()

    @property
    def limited(self) -> bool:
        return self.low > -math.inf or self.high < math.inf


def split(op: Op, graph: Graph, is_bias: IsBias, bias: str = "", products: bool = True) -> Epilogue:
    """The epilogue of `op`, whose kernel adds `bias` already. `is_bias` tells weights that have one value a column.
    Kernels that are not `products` have no place for an addend or an activation."""
    found = Epilogue(bias=bias)
    followers = op.epilogue
    for index, follower in enumerate(followers):
        extended = _extended(found, follower, op, graph, is_bias) if not follower.domain else None
        if extended is None or ((extended.activation or extended.addend) and not products):
            return replace(found, rest=followers[index:])
        found = extended
    return found


def _extended(found: Epilogue, follower: Op, op: Op, graph: Graph, is_bias: IsBias) -> Epilogue | None:
    """`found` with one more operation; None when the kernel has no place for it."""
    if found.activation or follower.inputs.count("@") != 1:
        return None
    if follower.kind == "Add" and not found.limited:
        other = follower.inputs[1 - follower.inputs.index("@")]
        if is_bias(other) and not found.bias and not found.addend:
            return replace(found, bias=other)
        same = other in graph.tensors and graph.tensors[other] == replace(graph.tensors[op.outputs[0]], name=other)
        return replace(found, addend=other) if same and not found.addend and other not in graph.weights else None
    if follower.kind in ("Relu", "Clip") and not found.limited:
        return _limited(found, follower, graph)
    name = _activation(follower)
    return replace(found, activation=name) if name else None


def _limited(found: Epilogue, follower: Op, graph: Graph) -> Epilogue | None:
    if follower.kind == "Relu":
        return replace(found, low=0.0)
    low, high = -math.inf, math.inf
    for index, name in enumerate(("min", "max"), start=1):
        value: float | None = follower.attributes.get(name)
        if index < len(follower.inputs) and follower.inputs[index]:
            value = number(graph, follower.inputs[index])
            if value is None:
                return None
        if value is not None:
            low, high = (value, high) if name == "min" else (low, value)
    return replace(found, low=low, high=high) if low <= high else None


def _activation(follower: Op) -> str:
    """The kernels' name of an activation, "" when they have none."""
    if follower.kind == "Gelu":
        return "gelu_tanh" if text(follower, "approximate", "none") == "tanh" else "gelu"
    if follower.kind == "Swish":
        return "swish" if follower.attributes.get("alpha", 1.0) == 1.0 else ""
    return {"Sigmoid": "sigmoid", "Tanh": "tanh", "Erf": "erf"}.get(follower.kind, "")


def is_vector(graph: Graph, name: str, axis: int, rank: int, extent: int) -> bool:
    """True for a weight of float32 that has `extent` values along `axis` of a result of that rank, and is broadcast
    along the others."""
    if not is_weight(graph, name):
        return False
    shape = graph.tensors[name].shape
    full = (1,) * (rank - len(shape)) + tuple(shape)
    return len(full) == rank and all(size == (extent if place == axis else 1) for place, size in enumerate(full))
