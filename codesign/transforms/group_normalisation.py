"""Recognise GroupNormalization, which exporters write as InstanceNormalization of channels flattened by group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codesign.graph import Graph, Op
from codesign.transforms.match import View, is_kind
from codesign.transforms.rewrite import Array, Rewriter


def fuse_group_normalisations(graph: Graph) -> Graph:
    """The graph with Reshape to (batch, groups, all else), InstanceNormalization and Reshape back as one operator.

    A gain and a bias for each channel that follow are included (arXiv:1803.08494). Values agree to rounding.
    """
    view = View(graph)
    rewriter = Rewriter(view)
    for op in graph.ops:
        if is_kind(op, "InstanceNormalization") and (pieces := _pieces(view, op)) is not None:
            _write(view, rewriter, op, *pieces)
    return rewriter.build()


def _pieces(view: View, op: Op) -> tuple[Op, Op] | None:
    """The view before and the view after, when they flatten the channels of a value by group and restore it."""
    before = view.producer(op.inputs[0], "Reshape")
    after = view.sole_reader(op.outputs[0])
    if before is None or view.sole_reader(op.inputs[0]) is not op or after is None or not is_kind(after, "Reshape"):
        return None
    shape, grouped = view.shape(before.inputs[0]), view.shape(op.inputs[0])
    if len(shape) < 3 or len(grouped) != 3 or grouped[0] != shape[0] or shape[1] % grouped[1]:
        return None
    constants = all(view.is_constant(name) for name in op.inputs[1:3])
    return (before, after) if constants and view.shape(after.outputs[0]) == shape else None


def _write(view: View, rewriter: Rewriter, op: Op, before: Op, after: Op) -> None:
    shape, groups = view.shape(before.inputs[0]), view.shape(op.inputs[0])[1]
    ops, result = [before, op, after], after.outputs[0]
    gain, result = _following(view, ops, result, "Mul", shape)
    bias, result = _following(view, ops, result, "Add", shape)
    scale, shift = op.inputs[1:3]
    channels = (shape[1],)
    width = shape[1] // groups

    def gains(*values: Array) -> Array:
        own, *channel = values
        spread = np.repeat(own, width)
        return spread * channel[0].reshape(channels) if channel else spread

    def biases(*values: Array) -> Array:
        """Of the groups, times the channels' gain if there is one, plus the channels' bias if there is one."""
        total = np.repeat(values[0], width)
        rest: Sequence[Array] = values[1:]
        if gain:
            total, rest = total * rest[0].reshape(channels), rest[1:]
        return total + rest[0].reshape(channels) if bias else total

    counts = bool(gain) and view.graph.weights[gain].is_parameter
    also_counts = bool(bias) and view.graph.weights[bias].is_parameter
    new_gain = rewriter.derived([scale, *filter(None, [gain])], channels, gains, counts)
    new_bias = rewriter.derived([shift, *filter(None, [gain, bias])], channels, biases, also_counts)
    attributes = {"num_groups": groups, "epsilon": op.attributes.get("epsilon", 1e-5)}
    inputs = (before.inputs[0], new_gain, new_bias)
    rewriter.replace(ops, [Op("", "GroupNormalization", inputs, (result,), attributes, opset=21)])


def _following(view: View, ops: list[Op], result: str, kind: str, shape: tuple[int, ...]) -> tuple[str, str]:
    """A constant for each channel that a following operation of `kind` applies ("" when none), and the new result."""
    following = view.sole_reader(result)
    if following is None or not is_kind(following, kind):
        return "", result
    others = [name for name in following.inputs if name != result]
    if len(others) != 1 or not view.is_constant(others[0]) or not _per_channel(view.shape(others[0]), shape):
        return "", result
    ops.append(following)
    return others[0], following.outputs[0]


def _per_channel(constant: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    aligned = (*(1,) * (len(shape) - len(constant)), *constant)
    return aligned == (1, shape[1], *(1,) * (len(shape) - 2))
