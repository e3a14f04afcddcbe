"""Which constants are learned values: what the literature counts as a model's parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from codesign.dtypes import dtype
from codesign.graph import Graph, Op, Weight

NEVER: dict[str, tuple[int, ...] | None] = {
    "BatchNormalization": (3, 4), "Resize": None, "Upsample": None, "Clip": None, "Pad": (1, 2, 3), "Range": None,
    "OneHot": None, "Dropout": (1, 2), "RoiAlign": None, "NonMaxSuppression": None, "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2), "QLinearConv": (1, 2, 4, 5, 6, 7), "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "ConvInteger": (2, 3), "MatMulInteger": (2, 3), "STFT": None, "Expand": (1,), "Tile": (1,), "Trilu": (1,),
    "RotaryEmbedding": None, "If": None, "Loop": None, "Scan": None,
}  # fmt: skip
"""Input positions of an operator that hold settings or statistics (all when None): torch counts running mean and
variance, scales and zero points as buffers, not parameters."""
SINGLE_VALUE_READERS = frozenset(
    ("Conv", "ConvTranspose", "Gemm", "MatMul", "PRelu", "BatchNormalization", "LayerNormalization")
)
"""Operators at which a single value may be learned; elsewhere it is a plain number."""
QUANTISED_READERS = frozenset(
    ("DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm", "MatMulNBits",
     "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "GatherBlockQuantized", "QAttention", "QEmbedLayerNormalization")
)  # fmt: skip
"""Operators whose integer weights are learned values in a narrow format."""
ELEMENTWISE = frozenset(
    ("Add", "Sub", "Mul", "Div", "Where", "Pow", "Min", "Max", "Mod", "Equal", "Greater", "Less", "GreaterOrEqual",
     "LessOrEqual", "And", "Or", "Sum", "Mean", "Attention", "MultiHeadAttention")
)  # fmt: skip
"""Operators that also take masks and plain numbers."""
BUFFER_NAMES = (
    "mask",
    "inv_freq",
    "cos",
    "sin",
    "cos_cached",
    "sin_cached",
    "cos_cache",
    "sin_cache",
    "freqs_cis",
    "position_ids",
)
"""Endings of the names that exporters give to buffers: constants that are computed, not learned."""


def mark_parameters(graph: Graph, origins: Mapping[str, tuple[str, ...]]) -> None:
    """Set `is_parameter` of each weight. `origins` names the stored weights that a folded one was derived from: one
    that is read in two forms (tied embeddings) counts once."""
    candidates = _candidates(graph)
    left: dict[str, int] = {}
    for name, weight in graph.weights.items():
        if not origins.get(name):
            weight.is_parameter = name in candidates
            left[name] = 0 if weight.is_parameter else weight.tensor.elements
    for name, weight in graph.weights.items():
        sources = origins.get(name)
        if sources:
            weight.is_parameter = name in candidates and _take(weight, dict.fromkeys(sources), left)


def _take(weight: Weight, sources: Iterable[str], left: dict[str, int]) -> bool:
    """Whether what `weight` holds of its sources was not yet counted under another name; counted from now on."""
    wanted = weight.tensor.elements
    for source in sources:
        free = left.setdefault(source, wanted)
        taken = min(free, wanted)
        left[source] = free - taken
        wanted -= taken
    return wanted < weight.tensor.elements


def _candidates(graph: Graph) -> set[str]:
    found = set()
    masks = _score_masks(graph)
    for op in graph.ops:
        never = NEVER.get(op.kind, ())
        for position, name in enumerate(op.inputs):
            weight = graph.weights.get(name)
            if weight is None or name in found or name in masks or never is None or position in never:
                continue
            if _learned(weight, op):
                found.add(name)
        for body in op.bodies.values():
            found |= {
                name
                for inner in body.ops
                for name in inner.inputs
                if name in graph.weights and _learned(graph.weights[name], inner)
            }
    return found


def _score_masks(graph: Graph) -> set[str]:
    """Constants added to attention scores alike for all heads: masks. A learned bias differs between heads."""
    producers = graph.producers()
    waiting = [op.inputs[0] for op in graph.ops if op.kind == "Softmax"]
    masks = set()
    while waiting:
        op = producers.get(waiting.pop())
        if op is None or op.kind not in ("Add", "Where", "Reshape"):
            continue
        for name in op.inputs[: 1 if op.kind == "Reshape" else None]:
            weight = graph.weights.get(name)
            if weight is None:
                waiting.append(name)
            elif _rank(graph, op.outputs[0]) > 2 and (1, 1, 1, *weight.tensor.shape)[-3] == 1:
                masks.add(name)
    return masks


def _rank(graph: Graph, name: str) -> int:
    return len(graph.tensors[name].shape) if name in graph.tensors else 0


def _learned(weight: Weight, op: Op) -> bool:
    kind = dtype(weight.tensor.dtype)
    if not kind.is_float:
        return op.kind in QUANTISED_READERS and weight.tensor.elements > 1
    if weight.tensor.elements == 1:
        return op.kind in SINGLE_VALUE_READERS
    if op.kind not in ELEMENTWISE:
        return True
    if weight.tensor.name.rsplit(".", 1)[-1].endswith(BUFFER_NAMES):
        return False
    return not _is_mask(weight.inline)


def _is_mask(values: np.ndarray | None) -> bool:
    """True for values that only switch: nothing but zero and minus infinity, or a large negative number."""
    if values is None or values.size == 0:
        return False
    wide = values.astype(np.float64)
    lowest = float(wide.min())
    return lowest <= -100.0 and bool(np.all((wide == 0) | (wide == lowest))) and not math.isnan(lowest)
