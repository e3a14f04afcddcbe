"""The micro-kernel of depthwise convolutions of common widths: a column of the image is read once for all it meets.

A window slides over a row of pixels by a stride that the code knows, so that neighbouring results share the columns
under them, and each column, one vector of channels, stays in a register until the last. Columns outside the image are
read from a pixel of padding.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from codesign.executor.kernels.vector import BYTE, FLOAT, WORD, Writer, float_lanes, function

LANES = float_lanes()
POSITIONS = (7, 3, 1)
"""Neighbouring results that there is code for: images of the common size have sides of 7 times a power of two."""
WIDTHS, STRIDES = (3, 5), (1, 2)
_VECTOR, _SUMS, _BYTES = (ir.VectorType(kind, LANES) for kind in (FLOAT, WORD, BYTE))


@function(types.void, *(types.intp,) * 18, *(types.float32,) * 4)
def correlate_tile(
    writer: Writer, bytes_: Any, positions: Any, width: Any, stride: Any, channels: Any, image_width: Any, left: Any,
    source: Any, padding: Any, rows: Any, row_step: Any, pixel_step: Any, weights: Any, weight_step: Any, bias: Any,
    factors: Any, result: Any, result_step: Any, low: Any, high: Any, centre: Any, zero: Any,
) -> None:  # fmt: skip
    """One vector of channels at `positions` neighbouring positions of a window `width` pixels wide.

    `source` is the address of column 0 of the first row under the window, `left` the column where the first window
    begins, `rows` how many rows are under it; `weights` the address of the first row's first weight, from which
    weights lie `weight_step` bytes apart. The rest is that of `slide`: float32, or with `bytes_` bytes less `centre`.
    """
    builder = writer.builder
    mask = writer.lane_mask(channels, LANES)
    lowest, highest, middle, origin = (writer.splat(value, LANES) for value in (low, high, centre, zero))

    def case(of_bytes: int, count: int, across: int, step: int) -> Any:
        def column(line: Any, offset: int) -> Any:
            place = builder.add(left, writer.integer(offset))
            inside = builder.icmp_unsigned("<", place, image_width)
            address = builder.select(inside, builder.add(line, builder.mul(place, pixel_step)), padding)
            if not of_bytes:
                return writer.masked_load(_VECTOR, address, mask)
            return builder.fsub(builder.uitofp(writer.masked_load(_BYTES, address, mask), _VECTOR), middle)

        def row(index: Any, sums: list[Any]) -> list[Any]:
            line = writer.at(source, builder.mul(index, row_step))
            place = writer.at(weights, builder.mul(builder.mul(index, writer.integer(across)), weight_step))
            columns = [column(line, offset) for offset in range((count - 1) * step + across)]
            for tap in range(across):
                weight = writer.masked_load(
                    _VECTOR, writer.at(place, builder.mul(weight_step, writer.integer(tap))), mask
                )
                sums = [writer.fma(columns[at * step + tap], weight, total) for at, total in enumerate(sums)]
            return sums

        def finished(value: Any) -> Any:
            if not of_bytes:
                return writer.clamp(value, lowest, highest)
            begin = writer.masked_load(_SUMS, bias, mask)
            total = builder.sitofp(builder.add(builder.fptosi(value, _SUMS), begin), _VECTOR)
            scaled = builder.fmul(total, writer.masked_load(_VECTOR, factors, mask))
            return builder.trunc(writer.requantised(scaled, origin, lowest, highest), _BYTES)

        def write() -> None:
            first = ir.Constant(_VECTOR, None) if of_bytes else writer.masked_load(_VECTOR, bias, mask)
            for position, value in enumerate(writer.loop(rows, [first] * count, row)):
                place = writer.at(result, builder.mul(result_step, writer.integer(position)))
                writer.masked_store(finished(value), place, mask)

        return write

    number = bytes_
    for value, limit in ((positions, 10), (width, 10), (stride, 10)):
        number = builder.add(builder.mul(number, writer.integer(limit)), value)
    writer.choose(
        number,
        {
            ((of_bytes * 10 + count) * 10 + across) * 10 + step: case(of_bytes, count, across, step)
            for of_bytes in (0, 1)
            for count in POSITIONS
            for across in WIDTHS
            for step in STRIDES
        },
    )
