"""Einstein summation as a chain of batched matrix products: the equation's labels sorted into batch, m, n and k."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codesign.ops.base import Array

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """One product of two operands: labels kept from both (batch), from one (m, n), and summed over (k)."""

    batch: Labels
    m: Labels
    n: Labels
    k: Labels

    @property
    def result(self) -> Labels:
        return (*self.batch, *self.m, *self.n)


@dataclass(frozen=True, slots=True)
class Einsum:
    """An equation bound to shapes. Each operand's `terms` hold a label only once after diagonals are taken."""

    written: tuple[Labels, ...]
    output: Labels
    extents: dict[str, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.extents[label] for label in self.output)

    def _kept(self, position: int) -> set[str]:
        later = {label for term in self.written[position + 1 :] for label in term}
        return later.union(self.output)

    def _pairs(self) -> list[Pair]:
        pairs: list[Pair] = []
        left = self._reduced(self.written[0], self._kept(0))
        for position in range(1, len(self.written)):
            kept = self._kept(position)
            right = self._reduced(self.written[position], {*left, *kept})
            left_only = tuple(label for label in left if label not in right)
            pair = Pair(
                batch=tuple(label for label in left if label in right and label in kept),
                m=left_only,
                n=tuple(label for label in right if label not in left),
                k=tuple(label for label in left if label in right and label not in kept),
            )
            pairs.append(pair)
            left = pair.result
        return pairs

    @staticmethod
    def _reduced(labels: Labels, kept: set[str]) -> Labels:
        return tuple(dict.fromkeys(label for label in labels if label in kept))

    def _extent(self, labels: Labels) -> int:
        return math.prod(self.extents[label] for label in labels)

    def products(self) -> list[tuple[int, int, int, int]]:
        """batch, m, n, k of each product in the chain."""
        return [tuple(map(self._extent, (pair.batch, pair.m, pair.n, pair.k))) for pair in self._pairs()]  # type: ignore[misc]

    def compute(self, arrays: Sequence[Array]) -> Array:
        """The output array. Every product is one `numpy.matmul`."""
        kept = self._kept(0)
        labels = self._reduced(self.written[0], kept)
        value = self._operand(arrays[0], 0, labels)
        for position, pair in enumerate(self._pairs(), start=1):
            right_labels = (*pair.batch, *pair.k, *pair.n)
            right = self._operand(arrays[position], position, right_labels)
            left = _permuted(value, labels, (*pair.batch, *pair.m, *pair.k))
            batch, m, n, k = map(self._extent, (pair.batch, pair.m, pair.n, pair.k))
            product = np.matmul(left.reshape(batch, m, k), right.reshape(batch, k, n))
            labels = pair.result
            value = product.reshape([self.extents[label] for label in labels])
        surplus = tuple(index for index, label in enumerate(labels) if label not in self.output)
        value = value.sum(axis=surplus, dtype=value.dtype) if surplus else value
        return _permuted(value, tuple(label for label in labels if label in self.output), self.output)

    def _operand(self, array: Array, position: int, wanted: Labels) -> Array:
        """The operand with diagonals taken, labels nobody needs summed out, and axes in the order `wanted`."""
        labels = self.written[position]
        array = np.broadcast_to(array, [self.extents[label] for label in labels])
        numbers = {label: number for number, label in enumerate(self.extents)}
        return np.asarray(np.einsum(array, [numbers[label] for label in labels], [numbers[label] for label in wanted]))


def _permuted(array: Array, labels: Labels, wanted: Labels) -> Array:
    return array.transpose([labels.index(label) for label in wanted])


def parse(equation: str, shapes: Sequence[tuple[int, ...]]) -> Einsum:
    """Bind an equation to shapes. Raises ValueError when they disagree.

    The ellipsis stands for labels "...0", "...1", numbered from the last axis, so that operands of different rank
    broadcast; without an arrow the output holds the ellipsis and the labels seen once, in alphabetical order.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    written = left.split(",")
    if len(written) != len(shapes):
        raise ValueError(f"equation '{equation}' names {len(written)} operands, the node has {len(shapes)}")
    extents: dict[str, int] = {}
    terms: list[Labels] = []
    widest = 0
    for term, shape in zip(written, shapes, strict=True):
        hidden = len(shape) - len(term.replace("...", ""))
        if hidden < 0 or (hidden > 0 and "..." not in term):
            raise ValueError(f"term '{term}' of equation '{equation}' does not match shape {list(shape)}")
        widest = max(widest, hidden if "..." in term else 0)
        labels = _labels(term, hidden)
        terms.append(labels)
        for label, extent in zip(labels, shape, strict=True):
            known = extents.setdefault(label, extent)
            if known != extent and 1 not in (known, extent):
                raise ValueError(f"label '{label}' of equation '{equation}' has extents {known} and {extent}")
            extents[label] = max(known, extent) if 0 not in (known, extent) else 0
    if not arrow:
        letters = left.replace("...", "").replace(",", "")
        right = ("..." if "..." in left else "") + "".join(sorted(x for x in set(letters) if letters.count(x) == 1))
    output = _labels(right, widest)
    unknown = [label for label in output if label not in extents]
    if unknown:
        raise ValueError(f"output label '{unknown[0]}' of equation '{equation}' is in no operand")
    return Einsum(tuple(terms), output, extents)


def _labels(term: str, hidden: int) -> Labels:
    before, dots, after = term.partition("...")
    inner = tuple(f"...{index}" for index in range(hidden - 1, -1, -1)) if dots else ()
    return (*before, *inner, *after)
