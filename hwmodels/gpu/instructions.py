"""Instructions that the libraries' kernels issue: properties of their code, the same on every GPU.

Counted in thread instructions (a warp instruction is 32), found from the throughput of long kernels on an H200 whose
memory had slack (calibration rows alone); PyTorch 2.11's kernels. A GPU's own rates turn them into time.
"""

from __future__ import annotations

from typing import NamedTuple

ELEMENTWISE = 12.09
"""An element of a contiguous elementwise loop: load, convert, store and its share of the addresses."""

OPERATION = 2.229
"""A scalar operation as `Map.flops` counts them."""

STRIDED = 60.68
"""An element of a copy between strided tensors: its address by divisions of its index."""

PERMUTED = 95.0
"""An element of a copy that changes the order of the axes, of which there are more."""

BROADCAST = 60.9
"""An element of an elementwise loop over tensors of different shapes: the addresses of all operands."""

PRODUCT = 1.40
"""A multiply-accumulate of a matrix product on the SIMT units, with its share of loads from shared memory and of loop
control. SMs with a scheduler's lanes for each of its issue slots lose it; where lanes are half of that, it is free."""

WINDOW = {"MaxPool": 57.3, "AveragePool": 44.4}
"""An element of a pooling window: its address, bounds and comparison or sum."""
OTHER_WINDOW = 50.0

TAP = {2: 4.546, 4: 12.55}
"""A multiply-accumulate of a depthwise convolution, by bytes of an element: 16-bit products are packed in pairs."""
OUTPUT = {2: 20.25, 4: 0.0}
"""A result of a depthwise convolution, beside its taps."""


class RowCost(NamedTuple):
    """Instructions of a kernel over rows: for each row, for each element."""

    row: float
    element: float


SUM = RowCost(6360.0, 7.88)
COMPARE = RowCost(8000.0, 19.0)
ARGUMENT = RowCost(6000.0, 40.0)
WARP_SOFTMAX = RowCost(1660.0, 44.0)
BLOCK_SOFTMAX = RowCost(0.0, 105.0)
LAYER_NORM = RowCost(27500.0, 53.7)
WIDE_LAYER_NORM = RowCost(47500.0, 77.7)
WIDE_RMS_NORM = RowCost(415.0, 84.0)
RMS_NORM = RowCost(20300.0, 36.3)
COMPILED_NORM = RowCost(4000.0, 20.0)
UNALIGNED_NORM = RowCost(162000.0, 135.0)

SCAN = 142.7
SORT_PASS = RowCost(72000.0, 128.0)
"""A radix pass of a block's sort."""
MERGED = 0.3
"""What merging by a warp costs beside radix passes."""
TRANSFORM = 69.99
"""An element of a fast Fourier transform, beside its operations."""
