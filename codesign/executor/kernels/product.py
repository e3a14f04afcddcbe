"""Products of rows with a packed matrix, with bias, addend and activation applied while a tile is in the cache.

One kernel serves matrix products and convolutions in channels-last order: the rows of a matrix are the pixels of an
image of one line. Work is cut into blocks of rows times chunks of panels, which threads take one after the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codesign.executor.kernels.activations import ACTIVATION_NUMBERS, activate_at
from codesign.executor.kernels.compiled import kernel
from codesign.executor.kernels.tile import HEIGHTS, LANES, LARGEST, PANEL, multiply_tile
from codesign.executor.kernels.tile_bytes import multiply_byte_tile
from codesign.executor.kernels.vector import read_integer, take_number, write_integer

Array = np.ndarray[Any, Any]

CHUNK_BYTES = 512 << 10
"""Panels of one task: they stay in a second-level cache while rows go by."""
TASK_MACS = 2_000_000
"""Least work of a task, about 20 microseconds, so that handing it out does not show."""

FIELDS = (
    "batch", "height", "width", "depth", "kernel_height", "kernel_width", "stride_y", "stride_x", "dilation_y",
    "dilation_x", "before_y", "before_x", "out_height", "out_width", "columns", "groups", "size", "steps", "tile",
    "row_tasks", "chunk", "chunks", "activation", "result_size",
)  # fmt: skip
"""Of the table of integers that describes a product. `depth` and `columns` are those of one group, `size` the bytes of
an element on the left and `result_size` in the result, `steps` those through the depth: one value each, or four
bytes."""


@kernel
def multiply_rows(
    counter: int, table: int, image: int, image_step: int, row_step: int, pixel_step: int, panels: int, bias: int,
    addend: int, addend_step: int, result: int, result_step: int, padding: int, low: float, high: float, factors: int,
    zero: float,
) -> None:  # fmt: skip
    """Take tasks from `counter` until there are none.

    `image`, `addend`, `result`, `padding` are addresses. Steps are in bytes: on the left from image to image, row to
    row and pixel to pixel; in the addend and the result from pixel to pixel, of which they are matrices. `padding`
    holds `depth` elements that stand where the padding is. `low` and `high` limit the result before the activation. Of
    bytes, sums are multiplied by `factors` and moved by `zero`, or stored as int32 when `factors` is 0 (tile_bytes.py).
    """
    batch, height, width, depth = (read_integer(table), read_integer(table + 8), read_integer(table + 16),
                                   read_integer(table + 24))  # fmt: skip
    kernel_height, kernel_width = read_integer(table + 32), read_integer(table + 40)
    stride_y, stride_x = read_integer(table + 48), read_integer(table + 56)
    dilation_y, dilation_x = read_integer(table + 64), read_integer(table + 72)
    before_y, before_x = read_integer(table + 80), read_integer(table + 88)
    out_height, out_width = read_integer(table + 96), read_integer(table + 104)
    columns, groups, size = read_integer(table + 112), read_integer(table + 120), read_integer(table + 128)
    steps, tile, row_tasks = read_integer(table + 136), read_integer(table + 144), read_integer(table + 152)
    chunk, chunks, activation = read_integer(table + 160), read_integer(table + 168), read_integer(table + 176)
    result_size = read_integer(table + 184)
    taps = kernel_height * kernel_width
    rows = batch * out_height * out_width
    tiles = -(-rows // tile)
    panel_bytes = taps * steps * PANEL * 4
    vectors = -(-columns // LANES)
    group_bytes = taps * steps * vectors * LANES * 4
    space = np.empty((taps + 2) * tile, np.int64)
    lefts = space.ctypes.data
    results = lefts + taps * tile * 8
    addends = results + tile * 8
    # Then pixels lie one behind the other, and n stays 0.
    flat = taps == 1 and stride_y == 1 and stride_x == 1 and before_y == 0 and before_x == 0 and out_width == width
    flat = flat and out_height == height and (height == 1 or row_step == width * pixel_step)
    flat = flat and (batch == 1 or image_step == height * width * pixel_step)
    while True:
        task = take_number(counter)
        if task >= groups * chunks * row_tasks:
            break
        group, rest = task // (chunks * row_tasks), task % (chunks * row_tasks)
        first_panel = rest // row_tasks * chunk
        last_panel = min(first_panel + chunk, -(-columns // PANEL))
        block = rest % row_tasks
        begin, end = tiles * block // row_tasks * tile, min(tiles * (block + 1) // row_tasks * tile, rows)
        x, line = begin % out_width, begin // out_width
        y, n = line % out_height, 0 if flat else line // out_height
        for first in range(begin, end, tile):
            # Rows that the last tile is short of repeat its last one.
            for place in range(tile):
                pixel = min(first + place, rows - 1)
                write_integer(results + place * 8, result + pixel * result_step + group * columns * result_size)
                write_integer(addends + place * 8, addend + pixel * addend_step + group * columns * result_size)
                base = image + n * image_step + group * depth * size
                where = lefts + place * 8
                if flat:
                    write_integer(where, base + pixel * pixel_step)
                    continue
                for i in range(kernel_height):
                    row = y * stride_y + i * dilation_y - before_y
                    inside = 0 <= row < height
                    for j in range(kernel_width):
                        column = x * stride_x + j * dilation_x - before_x
                        source = base + row * row_step + column * pixel_step
                        write_integer(where, source if inside and 0 <= column < width else padding)
                        where += tile * 8
                if first + place < rows - 1:
                    x += 1
                    if x == out_width:
                        x, y = 0, y + 1
                        if y == out_height:
                            y, n = 0, n + 1
            for index in range(first_panel, last_panel):
                count = min(columns - index * PANEL, PANEL)
                panel = panels + group * group_bytes + index * panel_bytes
                column_bytes = (group * vectors * LANES + index * PANEL) * 4
                if size == 1:
                    multiply_byte_tile(
                        tile, count, lefts, taps, steps, panel, bias + column_bytes,
                        factors + column_bytes if factors != 0 else 0, results, index * PANEL * result_size, zero, low,
                        high,
                    )  # fmt: skip
                else:
                    multiply_tile(
                        tile, count, lefts, taps, steps, panel, bias + column_bytes, addends if addend != 0 else 0,
                        low, high, results, index * PANEL * 4,
                    )  # fmt: skip
            if activation != 0:
                count = min(columns, last_panel * PANEL) - first_panel * PANEL
                for place in range(min(tile, rows - first)):
                    activate_at(activation, read_integer(results + place * 8) + first_panel * PANEL * 4, count)


def tile_height(rows: int) -> int:
    """The height that cuts `rows` into tiles with the least left over, of the heights there is code for."""
    tiles = -(-rows // LARGEST)
    return next(height for height in HEIGHTS if height * tiles >= rows)


def pack(weights: Array) -> Array:
    """(groups, taps, depth, columns) float32 as (groups, panels, taps, depth, panel), one row a group: the last panel
    is narrower when a single vector holds its columns, and columns that are missing are zero."""
    return _in_panels(weights[..., None])


def pack_bytes(weights: Array) -> Array:
    """The same for int8: (groups, panels, taps, depth / 4, panel, 4), zeros where the depth is no multiple of four."""
    groups, taps, depth, columns = weights.shape
    whole = np.zeros((groups, taps, -(-depth // 4) * 4, columns), np.int8)
    whole[:, :, :depth] = weights
    return _in_panels(np.moveaxis(whole.reshape(groups, taps, -1, 4, columns), 3, 4))


def _in_panels(weights: Array) -> Array:
    """(groups, taps, steps, columns, values of a step)."""
    groups, taps, steps, columns, values = weights.shape
    packed: Array = np.zeros((groups, -(-columns // LANES) * LANES * taps * steps * values), weights.dtype)
    full = columns // PANEL
    size = taps * steps * PANEL * values
    flat = packed[:, : full * size].reshape(groups, full, taps, steps, PANEL, values)
    panels = weights[..., : full * PANEL, :].reshape(groups, taps, steps, full, PANEL, values)
    flat[...] = panels.transpose(0, 3, 1, 2, 4, 5)
    rest = columns - full * PANEL
    if rest:
        last = packed[:, full * size :].reshape(groups, taps, steps, -1, values)
        last[..., :rest, :] = weights[..., full * PANEL :, :]
    return packed


def pack_columns(values: Array | None, groups: int, columns: int, kind: type = np.float32) -> Array:
    """One value a column, (groups * columns,), as (groups, padded columns) with zeros behind, or zeros throughout."""
    packed: Array = np.zeros((groups, -(-columns // LANES) * LANES), kind)
    if values is not None:
        packed[:, :columns] = values.reshape(groups, columns)
    return packed


def describe(threads: int, activation: str | None, size: int, result_size: int, **geometry: int) -> tuple[Array, int]:
    """The table that `multiply_rows` takes, and its number of tasks."""
    steps = geometry["depth"] if size > 1 else -(-geometry["depth"] // 4)
    rows = geometry["batch"] * geometry["out_height"] * geometry["out_width"]
    depth = steps * geometry["kernel_height"] * geometry["kernel_width"]
    panels, tile = -(-geometry["columns"] // PANEL), tile_height(rows)
    tiles = -(-rows // tile)
    share = max(rows * depth * geometry["columns"] * geometry["groups"] // TASK_MACS, 1)
    wanted = min(share, 4 * threads) if threads > 1 else 1
    chunk = max(min(CHUNK_BYTES // (depth * PANEL * 4), panels), 1)
    if panels * PANEL > rows and threads > 1:  # Then each thread reads its own part of the panels.
        chunk = max(min(chunk, -(-panels // wanted)), 1)
    chunks = -(-panels // chunk)
    row_tasks = max(min(-(-wanted // (chunks * geometry["groups"])), tiles), 1)
    found = geometry | {
        "size": size, "result_size": result_size, "steps": steps,
        "tile": tile, "row_tasks": row_tasks, "chunk": chunk, "chunks": chunks,
        "activation": ACTIVATION_NUMBERS[activation] if activation else 0,
    }  # fmt: skip
    return np.array([found[name] for name in FIELDS], np.int64), geometry["groups"] * chunks * row_tasks
