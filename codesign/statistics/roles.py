"""How operators use their operands, as far as statistics depend on it: tables from operator to input positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from codesign.graph import Op

Axis = Callable[[Op, int], int]
"""The axis of a weight of that rank which the product sums over."""


def _rows(op: Op, rank: int) -> int:
    return max(rank - 2, 0)


def _columns(op: Op, rank: int) -> int:
    return rank - 1


def _rows_unless_transposed(op: Op, rank: int) -> int:
    return _columns(op, rank) if op.attributes.get("transB", 0) else _rows(op, rank)


def _first(op: Op, rank: int) -> int:
    return 0


def _input_channels(op: Op, rank: int) -> int:
    return 1


SUMMED: Mapping[str, tuple[int, Axis]] = {
    "MatMul": (1, _rows),
    "Gemm": (1, _rows_unless_transposed),
    "FusedMatMul": (1, _rows_unless_transposed),
    "MatMulInteger": (1, _rows),
    "MatMulIntegerToFloat": (1, _rows),
    "DynamicQuantizeMatMul": (1, _rows),
    "QLinearMatMul": (3, _rows),
    "Conv": (1, _input_channels),
    "FusedConv": (1, _input_channels),
    "ConvInteger": (1, _input_channels),
    "QLinearConv": (3, _input_channels),
    "ConvTranspose": (1, _first),
}
"""Products: position of the weight, and the axis that is summed over. Of a convolution, the input channels: hardware
for patterns of zeros takes them together at one tap of the kernel."""

ZERO_POINTS: Mapping[str, Mapping[int, int]] = {
    "DequantizeLinear": {0: 2},
    "MatMulInteger": {0: 2, 1: 3},
    "ConvInteger": {0: 2, 1: 3},
    "QLinearMatMul": {0: 2, 3: 5},
    "QLinearConv": {0: 2, 3: 5},
    "QLinearAdd": {0: 2, 3: 5},
    "QLinearMul": {0: 2, 3: 5},
}
"""Position of each quantised input, and that of its zero point."""

LOOKED_UP: Mapping[str, tuple[int, int]] = {"Gather": (1, 0), "GatherElements": (1, 0)}
"""Position of the indices, and that of the data whose axis `axis` they address."""

ROUTED: Mapping[str, int] = {"MoE": 1, "QMoE": 1}
"""Position of a router's logits, of which an operation itself takes the `k` largest in each row."""

CHOOSING: Mapping[str, int] = {"TopK": 1, "ArgMax": 0, "ArgMin": 0}
"""Position of the output that holds indices into axis `axis` of the first input."""
