"""The micro-kernel of products of bytes: four products and their sum in one step (VNNI), exact in 32 bits.

As `tile.py`, with rows of unsigned bytes on the left and signed bytes in the panels, four of the depth side by side. A
tile's sums are multiplied by a factor for each column, rounded to even, moved by the zero point and limited to 8 bits,
in the order of `codesign.ops.quantisation.saturated`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from codesign.executor.kernels.tile import HEIGHTS, LANES, VECTORS, tile_sums
from codesign.executor.kernels.vector import BYTE, FLOAT, INTEGER, WORD, Writer, function

_SUMS, _FLOATS = ir.VectorType(WORD, LANES), ir.VectorType(FLOAT, LANES)


@function(types.void, *(types.intp,) * 10, types.float32, types.float32, types.float32)
def multiply_byte_tile(
    writer: Writer, height: Any, columns: Any, lefts: Any, taps: Any, fours: Any, panel: Any, bias: Any, factors: Any,
    results: Any, offset: Any, zero: Any, low: Any, high: Any,
) -> None:  # fmt: skip
    """Write `height` rows of limited(round(sum factor) + zero), where a sum begins with `bias`; of the sums themselves,
    as int32, when `factors` is 0.

    `lefts` is the address of (taps, height) addresses of 4 `fours` bytes each; `panel` that of (taps, fours, width, 4)
    bytes whose width is one vector when `columns` <= LANES and else two; `bias` and `factors` those of `width` int32
    and float32; `results` that of (height,) addresses of rows, written from byte `offset` on.
    """
    builder = writer.builder
    narrow = builder.icmp_signed("<=", columns, writer.integer(LANES))
    number = builder.mul(height, writer.integer(2))
    number = builder.add(number, builder.zext(builder.not_(narrow), INTEGER))

    def add(four: Any, right: Any, total: Any) -> Any:
        return writer.dot(total, four, right)

    def case(rows: int, vectors: int) -> Any:
        def write() -> None:
            sums = tile_sums(writer, rows, vectors, _SUMS, add, lefts, taps, fours, panel, bias)
            masks = [
                writer.lane_mask(builder.sub(columns, writer.integer(vector * LANES)), LANES)
                for vector in range(vectors)
            ]
            places = [
                writer.at(writer.load(INTEGER, writer.at(results, 8 * row)), offset)
                for row in range(rows)
                for _ in range(vectors)
            ]

            def store_sums() -> None:
                for index, (total, place) in enumerate(zip(sums, places, strict=True)):
                    vector = index % vectors
                    writer.masked_store(total, writer.at(place, 4 * LANES * vector), masks[vector])

            def store_bytes() -> None:
                limits = [writer.splat(value, LANES) for value in (zero, low, high)]
                factor = [writer.load(_FLOATS, writer.at(factors, 4 * LANES * vector)) for vector in range(vectors)]
                for index, (total, place) in enumerate(zip(sums, places, strict=True)):
                    vector = index % vectors
                    real = builder.fmul(builder.sitofp(total, _FLOATS), factor[vector])
                    value = builder.trunc(writer.requantised(real, *limits), ir.VectorType(BYTE, LANES))
                    writer.masked_store(value, writer.at(place, LANES * vector), masks[vector])

            scaled = builder.zext(builder.icmp_signed("!=", factors, writer.integer(0)), INTEGER)
            writer.choose(scaled, {0: store_sums, 1: store_bytes})

        return write

    writer.choose(
        number, {2 * rows + vectors - 1: case(rows, vectors) for rows in HEIGHTS for vectors in range(1, VECTORS + 1)}
    )
