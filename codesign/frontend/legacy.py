"""Operators of opsets 1 to 6 in the form that opset 7 gave them: their own broadcasting, settings as attributes.

Source: the changelog of ONNX's operators (Changelog.md), the versions of each that were replaced before opset 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.errors import BadModel, UnsupportedOperator
from codesign.graph import Op
from codesign.ops.arguments import ELEMENT_TYPES

if TYPE_CHECKING:
    from codesign.frontend.walk import Walk

NEWEST = 6
_FORM = 7
_DROPPED = ("consumed_inputs", "broadcast", "output_sequence")
"""Attributes that said how memory is reused, or what later versions always do."""


def modern(walk: Walk, op: Op) -> Op:
    """`op` of an opset before 7 as opset 7 writes it; operations that this takes are emitted before it.

    Raises UnsupportedOperator for a form that no later opset has.
    """
    rule = _RULES.get(op.kind)
    changed = rule(walk, op) if rule is not None else op
    return _without(replace(changed, opset=_FORM), *_DROPPED)


def _without(op: Op, *names: str) -> Op:
    return replace(op, attributes={key: value for key, value in op.attributes.items() if key not in names})


def _with(op: Op, **attributes: Any) -> Op:
    return replace(op, attributes={**op.attributes, **attributes})


def _rank(walk: Walk, op: Op, index: int) -> int:
    name = op.inputs[index]
    if name not in walk.tensors:
        raise UnsupportedOperator(
            f"node '{op.name}' ({op.kind}): opset {op.opset} broadcasts by a rank that depends on data; "
            "convert the model with onnx.version_converter"
        )
    return len(walk.tensors[name].shape)


def _aligned(walk: Walk, op: Op, axis: int) -> Op:
    """The operation with its second operand laid along the first from `axis` on."""
    rank, own = _rank(walk, op, 0), _rank(walk, op, 1)
    missing = rank - axis % max(rank, 1) - own
    if missing <= 0:
        return op
    name = walk.unique(f"{op.name}/Unsqueeze")
    axes = tuple(range(own, own + missing))
    unsqueeze = Op(name, "Unsqueeze", (op.inputs[1],), (f"{name}/aligned",), {"axes": axes}, "", _FORM, op.sources)
    return replace(op, inputs=(op.inputs[0], walk.emit(unsqueeze)[0], *op.inputs[2:]))


def _broadcast(walk: Walk, op: Op) -> Op:
    """The second operand lay along the last axes of the first, or from attribute `axis` on."""
    axis = op.attributes.get("axis")
    return op if axis is None else _without(_aligned(walk, op, int(axis)), "axis")


def _slope(walk: Walk, op: Op) -> Op:
    """One slope, or one a channel."""
    return op if _rank(walk, op, 1) != 1 or _rank(walk, op, 0) < 2 else _aligned(walk, op, 1)


def _from_attribute(position: int, *names: str) -> Callable[[Walk, Op], Op]:
    """A rule for a setting that later versions take as an input of integers."""

    def rule(walk: Walk, op: Op) -> Op:
        given = next((op.attributes[name] for name in names if name in op.attributes), None)
        if given is None or len(op.inputs) > position:
            return op
        constant = walk.add_constant(f"{op.name}/{names[0]}", np.asarray(given, np.int64))
        padding = ("",) * (position - len(op.inputs))
        return _without(replace(op, inputs=(*op.inputs, *padding, constant)), *names)

    return rule


def _cast(walk: Walk, op: Op) -> Op:
    """The type was named, as in TensorProto.DataType."""
    target = op.attributes.get("to")
    if not isinstance(target, str):
        return op
    names = {"float": "float32", "double": "float64", "bfloat16": "bfloat16"}
    name = names.get(target.lower(), target.lower())
    number = next((number for number, known in ELEMENT_TYPES.items() if known == name), None)
    if number is None:
        raise BadModel(f"node '{op.name}' (Cast): attribute 'to' is '{target}', expected an element type")
    return _with(op, to=number)


def _pad(walk: Walk, op: Op) -> Op:
    return _without(_with(op, pads=op.attributes["paddings"]), "paddings") if "paddings" in op.attributes else op


def _concat(walk: Walk, op: Op) -> Op:
    return op if "axis" in op.attributes else _with(op, axis=1)


def _tile(walk: Walk, op: Op) -> Op:
    """Repeats along one axis, until opset 6 gave a number for each."""
    if len(op.inputs) < 3:
        return op
    tiles, axis = walk.constant(op.inputs[1]), walk.constant(op.inputs[2])
    if tiles is None or axis is None:
        raise UnsupportedOperator(f"node '{op.name}' (Tile): opset {op.opset} with tiles that the model computes")
    repeats = np.ones(_rank(walk, op, 0), np.int64)
    repeats[int(axis.item())] = int(tiles.item())
    return replace(op, inputs=(op.inputs[0], walk.add_constant(f"{op.name}/repeats", repeats)))


def _inference(walk: Walk, op: Op) -> Op:
    """Later versions are in training when more outputs than the first are asked for."""
    return _without(op, "is_test")


def _batch_normalisation(walk: Walk, op: Op) -> Op:
    if not op.attributes.get("is_test", 0) and any(op.outputs[1:]):
        raise UnsupportedOperator(f"node '{op.name}' ({op.kind}): in training; export the model for inference")
    return replace(_without(op, "is_test"), outputs=op.outputs[:1])


def _upsample(walk: Walk, op: Op) -> Op:
    height, width = op.attributes.get("height_scale"), op.attributes.get("width_scale")
    if height is None or width is None:
        return op
    return _without(_with(op, scales=(1.0, 1.0, height, width)), "height_scale", "width_scale")


_RULES: Mapping[str, Callable[[Walk, Op], Op]] = {
    **dict.fromkeys(
        ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less"), _broadcast
    ),
    "PRelu": _slope,
    "Reshape": _from_attribute(1, "shape"),
    "Cast": _cast,
    "Pad": _pad,
    "Concat": _concat,
    "Tile": _tile,
    "Dropout": _inference,
    "BatchNormalization": _batch_normalisation,
    "Upsample": _upsample,
}  # fmt: skip
