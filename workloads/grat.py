"""GRAT: diffusion transformers whose image tokens are grouped, each group attending to a few groups and to the text.

Ren et al., Grouping First, Attending Smartly, 2025 (arXiv:2505.14687), on FLUX.1 (Black Forest Labs, 2024) and
HunyuanVideo (Kong et al. 2024, arXiv:2412.03603): blocks with weights of their own for image and text, then blocks with
one set for both. Nothing is trained for the grouping. Tokens are put in the order of groups once, as all but attention
treats each alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from workloads.blocks.activation import activate
from workloads.blocks.attention import merge_heads, scaled_dot_product, split_heads
from workloads.blocks.dense import feed_forward, linear, rms_norm
from workloads.blocks.modulation import modulated, modulation
from workloads.blocks.window import partition, unpartition
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

Pattern = Literal["near", "cross"]
"""GRAT-B: groups within a radius, all of them moved inside the border. GRAT-X: groups that share a plane."""

Groups = np.ndarray[tuple[int, int], np.dtype[np.int64]]

LATENT, TEXT, POOLED, TIME = 64, 4096, 768, 256
"""Features of an image token, of a text token, of the whole text, and of the step of diffusion."""

VARIANTS: Table = {
    "flux_8192": {
        "grid": (512, 512), "group": (16, 16), "pattern": "near", "axes": (16, 56, 56), "text": 512,
        "double_blocks": 19, "single_blocks": 38,
    },
    "hunyuan_grat_x": {
        "grid": (32, 48, 80), "group": (4, 8, 8), "pattern": "cross", "axes": (16, 56, 56), "text": 256,
        "double_blocks": 20, "single_blocks": 40,
    },
}  # fmt: skip

SMALL = {"width": 32, "heads": 2, "text": 3, "double_blocks": 1, "single_blocks": 1}

REDUCED: Table = {
    "flux_8192": {**SMALL, "grid": (8, 8), "group": (2, 2), "axes": (4, 6, 6)},
    "hunyuan_grat_x": {**SMALL, "grid": (4, 6, 6), "group": (2, 2, 3), "axes": (4, 6, 6)},
}


@variants(VARIANTS, REDUCED)
def grat(
    graph: Builder,
    batch: int,
    *,
    grid: tuple[int, ...],
    group: tuple[int, ...],
    pattern: Pattern,
    axes: Sequence[int],
    text: int,
    double_blocks: int,
    single_blocks: int,
    width: int = 3072,
    heads: int = 24,
    radius: int = 1,
) -> None:
    """One step of diffusion: latents (batch, *grid, 64), text (batch, text, 4096), the text as a whole (batch, 768) and
    the step's sinusoids (batch, 256) to the latents' change.

    `axes` are the features of a head that turn with each axis of the grid, an axis for text first.
    """
    latents = graph.input("latents", (batch, *grid, LATENT))
    words = graph.input("text", (batch, text, TEXT))
    condition = _condition(graph, batch, width)
    image = partition(graph, latents, group)
    groups = math.prod(extent // size for extent, size in zip(grid, group, strict=True))
    image = graph.reshape(image, (batch, groups * math.prod(group), LATENT), "in_groups")
    image, words = linear(graph, image, width, "image_in"), linear(graph, words, width, "text_in")
    attend = GroupedAttention(graph, grid, group, pattern, radius, axes, text, heads)
    for block in range(double_blocks):
        with graph.scope(f"double{block}"):
            words, image = double_block(graph, words, image, condition, attend)
    both = graph.concat([words, image], 1, "both")
    for block in range(single_blocks):
        with graph.scope(f"single{block}"):
            both = single_block(graph, both, condition, attend)
    image = graph.slice(both, text, both.shape[1], 1, "image")
    shift, scale = modulation(graph, condition, width, 2, "final/modulation")
    image = linear(graph, modulated(graph, image, shift, scale, "final"), LATENT, "last")
    windows = graph.reshape(image, (batch * groups, math.prod(group), LATENT), "groups")
    graph.output(unpartition(graph, windows, grid, group), "change")


def _condition(graph: Builder, batch: int, width: int) -> Value:
    """What tells all blocks the step, its guidance and the text: (batch, 1, width)."""
    total: Value | None = None
    for name, features in (("time", TIME), ("guidance", TIME), ("pooled", POOLED)):
        with graph.scope(f"condition/{name}"):
            hidden = activate(graph, linear(graph, graph.input(name, (batch, 1, features)), width, "up"), "silu")
            part = linear(graph, hidden, width, "down")
            total = part if total is None else graph.add(total, part, "sum")
    assert total is not None
    return activate(graph, total, "silu")


def _operands(graph: Builder, projected: Value, heads: int) -> list[Value]:
    """Queries, keys and values by head, the first two normalised."""
    query, key, content = (
        split_heads(graph, part, heads, role)
        for part, role in zip(graph.split(projected, 3), ("query", "key", "value"), strict=True)
    )
    return [rms_norm(graph, query, "query_norm", 1e-6), rms_norm(graph, key, "key_norm", 1e-6), content]


def double_block(
    graph: Builder, words: Value, image: Value, condition: Value, attend: GroupedAttention
) -> tuple[Value, Value]:
    """Joint attention and feed-forward layers; text and image have weights of their own."""
    width, streams = words.shape[-1], {"text": words, "image": image}
    modulations, operands = {}, []
    for name, value in streams.items():
        with graph.scope(name):
            modulations[name] = modulation(graph, condition, width, 6, "block/modulation")
            normal = modulated(graph, value, modulations[name][0], modulations[name][1], "attention")
            operands.append(_operands(graph, linear(graph, normal, 3 * width, "query_key_value"), attend.heads))
    joined = [graph.concat(list(pair), 2, "joined") for pair in zip(*operands, strict=True)]
    context = attend(joined)
    parts = graph.split_sizes(context, [words.shape[1], image.shape[1]], 1)
    results = []
    for (name, value), part in zip(streams.items(), parts, strict=True):
        with graph.scope(name):
            _, _, gate, shift, scale, feed_gate = modulations[name]
            value = graph.add(value, graph.multiply(gate, linear(graph, part, width, "output")), "residual1")
            fed = feed_forward(graph, modulated(graph, value, shift, scale, "feed"), 4 * width, activation="gelu_tanh")
            results.append(graph.add(value, graph.multiply(feed_gate, fed), "residual2"))
    return results[0], results[1]


def single_block(graph: Builder, both: Value, condition: Value, attend: GroupedAttention) -> Value:
    """Attention and feed-forward layers side by side, one projection before and one after them."""
    width = both.shape[-1]
    shift, scale, gate = modulation(graph, condition, width, 3, "block/modulation")
    inner = linear(graph, modulated(graph, both, shift, scale, "block"), 7 * width, "in")
    projected, hidden = graph.split_sizes(inner, [3 * width, 4 * width], 2)
    context = attend(_operands(graph, projected, attend.heads))
    together = graph.concat([context, activate(graph, hidden, "gelu_tanh")], 2, "together")
    return graph.add(both, graph.multiply(gate, linear(graph, together, width, "out")), "residual")


class GroupedAttention:
    """Attention of text to everything, and of each group of image tokens to the text and to some groups."""

    def __init__(
        self,
        graph: Builder,
        grid: tuple[int, ...],
        group: tuple[int, ...],
        pattern: Pattern,
        radius: int,
        axes: Sequence[int],
        text: int,
        heads: int,
    ) -> None:
        self.graph, self.heads, self.text, self.size = graph, heads, text, math.prod(group)
        counts = [extent // side for extent, side in zip(grid, group, strict=True)]
        self.kept = kept_groups(counts, pattern, radius)
        self.cosines, self.sines = self._rotation(grid, group, axes)

    def _rotation(self, grid: tuple[int, ...], group: tuple[int, ...], axes: Sequence[int]) -> tuple[Value, Value]:
        """Cosines and sines (1, tokens, half a head) of every token's angles: none for text, and for an image token its
        place along each axis times the frequencies of that axis."""
        graph = self.graph
        with graph.scope("rotary"):
            parts = []
            for number, features in enumerate(axes):
                axis = number - (len(axes) - len(grid))
                rates = (10_000.0 ** (-np.arange(0, features, 2) / features)).astype(np.float32)
                extent = grid[axis] if axis >= 0 else 1
                shape = [1] * (len(grid) + 2)
                shape[axis + 1 if axis >= 0 else 1] = extent
                places = graph.constant("places", np.arange(extent, dtype=np.float32).reshape(shape))
                angles = graph.multiply(places, graph.constant("rates", rates), "angles")
                parts.append(graph.expand(angles, (1, *grid, features // 2)))
            image = partition(graph, graph.concat(parts, len(grid) + 1, "by_axis"), group)
            image = graph.reshape(image, (1, math.prod(grid), sum(axes) // 2), "in_groups")
            angles = graph.pad(image, {1: (self.text, 0)}, "with_text")
            return graph.unary("Cos", angles), graph.unary("Sin", angles)

    def __call__(self, operands: Sequence[Value]) -> Value:
        """(batch, heads, text and image tokens, size) operands to (batch, tokens, width)."""
        graph = self.graph
        with graph.scope("attention"):
            query, key = (self._turned(one, role) for one, role in zip(operands, ("query", "key"), strict=False))
            content = operands[2]
            words = scaled_dot_product(graph, self._cut(query, True), key, content, name="text_scores")
            image = self._of_image(query, key, content)
            return merge_heads(graph, graph.concat([words, image], 2, "both"))

    def _turned(self, value: Value, role: str) -> Value:
        batch, _, tokens, size = value.shape
        tables = [self.graph.expand(table, (batch, tokens, size // 2)) for table in (self.cosines, self.sines)]
        [turned] = self.graph.node(
            "RotaryEmbedding", [value, *tables], [value.shape], f"{role}/RotaryEmbedding", interleaved=1
        )
        return turned

    def _cut(self, value: Value, of_text: bool) -> Value:
        start, stop = (0, self.text) if of_text else (self.text, value.shape[2])
        return self.graph.slice(value, start, stop, 2, "text" if of_text else "image")

    def _of_image(self, query: Value, key: Value, content: Value) -> Value:
        graph, (batch, heads, _, size) = self.graph, query.shape
        groups, kept = self.kept.shape
        apart = (batch, heads, groups, self.size, size)
        queries = graph.reshape(self._cut(query, False), apart, "query_groups")
        seen = []
        for value, role in ((key, "key"), (content, "value")):
            own = graph.reshape(self._cut(value, False), apart, f"{role}_groups")
            index = graph.once("kept_groups", lambda: graph.constant("numbers", self.kept.ravel()))
            [chosen] = graph.node("Gather", [own, index], [(batch, heads, index.shape[0], *apart[3:])], axis=2)
            chosen = graph.reshape(chosen, (batch, heads, groups, kept * self.size, size), f"{role}_chosen")
            words = graph.unsqueeze(self._cut(value, True), [2])
            words = graph.expand(words, (batch, heads, groups, self.text, size))
            seen.append(graph.concat([words, chosen], 3, f"{role}_seen"))
        mixed = scaled_dot_product(graph, queries, seen[0], seen[1], name="group_scores")
        return graph.reshape(mixed, (batch, heads, groups * self.size, size), "image_context")


def kept_groups(counts: Sequence[int], pattern: Pattern, radius: int) -> Groups:
    """Numbers of the groups that each group attends to, as many for all: (groups, kept)."""
    places = np.array(list(itertools.product(*map(range, counts))))
    if pattern == "cross":
        share = (places[:, None] == places[None]).any(axis=-1)
        return np.stack([np.flatnonzero(row) for row in share])
    sides = [min(count, 2 * radius + 1) for count in counts]
    first = [
        np.clip(places[:, axis] - radius, 0, count - side)
        for axis, (count, side) in enumerate(zip(counts, sides, strict=True))
    ]
    near = np.array(list(itertools.product(*map(range, sides))))
    moved = np.stack(first, axis=1)[:, None] + near[None]
    return np.ravel_multi_index(tuple(np.moveaxis(moved, -1, 0)), tuple(counts))
