"""Recognise scaled dot-product attention in the products, masks and softmax that exporters write for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from codesign.graph import Graph, Op
from codesign.transforms.attention_mask import Mask, Masks
from codesign.transforms.match import Either, Match, Node, Number, Value, View, first_match, is_closed, is_kind
from codesign.transforms.rewrite import Rewriter
from codesign.transforms.views import reshape, transpose


def fuse_attention(graph: Graph) -> Graph:
    """The graph with softmax(scale q k' + masks) v as the standard's Attention operator of four axes.

    Scores may be scaled by constants, on q, on k' or after their product; masked by additions or by Where, also
    through a view with other leading axes; and guarded against rows without a visible key, where the operator gives
    zeros. A constant mask that hides all later keys becomes `is_causal`; one that hides nothing goes. The operator
    reads the key untransposed: a Transpose is added, which `fold_views` merges with the one that was there. Operands
    of other than four axes are reshaped to four. Values agree to rounding.
    """
    view = View(graph)
    rewriter = Rewriter(view)
    masks = Masks(view, rewriter)
    for op in graph.ops:
        outer = first_match(view, WEIGHTED, op) if is_kind(op, "MatMul") else None
        found = _attention(view, op, outer) if outer is not None else None
        if found is not None and not rewriter.touches(found.ops):
            rewriter.replace(found.ops, _operations(view, rewriter, masks, found))
    return rewriter.build()


def _over_last_axis(view: View, op: Op) -> bool:
    rank = len(view.shape(op.inputs[0]))
    return int(op.attributes.get("axis", 1 if 0 < op.opset < 13 else -1)) % rank == rank - 1


_softmax = Node("Softmax", Value("scores"), where=_over_last_axis)
_guarded = Node("Where", Node("IsNaN", _softmax), Number(0.0), _softmax)
WEIGHTED = Node("MatMul", Either(_softmax, _guarded, Node("Cast", _softmax)), Value("value"))
"""The outer half: values weighted by probabilities, where torch guards against 0 / 0 and half precision is cast."""


@dataclass(frozen=True)
class Scores:
    """The inner half: a product of q and k', scaled and masked, with the operations that make it."""

    query: str
    key: str
    ops: tuple[Op, ...]
    scale: float = 1.0
    masks: tuple[Mask, ...] = ()
    widened: bool = False


MOST_LAYERS = 16
"""Operations between the product of queries and keys and the softmax: scales, masks, views, casts."""


def _scores(view: View, name: str, layers: int = MOST_LAYERS) -> Scores | None:
    """`name` as scores: found from the inside out, so that a scale after a mask is seen to scale that too."""
    op = view.producer(name, "MatMul", "Mul", "Div", "Add", "Where", "Reshape", "Cast")
    if op is None or not layers:
        return None
    if op.kind == "MatMul":
        return Scores(op.inputs[0], op.inputs[1], (op,))
    found = next(_outward(view, op, layers - 1), None)
    return replace(found, ops=(*found.ops, op)) if found is not None else None


def _outward(view: View, op: Op, layers: int) -> Iterator[Scores]:
    """Each way in which `op` scales, masks, widens or reshapes scores that one of its inputs is."""
    for index, name in enumerate(op.inputs):
        inner = _scores(view, name, layers) if view.sole_reader(name) is op else None
        if inner is None:
            continue
        if op.kind == "Reshape" and index == 0:
            if view.shape(name)[-2:] == view.shape(op.outputs[0])[-2:] and len(view.shape(op.outputs[0])) > 2:
                yield inner
        elif op.kind == "Cast" and view.tensor(op.outputs[0]).dtype == "float32":
            yield replace(inner, widened=True)
        elif op.kind in ("Mul", "Div") and (factor := _factor(view, op, index)) and not inner.masks:
            yield replace(inner, scale=inner.scale * factor)
        elif view.shape(name) == view.shape(op.outputs[0]) and (mask := _mask(view, op, index)) is not None:
            yield replace(inner, masks=(*inner.masks, mask))


def _factor(view: View, op: Op, index: int) -> float | None:
    """The constant by which `op` multiplies its input `index`."""
    if op.kind == "Div":
        divisor = view.scalar(op.inputs[1])
        return 1 / divisor if divisor and index == 0 else None
    return view.scalar(op.inputs[1 - index])


def _mask(view: View, op: Op, index: int) -> Mask | None:
    """What `op` does to the scores that are its input `index`, as a mask."""
    shape = view.shape(op.outputs[0])
    if op.kind == "Add":
        return Mask(op.inputs[1 - index], shape)
    if op.kind == "Where" and index > 0:
        hidden = view.scalar(op.inputs[3 - index])
        return Mask(op.inputs[0], shape, keeps=index == 1, hidden=hidden) if hidden is not None else None
    return None


@dataclass(frozen=True)
class Attention:
    """One attention: its scores, with constants on q and k' in their scale, its values and its result."""

    scores: Scores
    value: str
    result: str
    ops: tuple[Op, ...]


def _attention(view: View, last: Op, outer: Match) -> Attention | None:
    scores = _scores(view, outer.tensors["scores"])
    if scores is None:
        return None
    query, on_query = _without_factors(view, scores.query)
    key, on_key = _without_factors(view, scores.key)
    scale = scores.scale * on_query.factor * on_key.factor
    ops = (*on_query.ops, *on_key.ops, *scores.ops, *outer.ops)
    scores = replace(scores, query=query, key=key, scale=scale)
    found = Attention(scores, outer.tensors["value"], last.outputs[0], ops)
    return found if is_closed(view, ops, last) and _fits(view, found) else None


@dataclass(frozen=True)
class Factor:
    """A product of constants and the operations that multiply by them."""

    factor: float = 1.0
    ops: tuple[Op, ...] = ()


def _without_factors(view: View, name: str) -> tuple[str, Factor]:
    """`name` before it was multiplied by constants, and those."""
    taken = Factor()
    while (op := view.producer(name, "Mul", "Div")) is not None and view.sole_reader(name) is not None:
        for index, inner in enumerate(op.inputs):
            factor = _factor(view, op, index)
            if factor and view.shape(inner) == view.shape(name):
                name, taken = inner, Factor(taken.factor * factor, (*taken.ops, op))
                break
        else:
            break
    return name, taken


def _fits(view: View, found: Attention) -> bool:
    """True when q, k' and v have the same leading axes, or k' and v one head for all of four-axis q."""
    query, key, value = (view.shape(name) for name in (found.scores.query, found.scores.key, found.value))
    if len(query) < 3 or key[:-2] != value[:-2] or 0 in (*query, *key, *value) or found.scores.scale <= 0:
        return False
    shared = len(query) == 4 and key[:-2] == (query[0], 1)
    return shared or key[:-2] == query[:-2]


def _heads(view: View, found: Attention) -> tuple[int, int]:
    """Batch and heads: the leading axes of q, where three axes hold both as one those of a mask that tells them."""
    leading = view.shape(found.scores.query)[:-2]
    if len(leading) > 1:
        return math.prod(leading[:-1]), leading[-1]
    told = [mask.shape[:2] for mask in found.scores.masks if len(mask.shape) == 4]
    return told[0] if told else (leading[0], 1)


def _operations(view: View, rewriter: Rewriter, masks: Masks, found: Attention) -> list[Op]:
    """The Attention operator with the views and mask operations around it."""
    batch, heads = _heads(view, found)
    ops: list[Op] = []

    def four_axes(name: str) -> str:
        shape = rewriter.shape_of(name)
        target = shape if len(shape) == 4 else (batch, heads, *shape[-2:])
        if target == shape:
            return name
        result = rewriter.tensor(name, target)
        ops.append(reshape(rewriter, name, result, target))
        return result

    query, turned, value = (four_axes(name) for name in (found.scores.query, found.scores.key, found.value))
    shape = rewriter.shape_of(turned)
    key = rewriter.tensor(turned, (*shape[:2], shape[3], shape[2]))
    ops.append(transpose(turned, key, (0, 1, 3, 2)))
    scores = (batch, heads, rewriter.shape_of(query)[2], shape[3])
    mask, is_causal = masks.lay(found.scores.masks, scores, found.scores.query, ops)
    attributes: dict[str, object] = {"scale": found.scores.scale}
    if is_causal:
        attributes["is_causal"] = 1
    if found.scores.widened:
        attributes["softmax_precision"] = 1
    inputs = (query, key, value, mask) if mask else (query, key, value)
    shape = (*scores[:3], rewriter.shape_of(value)[3])
    direct = shape == view.shape(found.result)
    result = found.result if direct else rewriter.tensor(found.result, shape)
    ops.append(Op("", "Attention", inputs, (result,), attributes, opset=23))
    if not direct:
        ops.append(reshape(rewriter, result, found.result, view.shape(found.result)))
    return ops
