"""Let attention read and write tokens with their heads side by side, so that no copy splits or merges heads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from codesign.graph import Graph, Op
from codesign.transforms.head_order import (
    EXCHANGE,
    Computed,
    Ordered,
    Part,
    Tokens,
    layers_of,
    result_views,
    tokens_of,
)
from codesign.transforms.match import View, is_kind
from codesign.transforms.rewrite import Rewriter
from codesign.transforms.views import reshape, transpose


def fold_head_transposes(graph: Graph) -> Graph:
    """The graph with Attention on (batch, length, heads * width) where that leaves fewer Transposes.

    The standard's operator takes query, key and value of four axes, heads before tokens, or all of three, as the
    projections write them; caches, masks and scores keep their form. Rotary embeddings and normalisations of single
    heads on the way move to the order of tokens too, and a packed projection is split on its last axis. An operand
    that has only the order of heads gets a Transpose, where the others save more of them and more elements. Values
    are unchanged.
    """
    view = View(graph)
    rewriter = Rewriter(view)
    for op in graph.ops:
        if is_kind(op, "Attention") and len(shape := view.shape(op.inputs[0])) == 4 and 0 not in shape:
            plan = Plan(view, op)
            if plan.is_complete() and plan.pays() and not rewriter.touches(plan.gone):
                _Writer(plan, rewriter).write()
    return rewriter.build()


class Plan:
    """One Attention in the order of tokens: its operands, the views after its result, and what goes for them."""

    def __init__(self, view: View, op: Op) -> None:
        self.view = view
        self.op = op
        self.operands = {name: tokens_of(view, name, op) for name in op.inputs[:3]}
        self.after = result_views(view, op)
        self.packed: dict[str, list[Part]] = {}
        layers = [layer for tokens in self.operands.values() for layer in layers_of(tokens)]
        for layer in layers:
            if isinstance(layer, Part):
                self.packed.setdefault(layer.name, []).append(layer)
        self.computed = [layer for layer in layers if isinstance(layer, Computed)]
        gone = (op, *(one for layer in layers for one in layer.gone()), *(self.after or ()))
        self.gone = tuple({id(one): one for one in gone}.values())

    def is_complete(self) -> bool:
        """True when the parts of each packed tensor are all of it, in one order, and nothing else reads it."""
        for name, parts in self.packed.items():
            ends = [0, *(part.start + part.length for part in _in_order(parts))]
            extent = self.view.shape(name)[parts[0].order[parts[0].axis]]
            follow = all(part.start == end for part, end in zip(_in_order(parts), ends, strict=False))
            alone = all(any(reader is part.op for part in parts) for reader in self.view.readers(name))
            if not (follow and ends[-1] == extent and alone and len({part.order for part in parts}) == 1):
                return False
        return True

    def pays(self) -> bool:
        """True when fewer Transposes are left, and they move fewer elements."""
        saved = [self.view.tensor(op.outputs[0]).elements for op in self.gone if op.kind == "Transpose"]
        added = [self.view.tensor(name).elements for name in self._turned()]
        return len(saved) > len(added) and sum(saved) > sum(added)

    def _turned(self) -> Iterator[str]:
        """Values that stay, or are wanted, in the order of heads: each needs a Transpose that is added."""
        yield from (name for name, tokens in self.operands.items() if tokens is None)
        yield from (layer.op.outputs[0] for layer in self.computed if layer.is_shared)
        if self.after is None:
            yield self.op.outputs[0]


def _in_order(parts: list[Part]) -> list[Part]:
    return sorted(parts, key=lambda part: part.start)


class _Edit:
    """New operations for old ones: what goes, and what stays for others though the new ones do its part."""

    def __init__(self, rewriter: Rewriter, *old: Op) -> None:
        self.rewriter = rewriter
        self.old = list(old)
        self.also: list[Op] = []
        self.new: list[Op] = []

    def shaped(self, name: str, shape: tuple[int, ...], result: str = "") -> str:
        """`name` seen as `shape`, written to `result` when that is given."""
        if self.rewriter.shape_of(name) == shape and not result:
            return name
        result = result or self.rewriter.tensor(name, shape)
        self.new.append(reshape(self.rewriter, name, result, shape))
        return result

    def exchanged(self, name: str, result: str = "") -> str:
        """`name`, of four axes, with heads and tokens exchanged, written to `result` when that is given."""
        shape = self.rewriter.shape_of(name)
        result = result or self.rewriter.tensor(name, tuple(shape[axis] for axis in EXCHANGE))
        self.new.append(transpose(name, result, EXCHANGE))
        return result

    def by_heads(self, op: Op, name: str, shape: tuple[int, ...], result: str) -> None:
        """`name`, in the order of tokens, as `result` (batch, heads, length, width) of `shape`, after `op`."""
        tokens = tuple(shape[axis] for axis in EXCHANGE)
        self.exchanged(self.shaped(name, tokens), result)
        self.new[-1] = replace(self.new[-1], name=f"{op.name}.by_heads")

    def apply(self) -> None:
        self.rewriter.replace(self.old, self.new, self.also)


class _Writer:
    """Writes one plan."""

    def __init__(self, plan: Plan, rewriter: Rewriter) -> None:
        self.plan = plan
        self.view = plan.view
        self.rewriter = rewriter
        self.parts: dict[tuple[str, int], str] = {}

    def write(self) -> None:
        for name, parts in self.plan.packed.items():
            self._split(name, _in_order(parts))
        self._attention()

    def _split(self, name: str, parts: list[Part]) -> None:
        """All parts of a packed tensor, cut from the order of tokens along one axis with those behind it."""
        first = parts[0]
        shape = tuple(self.view.shape(name)[axis] for axis in first.order)
        inner = math.prod(shape[first.axis + 1 :])
        edit = _Edit(self.rewriter, *first.packed.needless)
        selections = [op for part in parts for op in (part.op, *part.views)]
        edit.also = [*first.packed.kept, *selections]
        source = edit.shaped(first.packed.name, (*shape[: first.axis], shape[first.axis] * inner))
        lengths = [part.length * inner for part in parts]
        results = tuple(self.rewriter.tensor(name, (*shape[: first.axis], length)) for length in lengths)
        self.parts.update({(name, part.start): result for part, result in zip(parts, results, strict=True)})
        cuts = self.rewriter.constant(f"{name}.split", np.array(lengths, np.int64))
        edit.new.append(Op(first.op.name, "Split", (source, cuts), results, {"axis": first.axis}, opset=13))
        edit.apply()
        self.rewriter.replace(selections, [])

    def _read(self, edit: _Edit, tokens: Tokens) -> str:
        """The tensor that holds `tokens`, for the operation that `edit` writes."""
        if isinstance(tokens, Ordered):
            edit.old += tokens.needless
            edit.also += tokens.kept
            return tokens.name
        return self.parts[tokens.name, tokens.start] if isinstance(tokens, Part) else self._computed(tokens)

    def _computed(self, layer: Computed) -> str:
        """The result of an operation by head, computed in the order of tokens."""
        op = layer.op
        batch, heads, length, width = self.view.shape(op.outputs[0])
        is_flat = op.kind == "RotaryEmbedding"
        shape = (batch, length, heads * width) if is_flat else (batch, length, heads, width)
        attributes = {**op.attributes, "num_heads": heads} if is_flat else op.attributes
        edit = _Edit(self.rewriter, op)
        source = edit.shaped(self._read(edit, layer.source), shape)
        result = self.rewriter.tensor(op.outputs[0], shape)
        edit.new.append(replace(op, inputs=(source, *op.inputs[1:]), outputs=(result,), attributes=attributes))
        if layer.is_shared:
            edit.by_heads(op, result, (batch, heads, length, width), op.outputs[0])
        edit.apply()
        return result

    def _attention(self) -> None:
        op, after = self.plan.op, self.plan.after
        edit = _Edit(self.rewriter, op, *(after or ()))
        names = {name: self._operand(edit, name, tokens) for name, tokens in self.plan.operands.items()}
        batch, heads, length, width = shape = self.view.shape(op.outputs[0])
        attributes = {**op.attributes, "q_num_heads": heads, "kv_num_heads": self.view.shape(op.inputs[1])[1]}
        result = self.rewriter.tensor(op.outputs[0], (batch, length, heads * width))
        inputs = (*(names[name] for name in op.inputs[:3]), *op.inputs[3:])
        edit.new.append(replace(op, inputs=inputs, outputs=(result, *op.outputs[1:]), attributes=attributes))
        if after is None:
            edit.by_heads(op, result, shape, op.outputs[0])
        else:
            last = after[-1].outputs[0] if after else op.outputs[0]
            edit.shaped(result, self.view.shape(last), last)
            edit.new[-1] = replace(edit.new[-1], name=after[-1].name if after else f"{op.name}.by_heads")
        edit.apply()

    def _operand(self, edit: _Edit, name: str, tokens: Tokens | None) -> str:
        """The operand `name` as (batch, length, heads * width)."""
        batch, heads, length, width = self.view.shape(name)
        source = edit.exchanged(name) if tokens is None else self._read(edit, tokens)
        return edit.shaped(source, (batch, length, heads * width))
