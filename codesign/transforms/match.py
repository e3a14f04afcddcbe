"""Patterns over a graph: an expression of operations that is found by walking from its last operation to its inputs.

A pattern reads like the formula that it finds:

    x = Value("x")
    swish = Product(1.0, x, Node("Sigmoid", x))

Matching backtracks over the orders of commutative inputs. It looks only at operations that the pattern names, so a
pass that tries each operation of a graph as the last one of a pattern is linear in the size of the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import numpy as np

from codesign.graph import Graph, Op, Tensor

COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or"})
CONSTANT_TOLERANCE = 1e-3
"""Relative. Exporters write constants in the model's own type: half a unit of bfloat16's last place is 2e-3 of a value
between one and two, that of float16 5e-4, and no two constants of the patterns are closer than a tenth."""


class View:
    """A graph seen by its connections: who writes and who reads each tensor."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._producers = graph.producers()
        self._readers = graph.consumers()
        self.pinned = frozenset(graph.outputs) | {
            name for op in graph.ops for body in op.bodies.values() for name in body.captured
        }
        """Tensors that keep their names: graph outputs, and values read inside the bodies of control flow."""

    def tensor(self, name: str) -> Tensor:
        return self.graph.tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.graph.tensors[name].shape

    def producer(self, name: str, *kinds: str, domain: str = "") -> Op | None:
        """The operation that writes `name`, when it is one of `kinds` (any, when none is named)."""
        op = self._producers.get(name)
        return op if op is not None and (not kinds or is_kind(op, *kinds, domain=domain)) else None

    def readers(self, name: str) -> list[Op]:
        """The operations that read `name`, one entry a read."""
        return self._readers.get(name, [])

    def sole_reader(self, name: str) -> Op | None:
        """The one operation that reads `name`, or None when others do or the name is pinned."""
        readers = self.readers(name)
        alone = bool(readers) and all(reader is readers[0] for reader in readers)
        return readers[0] if alone and name not in self.pinned else None

    def array(self, name: str) -> np.ndarray[Any, Any] | None:
        """The values of `name` when it is a constant in memory."""
        weight = self.graph.weights.get(name)
        return weight.inline if weight is not None else None

    def scalar(self, name: str) -> float | None:
        """The value of `name` when it is a constant of one element in memory."""
        values = self.array(name)
        if values is None or values.size != 1 or values.dtype.kind in "OUSc":
            return None
        return float(values.reshape(()).astype(np.float64))

    def is_constant(self, name: str) -> bool:
        return name in self.graph.weights

    def integers(self, op: Op, attribute: str, index: int) -> tuple[int, ...] | None:
        """A list of integers that older versions hold in an attribute and newer ones in constant input `index`."""
        if attribute in op.attributes:
            held = op.attributes[attribute]
            return (int(held),) if isinstance(held, int) else tuple(int(one) for one in held)
        if index >= len(op.inputs) or not op.inputs[index]:
            return None
        values = self.array(op.inputs[index])
        return None if values is None else tuple(int(one) for one in values.ravel())


def is_kind(op: Op, *kinds: str, domain: str = "") -> bool:
    """True when `op` is one of the operators of `domain`, "" for the standard's, and has no epilogue yet."""
    return op.kind in kinds and ("" if op.domain == "ai.onnx" else op.domain) == domain and not op.epilogue


@dataclass(frozen=True, slots=True)
class Match:
    """What a pattern found: tensors and numbers by the names the pattern gives them, and the operations it covers."""

    tensors: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    nodes: Mapping[str, Op] = field(default_factory=dict)
    ops: tuple[Op, ...] = ()

    def with_tensor(self, name: str, tensor: str) -> Match | None:
        """This match with a tensor named; None when the name already stands for another."""
        held = self.tensors.get(name)
        if held is not None:
            return self if held == tensor else None
        return replace(self, tensors={**self.tensors, name: tensor})

    def with_number(self, name: str, number: float) -> Match | None:
        held = self.numbers.get(name)
        if held is not None:
            return self if close(held, number) else None
        return replace(self, numbers={**self.numbers, name: number})

    def with_op(self, op: Op, name: str = "") -> Match:
        ops = self.ops if any(op is held for held in self.ops) else (*self.ops, op)
        return replace(self, ops=ops, nodes={**self.nodes, name: op} if name else self.nodes)


def close(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=CONSTANT_TOLERANCE)


class Pattern:
    """Something that a tensor can be."""

    def matches(self, view: View, tensor: str, found: Match) -> Iterator[Match]:
        """Each way in which `tensor` can be this, given what was found already."""
        raise AssertionError("each pattern says what it matches")


@dataclass(frozen=True)
class Value(Pattern):
    """Any tensor; the same one wherever the name stands again."""

    name: str

    def matches(self, view: View, tensor: str, found: Match) -> Iterator[Match]:
        extended = found.with_tensor(self.name, tensor)
        if extended is not None:
            yield extended


