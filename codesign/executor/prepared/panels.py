"""Weights as panels, and the product of an image's pixels with them, with what the kernel applies of an epilogue."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from codesign.executor.kernels.product import describe, multiply_rows
from codesign.executor.kernels.threads import share, thread_count
from codesign.executor.prepared.step import Packed, address
from codesign.ops.base import Array


@dataclass(frozen=True, slots=True)
class Sliding:
    """Kernel, stride, dilation and padding before, each (vertical, horizontal); extents of the result."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)
    out: tuple[int, int] = (1, 1)


@dataclass(frozen=True, slots=True)
class Finish:
    """What is done to a sum before it is stored: limits, then the activation; for bytes the zero points of the image,
    as unsigned, and of the result, and the result's type (int32: the sums themselves)."""

    low: float = -math.inf
    high: float = math.inf
    activation: str = ""
    centre: int = 0
    zero: int = 0
    kind: type[np.generic] = np.float32


@dataclass(frozen=True, slots=True)
class Layout:
    """How one shape of image is multiplied: the kernel's table, where it lies, its tasks, the result's shape."""

    table: Array
    place: int
    tasks: int
    result: tuple[int, ...]


class Panels:
    """The weight of one product or convolution. `packed` holds the panels, the bias and a pixel of padding, and for
    bytes the factors of the columns."""

    def __init__(self, packed: Packed, groups: int, columns: int, finish: Finish) -> None:
        self._packed, self._groups, self._columns, self._finish = packed, groups, columns, finish
        self._size, self._result_size = 4 if finish.kind is np.float32 else 1, np.dtype(finish.kind).itemsize

    def layout(self, image: tuple[int, ...], sliding: Sliding) -> Layout:
        """How an image of shape (batch, height, width, groups * depth) is multiplied."""
        table, tasks = describe(
            thread_count(), self._finish.activation or None, self._size, self._result_size,
            batch=image[0], height=image[1],
            width=image[2], depth=image[3] // self._groups, kernel_height=sliding.kernel[0],
            kernel_width=sliding.kernel[1], stride_y=sliding.stride[0], stride_x=sliding.stride[1],
            dilation_y=sliding.dilation[0], dilation_x=sliding.dilation[1], before_y=sliding.before[0],
            before_x=sliding.before[1], out_height=sliding.out[0], out_width=sliding.out[1], columns=self._columns,
            groups=self._groups,
        )  # fmt: skip
        return Layout(table, address(table), tasks, (image[0], *sliding.out, self._groups * self._columns))

    def multiply(self, layout: Layout, image: Array, addend: Array | None = None) -> Array:
        """The products of the pixels of `image`, whose last axis is contiguous: (batch, out height, out width, groups *
        columns), contiguous, as `addend` is."""
        packed, finish = self._packed(), self._finish
        result = np.empty(layout.result, finish.kind)
        batch_step, row_step, pixel_step, _ = image.strides
        step = layout.result[3] * self._result_size
        share(
            multiply_rows, layout.tasks, layout.place, address(image), batch_step, row_step, pixel_step, packed[0][1],
            packed[1][1], 0 if addend is None else address(addend), step, address(result), step, packed[2][1],
            finish.low, finish.high, packed[3][1] if len(packed) > 3 else 0, float(finish.zero),
        )  # fmt: skip
        return result
