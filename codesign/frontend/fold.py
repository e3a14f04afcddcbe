"""Constant folding: an operation whose inputs are all constants becomes a constant.

Small results are computed at once, since shapes may depend on them. Large ones (a transposed or joined weight) are
computed when asked for, as deployment tools do ahead of time; they stay absent when the values are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from codesign.dtypes import dtype, numpy_dtype
from codesign.errors import BadModel, UnsupportedOperator
from codesign.frontend.external import is_inline
from codesign.frontend.infer import MALFORMED
from codesign.graph import Op, Tensor, Weight
from codesign.ops.base import Array, Value, find

LARGEST_LAZY = 2**31
"""Elements: a larger constant is left to be computed at run time."""
RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)
KEPT = frozenset(("DequantizeLinear", "If", "Loop", "Scan"))
"""Operations that stay although constant: a dequantised weight is stored quantised, and typed later."""


LOOKUPS = frozenset(("Gather", "GatherND", "GatherElements"))
"""Operations that read a table: a learned table is kept whole, since it counts as a parameter whole."""


def folded(
    op: Op, weights: Sequence[Weight | None], inputs: Sequence[Value | None], results: Sequence[Tensor]
) -> list[Weight] | None:
    """The results of `op` as constants, or None when it has to run."""
    if op.kind in RANDOM or op.kind in KEPT or op.bodies or _reads_learned_table(op, inputs):
        return None
    if op.kind in ("Shape", "Size") and inputs and inputs[0] is not None:
        return _now(op, [_stand_in(inputs[0])], results)
    constant = all(weight is not None for name, weight in zip(op.inputs, weights, strict=True) if name)
    if not constant or any(tensor.elements > LARGEST_LAZY for tensor in results) or not _computable(op):
        return None
    known = [weight.inline if weight is not None else None for weight in weights]
    at_hand = all(array is not None for name, array in zip(op.inputs, known, strict=True) if name)
    if at_hand and all(is_inline(tensor) for tensor in results):
        return _now(op, known, results)
    return _later(op, weights, results)


def _reads_learned_table(op: Op, inputs: Sequence[Value | None]) -> bool:
    table = inputs[0] if op.kind in LOOKUPS and inputs else None
    return table is not None and table.elements > 1 and dtype(table.dtype).is_float


def _now(op: Op, arrays: Sequence[Array | None], results: Sequence[Tensor]) -> list[Weight]:
    computed = _compute(op, arrays)
    for array, tensor in zip(computed, results, strict=False):
        if array.shape != tensor.shape:
            raise BadModel(
                f"node '{op.name}' ({op.kind}) gives shape {list(array.shape)}, inferred {list(tensor.shape)}"
            )
    return [Weight(tensor, value=array) for array, tensor in zip(computed, results, strict=False)]


def _later(op: Op, weights: Sequence[Weight | None], results: Sequence[Tensor]) -> list[Weight]:
    sources = [weight for weight in weights if weight is not None]

    def reader(position: int) -> Callable[..., Array]:
        def derive(*arrays: Array) -> Array:
            given = iter(arrays)
            return _compute(op, [None if weight is None else next(given) for weight in weights])[position]

        return derive

    return [Weight(tensor, sources=sources, derive=reader(position)) for position, tensor in enumerate(results)]


def _compute(op: Op, arrays: Sequence[Array | None]) -> list[Array]:
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(array) for array in find(op).compute(op, arrays)]
    except MALFORMED as error:
        raise BadModel(f"node '{op.name}' ({op.kind}): cannot be computed from its constants ({error})") from error


def _stand_in(value: Value) -> Array:
    """An array of the value's shape that takes no memory, for operators that read only the shape."""
    kind = dtype(value.dtype)
    return np.broadcast_to(np.empty((), numpy_dtype(kind.name)), value.shape)


def _computable(op: Op) -> bool:
    return _has_kernel(op.domain, op.kind)


@cache
def _has_kernel(domain: str, kind: str) -> bool:
    from codesign.ops.base import Operator

    try:
        return type(find(Op("", kind, (), (), domain=domain))).compute is not Operator.compute
    except UnsupportedOperator:
        return False
