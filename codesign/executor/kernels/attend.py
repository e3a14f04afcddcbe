"""Attention without its scores in memory: a tile of queries meets all keys, and all values, while it is in the cache.

The keys and the values of a head are packed as panels once; after that a tile needs two products by the micro-kernel
and a softmax between them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types

from codesign.executor.kernels.compiled import kernel, summing_kernel
from codesign.executor.kernels.exponential import exp32
from codesign.executor.kernels.tile import HEIGHTS, LANES, LARGEST, PANEL, multiply_tile
from codesign.executor.kernels.vector import (
    FLOAT,
    Writer,
    floats_at,
    function,
    read_integer,
    take_number,
    write_integer,
)

Array = np.ndarray[Any, Any]

FIELDS = (
    "batch", "heads", "shared", "queries", "keys", "width", "value_width", "query_batch", "query_head", "query_row",
    "key_batch", "key_head", "key_row", "value_batch", "value_head", "value_row", "bias_batch", "bias_head",
    "bias_row", "result_batch", "result_head", "result_row", "tile", "blocks",
)  # fmt: skip
"""Of the table of integers that describes an attention: extents, then steps in bytes. `shared` heads of keys and values
serve `heads` heads of queries; `tile` queries are computed at once; `blocks` tasks share the queries of a head."""
_BATCH, _HEADS, _SHARED, _QUERIES, _KEYS, _WIDTH, _VALUE_WIDTH = (8 * index for index in range(7))
_QUERY, _KEY, _VALUE, _BIAS, _RESULT = (8 * (7 + 3 * index) for index in range(5))
_TILE, _BLOCKS = 8 * 22, 8 * 23
_VECTOR = ir.VectorType(FLOAT, LANES)
_HIDDEN = np.float32(-np.inf)


def padded_width(columns: int) -> int:
    """Columns that the panels of so many hold."""
    return -(-columns // LANES) * LANES


def tile_of(queries: int) -> int:
    """Queries that are computed at once."""
    tiles = -(-queries // LARGEST)
    return next(height for height in HEIGHTS if height * tiles >= queries)


@kernel
def pack_heads(counter: int, table: int, key: int, value: int, keys: int, values: int) -> None:
    """Take heads of keys and values from `counter`: keys (batch, shared, panels, width, panel) and values (batch,
    shared, panels, keys, panel) as `multiply_tile` takes them."""
    batch, shared = read_integer(table + _BATCH), read_integer(table + _SHARED)
    count, width = read_integer(table + _KEYS), read_integer(table + _WIDTH)
    value_width = read_integer(table + _VALUE_WIDTH)
    key_size = -(-count // LANES) * LANES * width
    value_size = -(-value_width // LANES) * LANES * count
    while True:
        task = take_number(counter)
        if task >= batch * shared:
            break
        n, head = task // shared, task % shared
        source = key + n * read_integer(table + _KEY) + head * read_integer(table + _KEY + 8)
        step = read_integer(table + _KEY + 16)
        packed = carray(floats_at(keys + task * key_size * 4), (key_size,))
        for row in range(-(-count // LANES) * LANES):
            first = row // PANEL * PANEL
            lanes = min(-(-(count - first) // LANES) * LANES, PANEL)
            place = first * width + row - first
            if row < count:
                found = carray(floats_at(source + row * step), (width,))
                for index in range(width):
                    packed[place + index * lanes] = found[index]
            else:
                for index in range(width):
                    packed[place + index * lanes] = 0
        source = value + n * read_integer(table + _VALUE) + head * read_integer(table + _VALUE + 8)
        step = read_integer(table + _VALUE + 16)
        packed = carray(floats_at(values + task * value_size * 4), (value_size,))
        for first in range(0, value_width, PANEL):
            columns = min(value_width - first, PANEL)
            lanes = -(-columns // LANES) * LANES
            for row in range(count):
                found = carray(floats_at(source + row * step + first * 4), (columns,))
                place = first * count + row * lanes
                for index in range(columns):
                    packed[place + index] = found[index]
                for index in range(columns, lanes):
                    packed[place + index] = 0


@kernel
def attend_rows(
    counter: int, table: int, query: int, keys: int, values: int, bias: int, result: int, scale: float, zeros: int
) -> None:
    """Take blocks of queries of a head from `counter`: softmax(scale query key' + bias) value.

    `keys` and `values` are packed; `bias`, unless 0, is -inf where a key is hidden; `zeros` holds as many float32 as a
    panel has columns. A query that sees no key gives zeros.
    """
    batch, heads, shared = read_integer(table + _BATCH), read_integer(table + _HEADS), read_integer(table + _SHARED)
    queries, count = read_integer(table + _QUERIES), read_integer(table + _KEYS)
    width, value_width = read_integer(table + _WIDTH), read_integer(table + _VALUE_WIDTH)
    tile, blocks = read_integer(table + _TILE), read_integer(table + _BLOCKS)
    across = -(-count // LANES) * LANES
    key_bytes, value_bytes = across * width * 4, -(-value_width // LANES) * LANES * count * 4
    scores = np.empty(tile * across, np.float32)
    space = np.empty(3 * tile, np.int64)
    lefts = space.ctypes.data
    middles, results = lefts + tile * 8, lefts + tile * 16
    tiles = -(-queries // tile)
    unlimited = np.float32(np.inf)
    for row in range(tile):
        write_integer(middles + row * 8, scores.ctypes.data + row * across * 4)
    while True:
        task = take_number(counter)
        if task >= batch * heads * blocks:
            break
        n, rest = task // (heads * blocks), task % (heads * blocks)
        head, block = rest // blocks, rest % blocks
        packed = n * shared + head // (heads // shared)
        source = query + n * read_integer(table + _QUERY) + head * read_integer(table + _QUERY + 8)
        target = result + n * read_integer(table + _RESULT) + head * read_integer(table + _RESULT + 8)
        added = bias + n * read_integer(table + _BIAS) + head * read_integer(table + _BIAS + 8)
        for number in range(tiles * block // blocks, tiles * (block + 1) // blocks):
            for row in range(tile):
                place = min(number * tile + row, queries - 1)
                write_integer(lefts + row * 8, source + place * read_integer(table + _QUERY + 16))
                write_integer(results + row * 8, target + place * read_integer(table + _RESULT + 16))
            for first in range(0, count, PANEL):
                multiply_tile(
                    tile, min(count - first, PANEL), lefts, 1, width, keys + packed * key_bytes + first * width * 4,
                    zeros, 0, -unlimited, unlimited, middles, first * 4,
                )  # fmt: skip
            for row in range(tile):
                place = min(number * tile + row, queries - 1)
                line = scores[row * across : row * across + count]
                if bias != 0:
                    _add(line, scale, carray(floats_at(added + place * read_integer(table + _BIAS + 16)), (count,)))
                    _weigh(line, np.float32(1), largest(line.ctypes.data, count))
                else:
                    _weigh(line, np.float32(scale), largest(line.ctypes.data, count))
            for first in range(0, value_width, PANEL):
                multiply_tile(
                    tile, min(value_width - first, PANEL), middles, 1, count,
                    values + packed * value_bytes + first * count * 4, zeros, 0, -unlimited, unlimited, results,
                    first * 4,
                )  # fmt: skip


@kernel
def _add(scores: Array, scale: Any, bias: Array) -> None:
    """scale scores + bias; a hidden key counts for nothing, also when its product is not a number."""
    for index in range(scores.size):
        total = scores[index] * np.float32(scale) + bias[index]
        scores[index] = _HIDDEN if bias[index] == _HIDDEN else total


@summing_kernel
def _weigh(scores: Array, scale: Any, peak: Any) -> None:
    """The softmax of scale scores; their largest is `peak`. Zeros where every key is hidden."""
    peak = np.float32(0) if peak == _HIDDEN else peak
    total = np.float32(0)
    for index in range(scores.size):
        power = exp32((scores[index] - peak) * scale)
        scores[index] = power
        total += power
    share = np.float32(1) / total if total != 0 else np.float32(1)
    for index in range(scores.size):
        scores[index] *= share


@function(types.float32, types.intp, types.intp)
def largest(writer: Writer, address: Any, count: Any) -> Any:
    """The largest of `count` float32 at an address; what is not a number is passed over."""
    builder = writer.builder
    lowest = ir.Constant(_VECTOR, [float("-inf")] * LANES)

    def step(index: Any, values: list[Any]) -> list[Any]:
        first = builder.mul(index, writer.integer(LANES))
        mask = writer.lane_mask(builder.sub(count, first), LANES)
        found = writer.masked_load(_VECTOR, writer.at(address, builder.mul(first, writer.integer(4))), mask)
        wins = builder.and_(mask, builder.fcmp_ordered(">", found, values[0]))
        return [builder.select(wins, found, values[0])]

    turns = builder.sdiv(builder.add(count, writer.integer(LANES - 1)), writer.integer(LANES))
    (peaks,) = writer.loop(turns, [lowest], step)
    peak = builder.extract_element(peaks, ir.Constant(ir.IntType(32), 0))
    for lane in range(1, LANES):
        other = builder.extract_element(peaks, ir.Constant(ir.IntType(32), lane))
        peak = builder.select(builder.fcmp_ordered(">", other, peak), other, peak)
    return peak
