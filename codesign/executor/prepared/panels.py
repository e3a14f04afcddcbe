"""Weights as panels, and the product of an image's pixels with them, with what the kernel applies of an epilogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

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


class Panels:
    """A weight of one product or convolution, packed by `order`: the array as (groups, taps, depth, columns)."""

    def __init__(
        self, weights: WeightStore, name: str, epilogue: Epilogue, groups: int, order: Callable[[Array], Array]
    ) -> None:
        self._epilogue, self._groups = epilogue, groups
        self._columns = 0

        def pack_all(weight: Array, bias: Array | None = None) -> tuple[Array, ...]:
            from codesign.executor.kernels.product import pack, pack_bias

            ordered = order(weight)
            self._columns = ordered.shape[3]
            return pack(ordered), pack_bias(bias, groups, ordered.shape[3]), np.zeros(ordered.shape[2], np.float32)

        self._packed = Packed(weights, (name, epilogue.bias) if epilogue.bias else (name,), pack_all)
        self._tables: dict[tuple[Any, ...], tuple[Array, int]] = {}

    @cached_property
    def _multiply(self) -> Callable[..., None]:
        from codesign.executor.kernels.product import multiply_rows

        return multiply_rows  # type: ignore[no-any-return]

    def multiply(self, image: Array, sliding: Sliding, result: Array, addend: Array | None) -> None:
        """Write the products of the pixels of `image` (batch, height, width, groups * depth), the last axis contiguous,
        into `result` (batch, out height, out width, groups * columns), contiguous, as `addend` is."""
        from codesign.executor.kernels.threads import share

        panels, bias, zeros = self._packed()
        key = (image.shape, sliding)
        table, tasks = self._tables.get(key) or self._describe(key)
        batch_step, row_step, pixel_step, _ = image.strides
        step, found = result.shape[3] * 4, self._epilogue
        share(
            self._multiply, tasks, address(table), address(image), batch_step, row_step, pixel_step, address(panels),
            address(bias), 0 if addend is None else address(addend), step, address(result), step, address(zeros),
            found.low, found.high,
        )  # fmt: skip

    def _describe(self, key: tuple[tuple[int, ...], Sliding]) -> tuple[Array, int]:
        from codesign.executor.kernels.product import describe
        from codesign.executor.kernels.threads import thread_count

        (batch, height, width, channels), sliding = key
        pairs = {
            "kernel_height": sliding.kernel[0], "kernel_width": sliding.kernel[1], "stride_y": sliding.stride[0],
            "stride_x": sliding.stride[1], "dilation_y": sliding.dilation[0], "dilation_x": sliding.dilation[1],
            "before_y": sliding.before[0], "before_x": sliding.before[1], "out_height": sliding.out[0],
            "out_width": sliding.out[1],
        }  # fmt: skip
        found = self._tables[key] = describe(
            thread_count(), self._epilogue.activation or None, batch=batch, height=height, width=width,
            depth=channels // self._groups, columns=self._columns, groups=self._groups, **pairs,
        )  # fmt: skip
        return found
