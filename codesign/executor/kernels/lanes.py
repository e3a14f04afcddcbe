"""Windows that slide over each channel alone, in channels-last order: depthwise convolution and pooling.

A vector holds neighbouring channels; the micro-kernel keeps it for a few neighbouring positions while the window's
elements run by. Elements of the window that lie in the padding are left out, not filled in.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from codesign.executor.kernels.compiled import kernel
from codesign.executor.kernels.depthwise_tile import POSITIONS as POSITIONS_OF_TILE
from codesign.executor.kernels.depthwise_tile import STRIDES, WIDTHS, correlate_tile
from codesign.executor.kernels.vector import BYTE, FLOAT, WORD, Writer, float_lanes, function, read_integer, take_number

LANES = float_lanes()
POSITIONS = 8
MULTIPLY, LARGEST, MEAN, MULTIPLY_BYTES = 0, 1, 2, 3
"""What the window does: sum of products with weights from a bias on, maximum, mean of what it covers; or the sum of
products of bytes, less their zero point, with weights, in float32, where whole numbers below 2^24 are exact."""

FIELDS = (
    "batch", "height", "width", "channels", "kernel_height", "kernel_width", "stride_y", "stride_x", "dilation_y",
    "dilation_x", "before_y", "before_x", "out_height", "out_width", "tasks", "mode", "padded", "size",
)  # fmt: skip
"""Of the table of integers that describes a window; `padded`: a mean counts the padding too; `size`: bytes of
an element."""

_VECTOR, _SUMS, _BYTES = (ir.VectorType(kind, LANES) for kind in (FLOAT, WORD, BYTE))


@function(types.void, *(types.intp,) * 16, *(types.float32,) * 5)
def slide(
    writer: Writer, mode: Any, positions: Any, channels: Any, source: Any, rows: Any, row_step: Any, taps: Any,
    tap_step: Any, position_step: Any, weights: Any, weight_row: Any, weight_tap: Any, begin: Any, factors: Any,
    result: Any, result_step: Any, divisor: Any, low: Any, high: Any, centre: Any, zero: Any,
) -> None:  # fmt: skip
    """One vector of channels at POSITIONS neighbouring positions, or at one.

    `source` is the address of the first element under the first window, from which `rows` times `taps` elements lie
    `row_step` and `tap_step` bytes apart; so do those of `weights`, by `weight_row` and `weight_tap`. `begin` is the
    address of the bias. Only the first `channels` lanes are read and written. Bytes are taken less `centre`; their sums
    are multiplied by `factors`, rounded and moved by `zero`.
    """
    builder = writer.builder
    mask = writer.lane_mask(channels, LANES)
    lowest, highest, whole, middle, origin = (
        writer.splat(value, LANES) for value in (low, high, divisor, centre, zero)
    )

    def case(way: int, count: int) -> Any:
        def found(place: Any) -> Any:
            if way != MULTIPLY_BYTES:
                return writer.masked_load(_VECTOR, place, mask)
            return builder.fsub(builder.uitofp(writer.masked_load(_BYTES, place, mask), _VECTOR), middle)

        def turn(place: Any, weight: Any, values: list[Any]) -> list[Any]:
            steps = (builder.mul(position_step, writer.integer(position)) for position in range(count))
            elements = [found(writer.at(place, step)) for step in steps]
            if way == MEAN:
                return [builder.fadd(value, element) for value, element in zip(values, elements, strict=True)]
            if way == LARGEST:
                return [_larger(writer, element, value) for value, element in zip(values, elements, strict=True)]
            factor = writer.masked_load(_VECTOR, weight, mask)
            return [writer.fma(element, factor, value) for value, element in zip(values, elements, strict=True)]

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

        def finished(value: Any) -> Any:
            if way == MULTIPLY_BYTES:
                bias = writer.masked_load(_SUMS, begin, mask)
                total = builder.sitofp(builder.add(builder.fptosi(value, _SUMS), bias), _VECTOR)
                scaled = builder.fmul(total, writer.masked_load(_VECTOR, factors, mask))
                return builder.trunc(writer.requantised(scaled, origin, lowest, highest), _BYTES)
            return writer.clamp(builder.fdiv(value, whole) if way == MEAN else value, lowest, highest)

        def write() -> None:
            first: Any = ir.Constant(_VECTOR, [float("-inf") if way == LARGEST else 0.0] * LANES)
            if way == MULTIPLY:
                first = writer.masked_load(_VECTOR, begin, mask)
            for position, value in enumerate(writer.loop(rows, [first] * count, row)):
                place = writer.at(result, builder.mul(result_step, writer.integer(position)))
                writer.masked_store(finished(value), place, mask)

        return write

    number = builder.add(builder.mul(mode, writer.integer(POSITIONS + 1)), positions)
    writer.choose(
        number,
        {way * (POSITIONS + 1) + count: case(way, count) for way in range(4) for count in (1, POSITIONS)},
    )


def _larger(writer: Writer, element: Any, value: Any) -> Any:
    """The larger of two vectors; what is not a number wins."""
    builder = writer.builder
    wins = builder.or_(builder.fcmp_ordered(">", element, value), builder.fcmp_unordered("uno", element, element))
    return builder.select(wins, element, value)


@kernel
def slide_rows(
    counter: int, table: int, image: int, image_step: int, row_step: int, pixel_step: int, weights: int, bias: int,
    result: int, low: float, high: float, factors: int, centre: float, zero: float, padding: int,
) -> None:  # fmt: skip
    """Take tasks, some lines of the result each, from `counter` until there are none.

    `image` is the address of elements in channels-last order with the steps given, `weights` (kernel height, kernel
    width, channels), `bias` (channels,), `result` (batch, out height, out width, channels). `factors`, `centre` and
    `zero` are those of `slide`, for bytes; `padding` is a pixel that stands where the padding is, for products.
    """
    batch, height, width, channels = (read_integer(table), read_integer(table + 8), read_integer(table + 16),
                                      read_integer(table + 24))  # fmt: skip
    kernel_height, kernel_width = read_integer(table + 32), read_integer(table + 40)
    stride_y, stride_x = read_integer(table + 48), read_integer(table + 56)
    dilation_y, dilation_x = read_integer(table + 64), read_integer(table + 72)
    before_y, before_x = read_integer(table + 80), read_integer(table + 88)
    out_height, out_width = read_integer(table + 96), read_integer(table + 104)
    tasks, mode, padded = read_integer(table + 112), read_integer(table + 120), read_integer(table + 128)
    size, lines, across = read_integer(table + 136), batch * out_height, channels * 4
    # Positions whose window lies within the width: before and after them it hangs over.
    reach = (kernel_width - 1) * dilation_x
    inner = min(-(-before_x // stride_x), out_width)
    outer = max(min((width - 1 - reach + before_x) // stride_x + 1, out_width), inner)
    multiplies, of_bytes = mode in (MULTIPLY, MULTIPLY_BYTES), int(mode == MULTIPLY_BYTES)
    common = multiplies and dilation_x == 1 and kernel_width in WIDTHS and stride_x in STRIDES
    while True:
        task = take_number(counter)
        if task >= tasks:
            break
        for line in range(lines * task // tasks, lines * (task + 1) // tasks):
            top = line % out_height * stride_y - before_y
            first_row = -(min(top, 0) // dilation_y)
            last_row = min(kernel_height, (height - 1 - top) // dilation_y + 1)
            x = 0
            while common and x < out_width:
                count = 1
                for positions in POSITIONS_OF_TILE:
                    if x + positions <= out_width:
                        count = positions
                        break
                source = image + line // out_height * image_step + (top + first_row * dilation_y) * row_step
                target = result + (line * out_width + x) * channels * size
                for channel in range(0, channels, LANES):
                    correlate_tile(
                        of_bytes, count, kernel_width, stride_x, channels - channel, width, x * stride_x - before_x,
                        source + channel * size, padding + channel * size, last_row - first_row,
                        dilation_y * row_step, pixel_step, weights + first_row * kernel_width * across + channel * 4,
                        across, bias + channel * 4, factors + channel * 4, target + channel * size, channels * size,
                        low, high, centre, zero,
                    )  # fmt: skip
                x += count
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
                weight = weights + (first_row * kernel_width + first) * across
                target = result + (line * out_width + x) * channels * size
                for channel in range(0, channels, LANES):
                    slide(
                        mode, count, channels - channel, source + channel * size, last_row - first_row,
                        dilation_y * row_step, last - first, dilation_x * pixel_step, stride_x * pixel_step,
                        weight + channel * 4, kernel_width * across, across, bias + channel * 4, factors + channel * 4,
                        target + channel * size, channels * size, divisor, low, high, centre, zero,
                    )  # fmt: skip
                x += count
