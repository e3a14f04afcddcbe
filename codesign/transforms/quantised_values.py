"""What transforms of quantised models share: dequantised values, the quantisation after, and limits between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codesign.dtypes import dtype, numpy_dtype
from codesign.graph import Op
from codesign.ops.quantisation import integer_limits, saturated
from codesign.transforms.match import View, is_kind
from codesign.transforms.rewrite import Rewriter


@dataclass(frozen=True)
class Quantised:
    """A dequantised value: the integers, their scale and zero point ("" when zero), and the operation between."""

    integers: str
    scale: str
    zero: str
    op: Op


def quantised(view: View, name: str) -> Quantised | None:
    """`name` as a dequantised 8-bit value whose scale and zero point are constants of a tensor or of an axis."""
    op = view.producer(name, "DequantizeLinear")
    if op is None or op.attributes.get("block_size", 0):
        return None
    zero = op.inputs[2] if len(op.inputs) > 2 else ""
    constants = view.is_constant(op.inputs[1]) and (not zero or view.is_constant(zero))
    kind = dtype(view.tensor(op.inputs[0]).dtype)
    if not constants or kind.bits != 8 or kind.kind not in ("int", "uint"):
        return None
    return Quantised(op.inputs[0], op.inputs[1], zero, op)


def is_whole(view: View, found: Quantised) -> bool:
    """True when one scale and zero point hold for the whole tensor."""
    return view.tensor(found.scale).elements == 1


def quantiser_of(view: View, name: str) -> Op | None:
    """The QuantizeLinear to 8 bits of a whole tensor that alone reads `name`."""
    op = view.sole_reader(name)
    if op is None or not is_kind(op, "QuantizeLinear") or op.inputs[0] != name:
        return None
    constants = all(view.is_constant(one) and view.tensor(one).elements == 1 for one in op.inputs[1:] if one)
    return op if constants and dtype(view.tensor(op.outputs[0]).dtype).bits == 8 else None


def zero_point(view: View, rewriter: Rewriter, name: str, integers: str) -> str:
    """The zero point, made when it is not given."""
    if name:
        return name
    return rewriter.constant(f"{integers}.zero", np.zeros((), numpy_dtype(view.tensor(integers).dtype)))


def _spent(view: View, readers: Sequence[Op], operands: Sequence[Quantised]) -> tuple[list[Op], list[Op]]:
    """The dequantisations that only `readers` need, and those that stay for others."""
    inside = {id(op) for op in readers}
    ops = list({id(found.op): found.op for found in operands}.values())
    alone = [
        op
        for op in ops
        if op.outputs[0] not in view.pinned and all(id(one) in inside for one in view.readers(op.outputs[0]))
    ]
    return alone, [op for op in ops if all(op is not one for one in alone)]


def replace_quantised(
    view: View, rewriter: Rewriter, old: Sequence[Op], operands: Sequence[Quantised], new: Sequence[Op]
) -> None:
    alone, shared = _spent(view, old, operands)
    rewriter.replace([*old, *alone], new, also=shared)


def limits_before(view: View, name: str) -> tuple[list[Op], Op | None]:
    """The Relu and Clip operations after `name`, and the quantisation after these."""
    limits: list[Op] = []
    while (following := view.sole_reader(name)) is not None and is_kind(following, "Relu", "Clip"):
        limits.append(following)
        name = following.outputs[0]
    return limits, quantiser_of(view, name)


Bounds = list[tuple[str, str]]
"""Max or Min, and the constant that it limits by."""


def integer_bounds(view: View, rewriter: Rewriter, limits: Sequence[Op], quantiser: Op) -> Bounds | None:
    """The limits as integers, those that the type has anyway left out; None when they are not known.

    Quantisation keeps order, so it may come before a limit when the limit is quantised too.
    """
    scale = view.scalar(quantiser.inputs[1])
    zero = view.array(quantiser.inputs[2]) if len(quantiser.inputs) > 2 and quantiser.inputs[2] else np.zeros((), int)
    if limits and (scale is None or zero is None):
        return None
    target = view.tensor(quantiser.outputs[0]).dtype
    ends = integer_limits(target)
    bounds: Bounds = []
    for op in limits:
        for kind, number, end in zip(("Max", "Min"), _real_limits(view, op), ends, strict=True):
            if number is None:
                continue
            assert scale is not None
            assert zero is not None
            bound = saturated(np.asarray([number / scale], np.float32), zero.reshape(-1), target).reshape(())
            if int(bound) != end:
                bounds.append((kind, rewriter.constant(f"{quantiser.outputs[0]}.limit", bound)))
    return bounds


def _real_limits(view: View, op: Op) -> tuple[float | None, float | None]:
    if op.kind == "Relu":
        return 0.0, None
    low, high = (
        view.scalar(op.inputs[index]) if index < len(op.inputs) and op.inputs[index] else op.attributes.get(name)
        for index, name in ((1, "min"), (2, "max"))
    )
    return low, high


def target_of(view: View, rewriter: Rewriter, quantiser: Op) -> tuple[str, str]:
    """Scale and zero point of what `quantiser` makes."""
    zero = quantiser.inputs[2] if len(quantiser.inputs) > 2 else ""
    return quantiser.inputs[1], zero_point(view, rewriter, zero, quantiser.outputs[0])


def limited(
    view: View,
    rewriter: Rewriter,
    quantiser: Op,
    bounds: Bounds,
    kind: str,
    inputs: Sequence[str],
    attributes: dict[str, object],
    domain: str,
    opset: int,
) -> list[Op]:
    """An operation on integers and the limits after it."""
    result = quantiser.outputs[0]
    shape = view.shape(result)
    names = [rewriter.tensor(result, shape) for _ in bounds] + [result]
    ops = [Op("", kind, tuple(inputs), (names[0],), attributes, domain, opset)]
    for (limit, bound), before, after in zip(bounds, names, names[1:], strict=False):
        ops.append(Op("", limit, (before, bound), (after,), opset=13))
    return ops
