"""What a policy says of each operation of a graph: rules select by the class of its Work, its operator, its name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from codesign.dtypes import name_of
from codesign.errors import BadParameter, CodesignError, nearest
from codesign.graph import Graph, Op
from codesign.numerics.policy import Formats, Policy, Rule
from codesign.ops.base import Array, Operator, Value, operators

_SMALL = 64
"""Integers up to this many are shapes, axes and sizes, which an operator's Work may depend on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The formats of one operation, and the class of its Work."""

    formats: Formats
    operation_class: str


class Plans:
    """Plans of a graph's operations, bodies of control flow included, made as each is first met."""

    def __init__(self, graph: Graph, policy: Policy) -> None:
        """Raises BadParameter for a rule that names an operator or a layer that is not there."""
        self._policy = policy
        self._graphs = list(_graphs(graph))
        self._plans: dict[int, tuple[Op, Plan]] = {}
        self.weights = {name for inner in self._graphs for name in inner.weights}
        _check_selectors([op for inner in self._graphs for op in inner.ops], policy)

    def of(self, op: Op, operator: Operator, inputs: Sequence[Array | None]) -> Plan:
        """The plan of `op`; its Work is stated for these inputs when it is met for the first time."""
        found = self._plans.get(id(op))
        if found is None:
            operation_class = class_of(op, operator, inputs)
            found = self._plans[id(op)] = (op, Plan(_formats(op, operation_class, self._policy), operation_class))
        return found[1]

    def made(self) -> Iterator[tuple[Op, Plan]]:
        """The operations met so far, in that order."""
        return iter(self._plans.values())


def class_of(op: Op, operator: Operator, inputs: Sequence[Array | None]) -> str:
    """The class of the operation's Work in small letters; `other` where it has none, or bodies that do it."""
    if op.bodies:
        return "other"
    try:
        values = [None if array is None else _value(array) for array in inputs]
        outputs = [Value(shape, kind) for shape, kind in operator.infer(op, values)]
        return type(operator.work(op, values, outputs)).__name__.lower()
    except (CodesignError, AttributeError, TypeError, ValueError, IndexError):
        return "other"


def _value(array: Array) -> Value:
    constant = array if array.dtype.kind in "iub" and array.size <= _SMALL else None
    return Value(array.shape, name_of(array.dtype), constant=constant)


def _graphs(graph: Graph) -> Iterator[Graph]:
    yield graph
    for op in graph.ops:
        for body in op.bodies.values():
            yield from _graphs(body)


def _formats(op: Op, operation_class: str, policy: Policy) -> Formats:
    parts: dict[str, Any] = dict.fromkeys(Formats.model_fields)
    for rule in policy.rules:
        if _selects(rule, op, operation_class):
            parts.update({part: given for part in parts if (given := getattr(rule, part)) is not None})
    return Formats.model_construct(**parts)


def _selects(rule: Rule, op: Op, operation_class: str) -> bool:
    return (
        (not rule.classes or operation_class in rule.classes)
        and (not rule.kinds or op.kind in rule.kinds)
        and (not rule.layers or any(fnmatchcase(name, pattern) for name in _names(op) for pattern in rule.layers))
    )


def _names(op: Op) -> tuple[str, ...]:
    """What a rule may call an operation: its own name and those of its ONNX nodes."""
    return (op.name, *op.sources)


def _check_selectors(ops: Sequence[Op], policy: Policy) -> None:
    names = {name for op in ops for name in _names(op)}
    for number, rule in enumerate(policy.rules, start=1):
        where = f"numerics '{policy.name}', rule {number}"
        for kind in rule.kinds:
            if not any(kind == known for _, known in operators()):
                raise BadParameter(f"{where}: unknown operator '{kind}'{nearest(kind, {op.kind for op in ops})}")
        for pattern in rule.layers:
            if not any(fnmatchcase(name, pattern) for name in names):
                close = nearest(pattern.strip("*"), names)
                raise BadParameter(f"{where}: no operation of the model is called '{pattern}'{close}")
