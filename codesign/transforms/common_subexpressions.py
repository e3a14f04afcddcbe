"""Compute once what several operations compute alike."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np

from codesign.graph import Graph, Op
from codesign.transforms.match import View
from codesign.transforms.rewrite import sources_of

RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"}
)
SMALL_CONSTANT_ELEMENTS = 64


def merge_common_subexpressions(graph: Graph) -> Graph:
    """The graph with operations of equal kind, attributes and inputs merged into the first of them.

    Values are unchanged. Constants of up to 64 elements in memory count as equal when their values are. Random
    operators, control flow, and operations that write a pinned tensor stay. The merged one has the sources of all.
    """
    pinned = View(graph).pinned
    constants = _equal_constants(graph)
    renamed: dict[str, str] = {}
    seen: dict[Hashable, int] = {}
    ops: list[Op] = []
    for original in graph.ops:
        op = _renamed(original, renamed)
        key = _key(op, constants)
        first = seen.get(key) if key is not None else None
        if first is not None and not any(name in pinned for name in op.outputs):
            renamed.update(zip(op.outputs, ops[first].outputs, strict=True))
            ops[first] = replace(ops[first], sources=sources_of((ops[first], op)))
            continue
        if key is not None and first is None:
            seen[key] = len(ops)
        ops.append(op)
    return graph if len(ops) == len(graph.ops) else graph.with_ops(tuple(ops))


def _renamed(op: Op, names: dict[str, str]) -> Op:
    inputs = tuple(names.get(name, name) for name in op.inputs)
    epilogue = tuple(_renamed(follower, names) for follower in op.epilogue)
    return op if inputs == op.inputs and epilogue == op.epilogue else replace(op, inputs=inputs, epilogue=epilogue)


def _key(op: Op, constants: dict[str, str]) -> Hashable | None:
    """What two operations must share to compute the same; None for one that is never merged."""
    if op.bodies or op.kind in RANDOM:
        return None
    inputs = tuple(constants.get(name, name) for name in op.inputs)
    attributes = tuple(sorted((name, _hashable(value)) for name, value in op.attributes.items()))
    given = tuple(bool(name) for name in op.outputs)
    epilogue = tuple(_key(follower, constants) for follower in op.epilogue)
    return op.domain, op.kind, op.opset, inputs, attributes, given, epilogue


def _hashable(value: Any) -> Hashable:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, list | tuple):
        return tuple(_hashable(one) for one in value)
    return repr(value)


def _equal_constants(graph: Graph) -> dict[str, str]:
    """Small constants that have the values of an earlier one, with the name of the first such."""
    first: dict[Hashable, str] = {}
    equal: dict[str, str] = {}
    for name, weight in graph.weights.items():
        values = weight.inline
        if values is None or values.size > SMALL_CONSTANT_ELEMENTS or values.dtype.kind in "OUS":
            continue
        kept = first.setdefault((weight.tensor.dtype, values.shape, values.tobytes()), name)
        if kept != name:
            equal[name] = kept
    return equal
