"""Weights as panels, and the product of an image's pixels with them, with what the kernel applies of an epilogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from codesign.executor.kernels.product import describe, multiply_rows, pack, pack_bias
from codesign.executor.kernels.threads import share, thread_count
from codesign.executor.prepared.epilogue import Epilogue
from codesign.executor.prepared.step import Packed, address
from codesign.executor.weights import WeightStore
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
class Layout:
    """How one shape of image is multiplied: the kernel's table, where it lies, its tasks, the result's shape."""

    table: Array
    place: int
    tasks: int
    result: tuple[int, ...]


class Panels:
    """A weight of one product or convolution, packed by `order`: the array as (groups, taps, depth, columns)."""

    def __init__(
        self,
        weights: WeightStore,
        name: str,
        epilogue: Epilogue,
        groups: int,
        columns: int,
        order: Callable[[Array], Array],
    ) -> None:
        self._epilogue, self._groups, self._columns = epilogue, groups, columns

        def pack_all(weight: Array, bias: Array | None = None) -> tuple[Array, ...]:
            ordered = order(weight)
            return pack(ordered), pack_bias(bias, groups, columns), np.zeros(ordered.shape[2], np.float32)

        self._packed = Packed(weights, (name, epilogue.bias) if epilogue.bias else (name,), pack_all)

    def layout(self, image: tuple[int, ...], sliding: Sliding) -> Layout:
        """How an image of shape (batch, height, width, groups * depth) is multiplied."""
        table, tasks = describe(
            thread_count(), self._epilogue.activation or None, batch=image[0], height=image[1], width=image[2],
            depth=image[3] // self._groups, kernel_height=sliding.kernel[0], kernel_width=sliding.kernel[1],
            stride_y=sliding.stride[0], stride_x=sliding.stride[1], dilation_y=sliding.dilation[0],
            dilation_x=sliding.dilation[1], before_y=sliding.before[0], before_x=sliding.before[1],
            out_height=sliding.out[0], out_width=sliding.out[1], columns=self._columns, groups=self._groups,
        )  # fmt: skip
        return Layout(table, address(table), tasks, (image[0], *sliding.out, self._groups * self._columns))

    def multiply(self, layout: Layout, image: Array, addend: Array | None) -> Array:
        """The products of the pixels of `image`, whose last axis is contiguous: (batch, out height, out width, groups *
        columns), contiguous, as `addend` is."""
        (_, panels), (_, bias), (_, zeros) = self._packed()
        result = np.empty(layout.result, np.float32)
        batch_step, row_step, pixel_step, _ = image.strides
        step, found = layout.result[3] * 4, self._epilogue
        share(
            multiply_rows, layout.tasks, layout.place, address(image), batch_step, row_step, pixel_step, panels, bias,
            0 if addend is None else address(addend), step, address(result), step, zeros, found.low, found.high,
        )  # fmt: skip
        return result