@dataclass(frozen=True)
class Number(Pattern):
    """A constant of one element: equal to `value`, or of any value, which is then bound to the name."""

    value: float | str

    def matches(self, view: View, tensor: str, found: Match) -> Iterator[Match]:
        number = view.scalar(tensor)
        if number is not None:
            yield from _number(self.value, number, found)


def _number(wanted: float | str, number: float, found: Match) -> Iterator[Match]:
    if isinstance(wanted, str):
        extended = found.with_number(wanted, number)
        if extended is not None:
            yield extended
    elif close(wanted, number):
        yield found


class Node(Pattern):
    """The result of an operation of one of `kinds` (alternatives divided by "|"), its first inputs as given.

    `name` keeps the operation in the match; `where` must hold for it.
    """

    def __init__(
        self, kinds: str, *inputs: Pattern, name: str = "", where: Callable[[View, Op], bool] | None = None
    ) -> None:
        self.kinds = frozenset(kinds.split("|"))
        self.inputs = inputs
        self.name = name
        self.where = where

    def matches(self, view: View, tensor: str, found: Match) -> Iterator[Match]:
        op = view.producer(tensor, *self.kinds)
        if op is None or op.outputs[0] != tensor or len(op.inputs) < len(self.inputs):
            return
        if self.where is not None and not self.where(view, op):
            return
        extended = found.with_op(op, self.name)
        if op.kind in COMMUTATIVE and len(self.inputs) == 2:
            yield from _all(view, self.inputs, op.inputs[::-1], extended)
        yield from _all(view, self.inputs, op.inputs, extended)


def _all(view: View, patterns: tuple[Pattern, ...], tensors: tuple[str, ...], found: Match) -> Iterator[Match]:
    """Each way in which the tensors are the patterns, one by one."""
    if not patterns:
        yield found
        return
    for extended in patterns[0].matches(view, tensors[0], found):
        yield from _all(view, patterns[1:], tensors[1:], extended)


class Either(Pattern):
    """Any of several forms of the same thing."""

    def __init__(self, *forms: Pattern) -> None:
        self.forms = forms

    def matches(self, view: View, tensor: str, found: Match) -> Iterator[Match]:
        for form in self.forms:
            yield from form.matches(view, tensor, found)


class Product(Pattern):
    """A product of `factors` and constants, multiplied in any order and grouping; division by a constant counts too.

    The constants' product equals `constant`, or is bound to it when it is a name.
    """

    def __init__(self, constant: float | str, *factors: Pattern) -> None:
        self.constant = constant
        self.factors = factors

    def matches(self, view: View, tensor: str, found: Match) -> Iterator[Match]:
        product = factors_of(view, tensor)
        if product is None or len(product.tensors) != len(self.factors):
            return
        for extended in _number(self.constant, product.constant, found):
            for op in product.ops:
                extended = extended.with_op(op)
            for order in permutations(product.tensors):
                yield from _all(view, self.factors, order, extended)


@dataclass
class Factors:
    """A product taken apart: its constants multiplied, its other factors, and the operations between."""

    constant: float = 1.0
    tensors: list[str] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)


MOST_FACTORS = 4
"""Longest product that is taken apart; the patterns of activation functions have at most four factors."""
MOST_PRODUCTS = 12
"""Operations that it may be written in, constants multiplied one by one: a chain of thousands is no formula."""


def factors_of(view: View, tensor: str) -> Factors | None:
    """`tensor` as a product; None when it has more than MOST_FACTORS factors or MOST_PRODUCTS operations. What is read
    elsewhere stays a factor."""
    product = Factors()
    pending = [tensor]
    while pending:
        name = pending.pop()
        op = view.producer(name, "Mul", "Div")
        if op is None or (name != tensor and view.sole_reader(name) is None):
            product.tensors.append(name)
        elif op.kind == "Div":
            divisor = view.scalar(op.inputs[1])
            if not divisor:
                product.tensors.append(name)
                continue
            product.constant /= divisor
            product.ops.append(op)
            pending.append(op.inputs[0])
        else:
            product.ops.append(op)
            for factor in op.inputs:
                number = view.scalar(factor)
                if number is None:
                    pending.append(factor)
                else:
                    product.constant *= number
        if len(product.tensors) + len(pending) > MOST_FACTORS or len(product.ops) > MOST_PRODUCTS:
            return None
    return product


def first_match(view: View, pattern: Pattern, root: Op) -> Match | None:
    """The first way in which the result of `root` is the pattern, with nothing in between read from elsewhere."""
    for found in pattern.matches(view, root.outputs[0], Match()):
        if found.ops and is_closed(view, found.ops, root):
            return found
    return None


def is_closed(view: View, ops: tuple[Op, ...], root: Op) -> bool:
    """True when only `ops` read what they write, the results of `root` excepted, and no such value is pinned."""
    inside = {id(op) for op in ops}
    return all(
        name not in view.pinned and all(id(reader) in inside for reader in view.readers(name))
        for op in ops
        if op is not root
        for name in op.outputs
        if name
    )
