"""Convolutions as steps that plan once for each shape of image, whatever the numbers are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from codesign.executor.epilogue import follow
from codesign.executor.prepared.images import FEW_CHANNELS, as_pixels, channels_first, channels_last, padded, pair
from codesign.executor.prepared.lanes import Slide, layout, slide
from codesign.executor.prepared.panels import Finish, Layout, Panels, Sliding
from codesign.executor.prepared.step import Packed, Read
from codesign.graph import Op
from codesign.ops.base import Array
from codesign.ops.convolution import convolution_window
from codesign.ops.window import Window

LEAST_DEPTH = 8
"""Channels of a group, at the least, that are worth a product of their own."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Shape (outputs, depth, *kernel) of a convolution's weights, its groups, and how they are multiplied."""

    shape: tuple[int, ...]
    groups: int
    merged: bool
    """A pixel of the image is then all that a line of the kernel covers."""

    @property
    def separate(self) -> bool:
        """Each channel has one filter of its own."""
        return self.groups > 1 and self.groups == self.shape[0] and self.shape[1] == 1

    def ordered(self, weights: Array) -> Array:
        """The weights as (groups, taps, depth, outputs of a group), or when separate as (*kernel, channels)."""
        if self.separate:
            return np.ascontiguousarray(np.moveaxis(weights[:, 0], 0, -1))
        outputs, depth = self.shape[0] // self.groups, self.shape[1]
        last = np.moveaxis(weights.reshape(self.groups, outputs, depth, -1), (1, 2), (3, 2))
        taps = (pair(self.shape[2:])[0], -1) if self.merged else (-1, depth)
        return last.reshape(self.groups, *taps, outputs)


def filters(shape: tuple[int, ...], groups: int, window: Window) -> Filters | None:
    """How weights of this shape are multiplied; None when they are better left to the general way."""
    found = Filters(shape, groups, groups == 1 and shape[1] < FEW_CHANNELS and window.dilation[-1] == 1)
    small = groups > 1 and not found.separate and shape[1] < LEAST_DEPTH
    return None if small or len(shape) not in (3, 4) or min((*window.before, *window.after)) < 0 else found


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the shape of an image decides: the window, zeros to add around a small image, how the product is done."""

    sliding: Sliding
    shape: tuple[int, ...]
    around: tuple[tuple[int, int], tuple[int, int]] | None = None
    layout: Layout | None = None
    slide: Slide | None = None


class Convolution:
    """A convolution whose weights are `packed`: for a product as `Panels` takes them, for separate channels as `slide`
    does. Names are those of the image and of the addend, "" for none; `rest` is what remains of the epilogue."""

    def __init__(
        self, op: Op, found: Filters, packed: Packed, finish: Finish, addend: str = "", rest: tuple[Op, ...] = ()
    ) -> None:
        self._op, self._filters, self._packed, self._finish = op, found, packed, finish
        self._addend, self._rest = addend, rest
        self._kind: Any = np.dtype(finish.kind)
        self._panels = Panels(packed, found.groups, found.shape[0] // found.groups, finish)
        self._plans: dict[tuple[int, ...], _Plan] = {}

    def __call__(self, read: Read) -> list[Array] | None:
        source = read(self._op.inputs[0])
        image = self._taken(source)
        if image is None:
            return None
        plan = self._plans.get(image.shape)
        if plan is None:
            plan = self._plans[image.shape] = self._plan(image.shape)
        addend = read(self._addend) if self._addend else None
        if addend is not None and addend.shape != plan.shape:
            return None
        result = self._convolved(plan, as_pixels(image), None if addend is None else channels_last(addend))
        outcome = channels_first(result, image.ndim - 2)
        return [follow(self._rest, outcome, [source], read)] if self._rest else [outcome]

    def _taken(self, image: Array) -> Array | None:
        """The image in the type the kernel reads; None when it is not the one this was made for."""
        return image if image.dtype == np.float32 else None

    def _plan(self, image: tuple[int, ...]) -> _Plan:
        window, _ = convolution_window(self._op, image, self._filters.shape)
        sliding = Sliding(
            pair(window.kernel), pair(window.stride), pair(window.dilation), pair(window.before, 0),
            pair(window.outputs(image[2:])),
        )  # fmt: skip
        plan = _Plan(sliding, (image[0], self._filters.shape[0], *window.outputs(image[2:])))
        channels, height, width = image[1], *pair(image[2:])
        if self._filters.separate:
            way = "multiply" if self._finish.kind is np.float32 else "multiply bytes"
            return replace(plan, slide=layout((image[0], height, width, channels), sliding, way, self._finish))
        if not self._filters.merged:
            return replace(plan, layout=self._panels.layout((image[0], height, width, channels), sliding))
        before, after = sliding.before, pair(window.after, 0)
        seen = Sliding((sliding.kernel[0], 1), (sliding.stride[0], 1), (sliding.dilation[0], 1), (0, 0), sliding.out)
        merged = (image[0], height + before[0] + after[0], sliding.out[1], sliding.kernel[1] * channels)
        return replace(plan, around=(before, after), layout=self._panels.layout(merged, seen))

    def _convolved(self, plan: _Plan, pixels: Array, addend: Array | None) -> Array:
        if plan.slide is not None:
            return slide(plan.slide, np.ascontiguousarray(pixels), self._packed)
        assert plan.layout is not None
        if plan.around is not None:
            whole = padded(pixels, *plan.around, self._finish.centre)
            batch_step, row_step, pixel_step, channel_step = whole.strides
            pixels = np.lib.stride_tricks.as_strided(
                whole,
                (*whole.shape[:2], plan.sliding.out[1], plan.sliding.kernel[1] * whole.shape[3]),
                (batch_step, row_step, pixel_step * plan.sliding.stride[1], channel_step),
            )
        elif self._kind.itemsize == 1 and self._filters.shape[1] % 4:
            # Four bytes are read at a time, so that some behind the last pixel must be there.
            pixels = padded(pixels, (0, 0), (0, 0), self._finish.centre)
        else:
            pixels = np.ascontiguousarray(pixels)
        return self._panels.multiply(plan.layout, pixels, addend)
