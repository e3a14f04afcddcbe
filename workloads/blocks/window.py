"""Grids of tokens cut into windows and put together again, cyclic shifts, and attention inside windows.

Grids are (batch, height, width, channels), windows (batch x windows, tokens of a window, channels).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from workloads.blocks.attention import scaled_dot_product
from workloads.builder import Builder, Value

WindowMixer = Callable[[Value, Value | None], Value]
"""From windows and the mask between their tokens to windows of the same shape."""


def partition(graph: Builder, grid: Value, window: tuple[int, int], interval: int = 1) -> Value:
    """Windows of `window` tokens that stand `interval` apart: neighbours, or every so many (Wang et al. 2022,
    arXiv:2108.00154). Raises ValueError when windows do not fill the grid."""
    batch, _, _, channels = grid.shape
    rows, columns = _count(grid.shape[1:3], window, interval)
    count = batch * rows * columns * interval**2
    with graph.scope("partition"):
        if interval == 1:
            split = graph.reshape(grid, (batch, rows, window[0], columns, window[1], channels), "split")
            gathered = graph.transpose(split, (0, 1, 3, 2, 4, 5))
        else:
            shape = (batch, rows, window[0], interval, columns, window[1], interval, channels)
            gathered = graph.transpose(graph.reshape(grid, shape, "split"), (0, 1, 4, 3, 6, 2, 5, 7))
        return graph.reshape(gathered, (count, window[0] * window[1], channels), "windows")


def unpartition(
    graph: Builder, windows: Value, extents: tuple[int, int], window: tuple[int, int], interval: int = 1
) -> Value:
    """The reverse of `partition` for a grid of `extents`."""
    rows, columns = _count(extents, window, interval)
    batch, channels = windows.shape[0] // (rows * columns * interval**2), windows.shape[-1]
    with graph.scope("unpartition"):
        if interval == 1:
            split = graph.reshape(windows, (batch, rows, columns, *window, channels), "split")
            ordered = graph.transpose(split, (0, 1, 3, 2, 4, 5))
        else:
            shape = (batch, rows, columns, interval, interval, *window, channels)
            ordered = graph.transpose(graph.reshape(windows, shape, "split"), (0, 1, 5, 3, 2, 6, 4, 7))
        return graph.reshape(ordered, (batch, *extents, channels), "grid")


def roll(graph: Builder, grid: Value, shift: int, name: str) -> Value:
    """`grid` shifted cyclically by `shift` along height and width, as two slices and their concatenation each."""
    with graph.scope(name):
        for axis in (1, 2):
            cut = -shift % grid.shape[axis]
            parts = [graph.slice(grid, cut, grid.shape[axis], axis, "front"), graph.slice(grid, 0, cut, axis, "back")]
            grid = graph.concat(parts, axis, "rolled")
        return grid


def shifted_window_mask(graph: Builder, extents: tuple[int, int], window: int, shift: int) -> Value:
    """Added to scores of the windows of a rolled grid (windows, 1, tokens, tokens): -100 between tokens that were not
    neighbours before. Made in the graph, from the region that each token came from: a table would be its square."""
    region = np.zeros(extents, dtype=np.int64)
    slices = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate((rows, columns) for rows in slices for columns in slices):
        region[rows, columns] = number
    counts = _count(extents, (window, window))
    parts = region.reshape(counts[0], window, counts[1], window).transpose(0, 2, 1, 3).reshape(-1, 1, window * window)

    def make() -> Value:
        regions = graph.constant("regions", parts)
        [other] = graph.node("Transpose", [regions], [(parts.shape[0], parts.shape[2], 1)], perm=[0, 2, 1])
        shape = (parts.shape[0], parts.shape[2], parts.shape[2])
        [same] = graph.node("Equal", [other, regions], [shape], data_type=9)
        values = [same, graph.scalar("visible", 0.0), graph.scalar("hidden", -100.0)]
        [mask] = graph.node("Where", values, [shape], data_type=values[1].data_type)
        return graph.unsqueeze(mask, [1])

    return graph.once(f"window_mask_{extents[0]}x{extents[1]}_{window}_{shift}", make)


def relative_bias(graph: Builder, heads: int, window: tuple[int, int], name: str = "relative_bias") -> Value:
    """Learned bias (heads, tokens, tokens), one number for each head and each offset between two tokens of a window
    (Liu et al. 2021, arXiv:2103.14030)."""
    offsets = (2 * window[0] - 1) * (2 * window[1] - 1)
    with graph.scope(name):
        return gather_offsets(graph, graph.weight("table", offsets, heads), window)


def gather_offsets(graph: Builder, table: Value, window: tuple[int, int]) -> Value:
    """Rows of `table` (offsets, heads) for each pair of a window's tokens: (heads, tokens, tokens)."""
    index = graph.once(
        f"relative_offsets_{window[0]}x{window[1]}", lambda: graph.integers("index", relative_offsets(window))
    )
    tokens = window[0] * window[1]
    gathered = graph.reshape(graph.lookup(table, index), (tokens, tokens, table.shape[1]))
    return graph.transpose(gathered, (2, 0, 1))


