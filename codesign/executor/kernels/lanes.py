"""Windows that slide over each channel alone, in channels-last order: depthwise convolution and pooling.

A vector holds neighbouring channels; the micro-kernel keeps it for a few neighbouring positions while the window's
elements run by. Elements of the window that lie in the padding are left out, not filled in.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from codesign.executor.kernels.compiled import kernel
from codesign.executor.kernels.vector import FLOAT, Writer, float_lanes, function, read_integer, take_number

LANES = float_lanes()
POSITIONS = 8
MULTIPLY, LARGEST, MEAN = 0, 1, 2
"""What the window does: sum of products with weights (from a bias on), maximum, mean of what it covers."""

FIELDS = (
    "batch", "height", "width", "channels", "kernel_height", "kernel_width", "stride_y", "stride_x", "dilation_y",
    "dilation_x", "before_y", "before_x", "out_height", "out_width", "tasks", "mode", "padded",
)  # fmt: skip
"""Of the table of integers that describes a window; `padded`: a mean counts the padding too."""

_VECTOR = ir.VectorType(FLOAT, LANES)


@function(types.void, *(types.intp,) * 15, *(types.float32,) * 3)
def slide(
    writer: Writer, mode: Any, positions: Any, channels: Any, source: Any, rows: Any, row_step: Any, taps: Any,
    tap_step: Any, position_step: Any, weights: Any, weight_row: Any, weight_tap: Any, begin: Any, result: Any,
    result_step: Any, divisor: Any, low: Any, high: Any,
) -> None:  # fmt: skip
    """One vector of channels at POSITIONS neighbouring positions, or at one.

    `source` is the address of the first element under the first window, from which `rows` times `taps` elements lie
    `row_step` and `tap_step` bytes apart; so do those of `weights`, by `weight_row` and `weight_tap`. `begin` is the
    address of what a sum of products begins with. Only the first `channels` lanes are read and written.
    """
    builder = writer.builder
    mask = writer.lane_mask(channels, LANES)

    def case(way: int, count: int) -> Any:
        def turn(place: Any, weight: Any, values: list[Any]) -> list[Any]:
            factor = writer.masked_load(_VECTOR, weight, mask) if way == MULTIPLY else None
            new = []
            for position, value in enumerate(values):
                step = builder.mul(position_step, writer.integer(position))
                found = writer.masked_load(_VECTOR, writer.at(place, step), mask)
                if way == MULTIPLY:
                    new.append(writer.fma(found, factor, value))
                elif way == MEAN:
                    new.append(builder.fadd(value, found))
                else:
                    wins = builder.or_(
                        builder.fcmp_ordered(">", found, value), builder.fcmp_unordered("uno", found, found)
                    )
                    new.append(builder.select(wins, found, value))
            return new

        def row(index: Any, values: list[Any]) -> list[Any]:
            line, weight_line = (
                writer.at(base, builder.mul(index, step)) for base, step in ((source, row_step), (weights, weight_row))
            )
            return writer.loop(
                taps,
                values,
                lambda tap, inner: turn(
                    writer.at(line, builder.mul(tap, tap_step)),
                    writer.at(weight_line, builder.mul(tap, weight_tap)),
                    inner,
                ),
            )

        def write() -> None:
            first: Any = ir.Constant(_VECTOR, [float("-inf") if way == LARGEST else 0.0] * LANES)
            if way == MULTIPLY:
                first = writer.masked_load(_VECTOR, begin, mask)
            values = writer.loop(rows, [first] * count, row)
            lowest, highest, whole = (writer.splat(limit, LANES) for limit in (low, high, divisor))
            for position, value in enumerate(values):
                value = builder.fdiv(value, whole) if way == MEAN else value
                place = writer.at(result, builder.mul(result_step, writer.integer(position)))
                writer.masked_store(writer.clamp(value, lowest, highest), place, mask)

        return write

    number = builder.add(builder.mul(mode, writer.integer(POSITIONS + 1)), positions)
    writer.choose(
        number,
        {way * (POSITIONS + 1) + count: case(way, count) for way in range(3) for count in (1, POSITIONS)},
    )


@kernel
def slide_rows(
    counter: int, table: int, image: int, image_step: int, row_step: int, pixel_step: int, weights: int, bias: int,
    result: int, low: float, high: float,
) -> None:  # fmt: skip
    """Take tasks, some lines of the result each, from `counter` until there are none.

    `image` is the address of float32 in channels-last order with the steps given, `weights` (kernel height, kernel
    width, channels), `bias` (channels,), `result` (batch, out height, out width, channels).
    """
    batch, height, width, channels = (read_integer(table), read_integer(table + 8), read_integer(table + 16),
                                      read_integer(table + 24))  # fmt: skip
    kernel_height, kernel_width = read_integer(table + 32), read_integer(table + 40)
    stride_y, stride_x = read_integer(table + 48), read_integer(table + 56)
    dilation_y, dilation_x = read_integer(table + 64), read_integer(table + 72)
    before_y, before_x = read_integer(table + 80), read_integer(table + 88)
    out_height, out_width = read_integer(table + 96), read_integer(table + 104)
    tasks, mode, padded = read_integer(table + 112), read_integer(table + 120), read_integer(table + 128)
    lines, size = batch * out_height, channels * 4
    # Positions whose window lies within the width: before and after them it hangs over.
    reach = (kernel_width - 1) * dilation_x
    inner = min(-(-before_x // stride_x), out_width)
    outer = max(min((width - 1 - reach + before_x) // stride_x + 1, out_width), inner)
    while True:
        task = take_number(counter)
        if task >= tasks:
            break
        for line in range(lines * task // tasks, lines * (task + 1) // tasks):
            top = line % out_height * stride_y - before_y
            first_row = -(min(top, 0) // dilation_y)
            last_row = min(kernel_height, (height - 1 - top) // dilation_y + 1)
            x = 0
            while x < out_width:
                left = x * stride_x - before_x
                first, last = 0, kernel_width
                count = 1
                if x < inner or x >= outer:
                    first = -(min(left, 0) // dilation_x)
                    last = min(kernel_width, (width - 1 - left) // dilation_x + 1)
                elif x + POSITIONS <= outer:
                    count = POSITIONS
                covered = (last_row - first_row) * (last - first)
                divisor = kernel_height * kernel_width if padded else covered
                source = (
                    image
                    + line // out_height * image_step
                    + (top + first_row * dilation_y) * row_step
                    + (left + first * dilation_x) * pixel_step
                )
                weight = weights + (first_row * kernel_width + first) * size
                target = result + (line * out_width + x) * size
                for channel in range(0, channels, LANES):
                    slide(
                        mode, count, channels - channel, source + channel * 4, last_row - first_row,
                        dilation_y * row_step, last - first, dilation_x * pixel_step, stride_x * pixel_step,
                        weight + channel * 4, kernel_width * size, size, bias + channel * 4, target + channel * 4, size,
                        divisor, low, high,
                    )  # fmt: skip
                x += count
