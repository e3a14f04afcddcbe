"""Grids of tokens cut into windows and put together again, cyclic shifts, and attention inside windows.

Grids are (batch, *extents, channels), of images or of volumes; windows (batch x windows, tokens of a window, channels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from workloads.blocks.attention import scaled_dot_product
from workloads.builder import Builder, Value

Extents = tuple[int, ...]
"""A size along each extent of a grid."""

WindowMixer = Callable[[Value, Value | None], Value]
"""From windows and the mask between their tokens to windows of the same shape."""


def partition(graph: Builder, grid: Value, window: Extents, interval: int = 1) -> Value:
    """Windows of `window` tokens that stand `interval` apart: neighbours, or every so many (Wang et al. 2022,
    arXiv:2108.00154). Raises ValueError when windows do not fill the grid."""
    batch, *extents, channels = grid.shape
    counts = _count(extents, window, interval)
    split, order = _split(counts, window, interval)
    with graph.scope("partition"):
        apart = graph.reshape(grid, (batch, *split, channels), "split")
        gathered = graph.transpose(apart, (0, *order, len(split) + 1))
        number = batch * math.prod(counts) * interval ** len(window)
        return graph.reshape(gathered, (number, math.prod(window), channels), "windows")


def unpartition(graph: Builder, windows: Value, extents: Extents, window: Extents, interval: int = 1) -> Value:
    """The reverse of `partition` for a grid of `extents`."""
    counts = _count(extents, window, interval)
    split, order = _split(counts, window, interval)
    batch = windows.shape[0] // (math.prod(counts) * interval ** len(window))
    with graph.scope("unpartition"):
        shape = (batch, *(split[axis - 1] for axis in order), windows.shape[-1])
        apart = graph.reshape(windows, shape, "split")
        back = [order.index(axis) + 1 for axis in range(1, len(split) + 1)]
        return graph.reshape(graph.transpose(apart, (0, *back, len(split) + 1)), (batch, *extents, shape[-1]), "grid")


def _split(counts: Sequence[int], window: Extents, interval: int) -> tuple[list[int], list[int]]:
    """Extents of a grid taken apart, for each axis windows, tokens of a window and (where they stand apart) the places
    between; and its axes, counted from 1, with those of a window last."""
    parts = 2 if interval == 1 else 3
    split = [size for axis in zip(counts, window, strict=True) for size in (*axis, interval)[:parts]]
    places = range(len(window))
    order = [1 + parts * axis for axis in places]
    order += [3 + parts * axis for axis in places] if parts == 3 else []
    return split, order + [2 + parts * axis for axis in places]


def roll(graph: Builder, grid: Value, shift: int, name: str) -> Value:
    """`grid` shifted cyclically by `shift` along each of its extents, as two slices and their concatenation each."""
    with graph.scope(name):
        for axis in range(1, grid.rank - 1):
            cut = -shift % grid.shape[axis]
            parts = [graph.slice(grid, cut, grid.shape[axis], axis, "front"), graph.slice(grid, 0, cut, axis, "back")]
            grid = graph.concat(parts, axis, "rolled")
        return grid


def shifted_window_mask(graph: Builder, extents: Extents, window: Extents, shift: int) -> Value:
    """Added to scores of the windows of a rolled grid (windows, 1, tokens, tokens): -100 between tokens that were not
    neighbours before. Made in the graph, from the region that each token came from: a table would be its square."""
    name = f"window_mask_{_named(extents)}_{_named(window)}_{shift}"
    return graph.once(name, lambda: _mask_between(graph, _regions(graph, extents, window, shift)))


def _regions(graph: Builder, extents: Extents, window: Extents, shift: int) -> Value:
    """A number for the region of the unrolled grid that each token of each window came from: (windows, 1, tokens).

    Along an extent there are three: what stayed in its place, and the two parts of the last window.
    """
    counts, sides = _count(extents, window), len(extents)
    regions: Value | None = None
    for axis, (extent, size) in enumerate(zip(extents, window, strict=True)):
        along = np.zeros(extent, np.int64)
        along[-size:-shift], along[-shift:] = 1, 2
        shape = [counts[axis] if at == axis else size if at == sides + axis else 1 for at in range(2 * sides)]
        numbers = graph.constant("numbers", 3**axis * along.reshape(shape))
        regions = numbers if regions is None else graph.add(regions, numbers, "regions")
    assert regions is not None
    return graph.reshape(regions, (math.prod(counts), 1, math.prod(window)), "by_window")


def _mask_between(graph: Builder, regions: Value) -> Value:
    count, _, tokens = regions.shape
    [same] = graph.node(
        "Equal", [graph.transpose(regions, (0, 2, 1)), regions], [(count, tokens, tokens)], data_type=9
    )  # fmt: skip
    values = [same, graph.scalar("visible", 0.0), graph.scalar("hidden", -100.0)]
    [mask] = graph.node("Where", values, [same.shape], data_type=values[1].data_type)
    return graph.unsqueeze(mask, [1])


def _named(extents: Extents) -> str:
    return "x".join(map(str, extents))


def relative_bias(graph: Builder, heads: int, window: Extents, name: str = "relative_bias") -> Value:
    """Learned bias (heads, tokens, tokens), one number for each head and each offset between two tokens of a window
    (Liu et al. 2021, arXiv:2103.14030)."""
    offsets = math.prod(2 * size - 1 for size in window)
    with graph.scope(name):
        return gather_offsets(graph, graph.weight("table", offsets, heads), window)


def gather_offsets(graph: Builder, table: Value, window: Extents) -> Value:
    """Rows of `table` (offsets, heads) for each pair of a window's tokens: (heads, tokens, tokens)."""
    index = graph.once(f"relative_offsets_{_named(window)}", lambda: relative_offsets(graph, window))
    tokens = math.prod(window)
    gathered = graph.reshape(graph.lookup(table, index), (tokens, tokens, table.shape[1]))
    return graph.transpose(gathered, (2, 0, 1))


