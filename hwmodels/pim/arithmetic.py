"""Additions and multiplications the ASIC needs for work on vectors: it has no other arithmetic units.

Exponent, logarithm, sine and cosine are truncated Taylor series by Horner's rule; reciprocals and inverse square roots
are Newton iterations from a bit-pattern guess (PIM-GPT, npj Unconventional Computing 2024). What a Work counts as one
operation of such a function is replaced by its steps here; the other operations are half additions, half products.
"""

from __future__ import annotations

from dataclasses import dataclass

from codesign.dtypes import dtype
from codesign.work import Contraction, Map, Reduce, Scan, Sort, Transform, Work
from hwmodels.pim.parameters import Asic

_TANH = ("exponent", "reciprocal")
_PER_ELEMENT: dict[str, tuple[str, ...]] = {
    "Exp": ("exponent",), "Softmax": ("exponent",), "LogSoftmax": ("exponent",), "Log": ("exponent",),
    "Sin": ("exponent",), "Cos": ("exponent",), "Sigmoid": _TANH, "Tanh": _TANH, "Silu": _TANH, "Swish": _TANH,
    "QuickGelu": _TANH, "FastGelu": _TANH, "HardSwish": (), "Gelu": _TANH, "Erf": _TANH, "Elu": ("exponent",),
    "Softplus": ("exponent", "exponent"), "Mish": ("exponent", "exponent", *_TANH), "Div": ("reciprocal",),
    "Reciprocal": ("reciprocal",), "Sqrt": ("inverse_root",), "Pow": ("exponent", "exponent"),
}  # fmt: skip
"""Functions evaluated for each element, by operator."""
_PER_ROW: dict[str, tuple[str, ...]] = {
    "Softmax": ("reciprocal",), "LogSoftmax": ("exponent",), "LayerNormalization": ("inverse_root",),
    "SimplifiedLayerNormalization": ("inverse_root",), "RMSNormalization": ("inverse_root",),
    "SkipLayerNormalization": ("inverse_root",), "SkipSimplifiedLayerNormalization": ("inverse_root",),
    "InstanceNormalization": ("inverse_root",), "GroupNormalization": ("inverse_root",),
    "LpNormalization": ("inverse_root",), "ReduceMean": ("reciprocal",),
}  # fmt: skip
"""Functions evaluated once for each row of a reduction, by operator."""
_UNIT_BITS = 16  # the ASIC computes in bfloat16; wider types take a pass for each 16 bits


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Additions and multiplications, and how often a pass over the data waits for its last result."""

    additions: int
    multiplications: int
    passes: int = 1


def _function_steps(name: str, asic: Asic) -> tuple[int, int]:
    """(additions, multiplications) of one evaluation."""
    if name == "exponent":
        return asic.taylor_terms - 1, asic.taylor_terms - 1
    if name == "reciprocal":
        return asic.newton_steps, 2 * asic.newton_steps
    return asic.newton_steps, 3 * asic.newton_steps + 1


def arithmetic(work: Work, asic: Asic) -> Arithmetic:
    """Operations of `work` on the ASIC; products with matrices count their multiply-accumulates too."""
    elements, rows, passes = 0, 0, 1
    if isinstance(work, Map):
        elements = work.elements
    elif isinstance(work, Reduce):
        elements, rows, passes = work.rows * work.columns, work.rows, work.passes
    evaluated = [(name, elements) for name in _PER_ELEMENT.get(work.kind, ())]
    evaluated += [(name, rows) for name in _PER_ROW.get(work.kind, ())]
    plain = max(0, work.flops - 2 * work.macs - sum(times for _, times in evaluated))
    additions, multiplications = -(-plain // 2) + work.macs, -(-plain // 2) + work.macs
    for name, times in evaluated:
        more_additions, more_multiplications = _function_steps(name, asic)
        additions += times * more_additions
        multiplications += times * more_multiplications
    wide = element_passes(work)
    return Arithmetic(additions * wide, multiplications * wide, passes)


def element_passes(work: Work) -> int:
    """Passes of the 16-bit units for one element of the type that is computed in."""
    name = work.dtype if isinstance(work, Contraction | Map | Reduce | Scan | Transform) else ""
    if isinstance(work, Sort) or not name:
        name = work.reads[0].dtype if work.reads else "bfloat16"
    return -(-dtype(name).bits // _UNIT_BITS)


def softmax(queries: int, heads: int, tokens: int, asic: Asic) -> Arithmetic:
    """Scale, maximum, exponent, sum and division of attention scores."""
    scores = queries * heads * tokens
    exponent = _function_steps("exponent", asic)
    reciprocal = _function_steps("reciprocal", asic)
    return Arithmetic(
        additions=scores * (3 + exponent[0]) + queries * heads * reciprocal[0],
        multiplications=scores * (2 + exponent[1]) + queries * heads * reciprocal[1],
        passes=3,
    )
