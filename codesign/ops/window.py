"""Geometry of a sliding window over spatial axes: kernel, stride, dilation and padding, as convolutions take it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from codesign.graph import Op
from codesign.ops.arguments import bad


@dataclass(frozen=True, slots=True)
class Window:
    """All per spatial axis; `before` and `after` are the zeros added at each end of the input."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """Input positions from the first to the last element under the kernel, both counted."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilation, strict=True))

    @property
    def pointwise(self) -> bool:
        return math.prod(self.kernel) == 1 and not any((*self.before, *self.after))

    def outputs(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Extents of the result for an input of extents `spatial`."""
        return tuple(
            (extent + before + after - reach) // stride + 1
            for extent, before, after, reach, stride in zip(
                spatial, self.before, self.after, self.reach, self.stride, strict=True
            )
        )


def per_axis(op: Op, name: str, rank: int, default: int) -> tuple[int, ...]:
    """Attribute `name`, one positive integer for each of `rank` axes."""
    values = tuple(int(value) for value in op.attributes.get(name, ()) or (default,) * rank)
    if len(values) != rank or any(value < 1 for value in values):
        raise bad(op, f"attribute '{name}' is {list(values)}, expected {rank} positive integers")
    return values


def padding(op: Op, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Attribute `pads` as (before, after)."""
    pads = tuple(int(value) for value in op.attributes.get("pads", ()) or (0,) * (2 * rank))
    if len(pads) != 2 * rank:
        raise bad(op, f"attribute 'pads' is {list(pads)}, expected {2 * rank} integers")
    return pads[:rank], pads[rank:]


def window(op: Op, spatial: Sequence[int], kernel: Sequence[int]) -> Window:
    """The window of `op` on an input of extents `spatial`, automatic padding resolved."""
    rank = len(spatial)
    stride, dilation = per_axis(op, "strides", rank, 1), per_axis(op, "dilations", rank, 1)
    before, after = padding(op, rank)
    mode = str(op.attributes.get("auto_pad", "") or "NOTSET")
    found = Window(tuple(kernel), stride, dilation, before, after)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        missing = [
            max((-(-extent // step) - 1) * step + reach - extent, 0)
            for extent, step, reach in zip(spatial, stride, found.reach, strict=True)
        ]
        small, large = tuple(total // 2 for total in missing), tuple(total - total // 2 for total in missing)
        before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
    elif mode == "VALID":
        before = after = (0,) * rank
    elif mode != "NOTSET":
        raise bad(op, f"auto_pad '{mode}' is unknown; expected NOTSET, SAME_UPPER, SAME_LOWER or VALID")
    return Window(tuple(kernel), stride, dilation, before, after)