def relative_offsets(graph: Builder, window: Extents) -> Value:
    """The number of the offset between each pair of a window's tokens, row by row: (tokens x tokens).

    Offsets are numbered in the mixed base of the extents' ranges, so that the number of a pair is the difference of
    two tokens' numbers. Made in the graph: a table would be the square of the window.
    """
    ranges = [2 * size - 1 for size in window]
    bases = [math.prod(ranges[axis + 1 :]) for axis in range(len(window))]
    places = np.meshgrid(*(np.arange(size) for size in window), indexing="ij")
    numbers = np.sum([base * place for base, place in zip(bases, places, strict=True)], axis=0).ravel()
    middle = sum(base * (size - 1) for base, size in zip(bases, window, strict=True))
    rows = graph.constant("numbers", (numbers + middle).astype(np.int64)[:, None])
    columns = graph.constant("numbers_across", numbers.astype(np.int64)[None])
    offsets = graph.binary("Sub", rows, columns, "offsets")
    return graph.reshape(offsets, (math.prod(offsets.shape),), "index")


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
    """The grid with zeros at its ends up to the next multiple of each extent."""
    spare = {axis: (0, -grid.shape[axis] % multiple) for axis in range(1, grid.rank - 1)}
    return graph.pad(grid, spare, "fill")


def cut(graph: Builder, grid: Value, extents: Extents) -> Value:
    """The reverse of `filled`."""
    for axis, extent in enumerate(extents, 1):
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
    extents = grid.shape[1:-1]
    size = (window,) * len(extents)
    if not shift:
        return unpartition(graph, mixer(partition(graph, grid, size), None), extents, size)
    mask = shifted_window_mask(graph, extents, size, shift)
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


def _count(extents: Sequence[int], window: Extents, interval: int = 1) -> list[int]:
    """Windows along each extent, `interval` of which stand in each other's gaps."""
    if any(extent % (size * interval) for extent, size in zip(extents, window, strict=True)):
        raise ValueError(f"windows of {window}, {interval} apart, do not fill a grid of {tuple(extents)}")
    return [extent // size // interval for extent, size in zip(extents, window, strict=True)]
