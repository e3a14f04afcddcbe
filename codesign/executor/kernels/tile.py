"""The micro-kernel of products: a tile of sums that stays in vector registers while the depth runs by.

A tile is a few rows of the result times one panel, two vector registers of columns. Each row reads its left operand
through an address of its own, one for each tap: a matrix product has one tap; a convolution in channels-last order has
one for each element of the kernel, and its rows are pixels (an indirect convolution: Dukhan 2019, arXiv:1907.02129).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from codesign.executor.kernels.vector import FLOAT, INTEGER, Writer, float_lanes, function, vector_registers

LANES = float_lanes()
VECTORS = 2
PANEL = VECTORS * LANES
"""Columns of a panel; the last panel of a matrix may be half as wide."""
LARGEST = 12 if vector_registers() == 32 else 6
HEIGHTS = tuple(height for height in (1, 2, 4, 6, 8, 10, 12) if height <= LARGEST)
"""Rows of a tile that there is code for. The sums, a panel's row and one left value fill the registers at the most."""
AHEAD = 4096
"""Bytes of a panel that are asked for before they are needed: most weights come from memory, once a run."""

_VECTOR = ir.VectorType(FLOAT, LANES)


@function(types.void, *(types.intp,) * 8, types.float32, types.float32, types.intp, types.intp)
def multiply_tile(
    writer: Writer, height: Any, columns: Any, lefts: Any, taps: Any, depth: Any, panel: Any, bias: Any, addends: Any,
    low: Any, high: Any, results: Any, offset: Any,
) -> None:  # fmt: skip
    """Write `height` rows of the sums of left rows times a panel.

    `lefts` is the address of (taps, height) addresses of `depth` float32 each; `panel` that of (taps, depth, width)
    float32 whose width is one vector when `columns` <= LANES and else two; `bias` that of `width` values to begin
    with; `addends`, unless 0, and `results` those of (height,) addresses of rows, each read or written from byte
    `offset` on for `columns` elements. What is stored is limited to `low` and `high`.
    """
    narrow = writer.builder.icmp_signed("<=", columns, writer.integer(LANES))
    number = writer.builder.mul(height, writer.integer(2))
    number = writer.builder.add(number, writer.builder.zext(writer.builder.not_(narrow), INTEGER))

    def case(rows: int, vectors: int) -> Any:
        return lambda: _tile(
            writer, rows, vectors, columns, lefts, taps, depth, panel, bias, addends, low, high, results, offset
        )

    writer.choose(
        number, {2 * rows + vectors - 1: case(rows, vectors) for rows in HEIGHTS for vectors in range(1, VECTORS + 1)}
    )


def tile_sums(
    writer: Writer, rows: int, vectors: int, kind: ir.VectorType, add: Callable[[Any, Any, Any], Any], lefts: Any,
    taps: Any, depth: Any, panel: Any, bias: Any,
) -> list[Any]:  # fmt: skip
    """The sums of a tile, row by row, in vectors of `kind`, whose lanes have four bytes: `add(left, right, sum)` for
    each of `depth` left values of a tap, which all lanes share, and the panel's vectors there."""
    builder, size = writer.builder, 4 * LANES

    def tap(index: Any, values: list[Any]) -> list[Any]:
        place = writer.at(lefts, builder.mul(index, writer.integer(8 * rows)))
        left = [writer.load(INTEGER, writer.at(place, 8 * row)) for row in range(rows)]

        def step(position: Any, values: list[Any]) -> list[Any]:
            here, sums = values[0], values[1:]
            right = [writer.load(kind, writer.at(here, size * vector)) for vector in range(vectors)]
            for vector in range(vectors):
                writer.prefetch(writer.at(here, size * vector + AHEAD))
            bytes_in = builder.mul(position, writer.integer(4))
            new = []
            for row in range(rows):
                value = writer.splat(writer.load(kind.element, writer.at(left[row], bytes_in)), LANES)
                new += [add(value, right[vector], sums[row * vectors + vector]) for vector in range(vectors)]
            return [writer.at(here, size * vectors), *new]

        return writer.loop(depth, values, step)

    begin = [writer.load(kind, writer.at(bias, size * vector)) for vector in range(vectors)]
    return writer.loop(taps, [panel, *begin * rows], tap)[1:]


def _tile(
    writer: Writer, rows: int, vectors: int, columns: Any, lefts: Any, taps: Any, depth: Any, panel: Any, bias: Any,
    addends: Any, low: Any, high: Any, results: Any, offset: Any,
) -> None:  # fmt: skip
    builder, size = writer.builder, 4 * LANES
    sums = tile_sums(writer, rows, vectors, _VECTOR, writer.fma, lefts, taps, depth, panel, bias)
    masks = [writer.lane_mask(builder.sub(columns, writer.integer(vector * LANES)), LANES) for vector in range(vectors)]
    has_addends = builder.icmp_signed("!=", addends, writer.integer(0))
    none = [builder.and_(mask, writer.splat(has_addends, LANES)) for mask in masks]
    source = builder.select(has_addends, addends, results)
    lowest, highest = writer.splat(low, LANES), writer.splat(high, LANES)
    for row in range(rows):
        from_, to = (writer.at(writer.load(INTEGER, writer.at(base, 8 * row)), offset) for base in (source, results))
        for vector in range(vectors):
            added = writer.masked_load(_VECTOR, writer.at(from_, size * vector), none[vector])
            total = builder.fadd(sums[row * vectors + vector], added)
            writer.masked_store(writer.clamp(total, lowest, highest), writer.at(to, size * vector), masks[vector])
