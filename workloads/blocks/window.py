"""Grids of tokens cut into windows and put together again, cyclic shifts, and what windows have for positions.

Grids are (batch, height, width, channels), windows (batch x windows, tokens of a window, channels).
"""

from __future__ import annotations

import numpy as np

from workloads.builder import Builder, Value


def partition(graph: Builder, grid: Value, window: tuple[int, int], dilated: bool = False) -> Value:
    """Windows of `window` tokens: neighbours, or `dilated` those that stand as far apart as the grid holds windows, so
    that each window spans all of it. Raises ValueError when windows do not fill the grid."""
    batch, _, _, channels = grid.shape
    rows, columns = _count(grid.shape[1:3], window)
    with graph.scope("partition"):
        if dilated:
            split = graph.reshape(grid, (batch, window[0], rows, window[1], columns, channels), "split")
            gathered = graph.transpose(split, (0, 2, 4, 1, 3, 5))
        else:
            split = graph.reshape(grid, (batch, rows, window[0], columns, window[1], channels), "split")
            gathered = graph.transpose(split, (0, 1, 3, 2, 4, 5))
        return graph.reshape(gathered, (batch * rows * columns, window[0] * window[1], channels), "windows")


def unpartition(
    graph: Builder, windows: Value, extents: tuple[int, int], window: tuple[int, int], dilated: bool = False
) -> Value:
    """The reverse of `partition` for a grid of `extents`."""
    rows, columns = _count(extents, window)
    batch, channels = windows.shape[0] // (rows * columns), windows.shape[-1]
    with graph.scope("unpartition"):
        split = graph.reshape(windows, (batch, rows, columns, *window, channels), "split")
        axes = (0, 3, 1, 4, 2, 5) if dilated else (0, 1, 3, 2, 4, 5)
        return graph.reshape(graph.transpose(split, axes), (batch, *extents, channels), "grid")


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
    cut = region.reshape(counts[0], window, counts[1], window).transpose(0, 2, 1, 3).reshape(-1, 1, window * window)

    def make() -> Value:
        regions = graph.constant("regions", cut)
        [other] = graph.node("Transpose", [regions], [(cut.shape[0], cut.shape[2], 1)], perm=[0, 2, 1])
        shape = (cut.shape[0], cut.shape[2], cut.shape[2])
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


def _count(extents: tuple[int, ...], window: tuple[int, int]) -> tuple[int, int]:
    if extents[0] % window[0] or extents[1] % window[1]:
        raise ValueError(f"windows of {window} do not fill a grid of {tuple(extents)}")
    return extents[0] // window[0], extents[1] // window[1]