def relative_offsets(window: tuple[int, int]) -> list[int]:
    """The number of the offset between each pair of a window's tokens, row by row: (tokens x tokens)."""
    places = np.stack(np.meshgrid(*(np.arange(extent) for extent in window), indexing="ij")).reshape(2, -1)
    offsets = places[:, :, None] - places[:, None, :]
    numbers = (offsets[0] + window[0] - 1) * (2 * window[1] - 1) + offsets[1] + window[1] - 1
    return [int(number) for number in numbers.ravel()]


def distance_bias(graph: Builder, heads: int, window: tuple[int, int], name: str = "distance_bias") -> Value:
    """Learned bias (heads, tokens, tokens), one number for each head and each pair of distances |rows|, |columns|
    (Graham et al. 2021, arXiv:2104.01136)."""
    places = np.stack(np.meshgrid(*(np.arange(extent) for extent in window), indexing="ij")).reshape(2, -1)
    distances = np.abs(places[:, :, None] - places[:, None, :])
    numbers = (distances[0] * window[1] + distances[1]).ravel()
    tokens = window[0] * window[1]
    with graph.scope(name):
        index = graph.once(
            f"relative_distances_{window[0]}x{window[1]}",
            lambda: graph.integers("index", [int(number) for number in numbers]),
        )
        table = graph.weight("table", heads, tokens)
        [gathered] = graph.node("Gather", [table, index], [(heads, tokens * tokens)], axis=1)
        return graph.reshape(gathered, (heads, tokens, tokens))


def filled(graph: Builder, grid: Value, multiple: int) -> Value:
    """The grid with zeros at its ends up to the next multiple of an extent."""
    height, width = grid.shape[1:3]
    return graph.pad(grid, {1: (0, -height % multiple), 2: (0, -width % multiple)}, "fill")


def cut(graph: Builder, grid: Value, extents: tuple[int, int]) -> Value:
    """The reverse of `filled`."""
    for axis, extent in ((1, extents[0]), (2, extents[1])):
        grid = grid if grid.shape[axis] == extent else graph.slice(grid, 0, extent, axis, "cut")
    return grid


def fill_mask(graph: Builder, extents: tuple[int, int], window: tuple[int, int], interval: int) -> Value:
    """Added to scores of the windows of a `filled` grid (windows, 1, 1, tokens): hides what was not in `extents`."""
    spans = tuple(-(-extent // (size * interval)) for extent, size in zip(extents, window, strict=True))
    fill = np.full((spans[0], window[0], interval, spans[1], window[1], interval), -1e6, dtype=np.float32)
    fill.reshape(spans[0] * window[0] * interval, -1)[: extents[0], : extents[1]] = 0
    hidden = fill.transpose(0, 3, 2, 5, 1, 4).reshape(-1, 1, 1, window[0] * window[1])
    return graph.once(
        f"fill_mask_{extents[0]}x{extents[1]}_{window[0]}_{interval}", lambda: graph.constant("mask", hidden)
    )


def in_windows(graph: Builder, grid: Value, window: int, shift: int, mixer: WindowMixer) -> Value:
    """`mixer` inside the windows of the grid, which is first rolled by `shift`; a mask then parts what was apart."""
    extents, size = (grid.shape[1], grid.shape[2]), (window, window)
    if not shift:
        return unpartition(graph, mixer(partition(graph, grid, size), None), extents, size)
    mask = shifted_window_mask(graph, extents, window, shift)
    mixed = mixer(partition(graph, roll(graph, grid, -shift, "shift"), size), mask)
    return roll(graph, unpartition(graph, mixed, extents, size), shift, "unshift")


def window_attention(
    graph: Builder,
    query: Value,
    key: Value,
    content: Value,
    bias: Value,
    mask: Value | None,
    scale: float | None = None,
) -> Value:
    """Attention of (windows, heads, tokens, size) operands with a bias (heads, tokens, tokens), and a mask (windows of
    an image, 1, tokens, tokens) that is the same for every image: then an image's windows stand beside its heads."""
    if mask is None:
        return scaled_dot_product(graph, query, key, content, bias, scale=scale)
    heads, tokens = query.shape[1], query.shape[2]
    side = mask.shape[0] * heads
    shape = (query.shape[0] // mask.shape[0], side, tokens, query.shape[3])
    query, key, content = (
        graph.reshape(part, shape, f"{role}/by_image")
        for part, role in ((query, "query"), (key, "key"), (content, "value"))
    )
    both = graph.reshape(graph.add(bias, mask, "bias_and_mask"), (side, tokens, tokens), "bias_by_image")
    context = scaled_dot_product(graph, query, key, content, both, scale=scale)
    return graph.reshape(context, (side // heads * shape[0], heads, tokens, query.shape[3]), "context/by_window")


def _count(extents: tuple[int, ...], window: tuple[int, int], interval: int = 1) -> tuple[int, int]:
    """Windows along each extent, `interval` of which stand in each other's gaps."""
    if extents[0] % (window[0] * interval) or extents[1] % (window[1] * interval):
        raise ValueError(f"windows of {window}, {interval} apart, do not fill a grid of {tuple(extents)}")
    return extents[0] // window[0] // interval, extents[1] // window[1] // interval
