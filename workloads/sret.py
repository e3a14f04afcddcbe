"""SReT: every block runs twice with the same weights, attention of most runs sliced into groups of tokens.

Shen et al., Sliced Recursive Transformer, ECCV 2022 (arXiv:2111.05297). After each run stand small layers of their own,
and learned numbers weigh both sides of every addition.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial

import numpy as np

from codesign.errors import BadParameter
from workloads.blocks.attention import encoder_attention
from workloads.blocks.convolution import conv_norm, convolution
from workloads.blocks.dense import classifier, layer_norm, mlp
from workloads.blocks.embedding import grid_of, image_input, tokens_of
from workloads.blocks.residual import Branch
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

RUNS = 2
"""Times that a block runs with its weights."""

block_norm = partial(layer_norm, epsilon=1e-6)

TINY = {"base": 32, "heads": (2, 4, 8), "expansion": 3.6, "between": 1}
LARGE_TINY = {**TINY, "expansion": 4.0}
SMALL = {"base": 42, "heads": (3, 6, 12), "expansion": 3.0, "between": 2}
SLICED = {"groups_first": (8, 4, 1), "groups_again": (2, 1, 1)}

VARIANTS: Table = {
    "sret_t": {**TINY, **SLICED},
    "sret_t_noslice": TINY,
    "sret_lt": {**LARGE_TINY, **SLICED},
    "sret_lt_16_14_1": {**LARGE_TINY, "groups_first": (16, 14, 1)},
    "sret_lt_noslice": LARGE_TINY,
    "sret_s": {**SMALL, **SLICED},
    "sret_s_noslice": SMALL,
    "sret_s_noslice_384": SMALL,
    "sret_s_noslice_512": SMALL,
}

REDUCED: Table = {"sret_t": {"image": 64, "base": 12, "heads": (1, 2, 4), "blocks": (1, 1, 1), "classes": 10}}


@variants(VARIANTS, REDUCED)
def sret(
    graph: Builder,
    batch: int,
    image: int,
    *,
    base: int,
    heads: Sequence[int],
    expansion: float,
    between: int,
    blocks: Sequence[int] = (2, 5, 3),
    groups_first: Sequence[int] = (1, 1, 1),
    groups_again: Sequence[int] = (1, 1, 1),
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes).

    A stage has `blocks` sets of weights; their first run attends in `groups_first` slices, the others in
    `groups_again`. `between` is the expansion of the layers after each run.
    """
    value = stem(graph, image_input(graph, batch, image, 32), base * heads[0])
    value = graph.add(value, graph.weight("positions", 1, *value.shape[1:]), "positioned")
    for stage, count in enumerate(heads):
        with graph.scope(f"stage{stage}"):
            if stage:
                channels = value.shape[1]
                value = convolution(graph, value, base * count, 3, "reduction", 2, 1, channels, bias=True)
            extents = (value.shape[2], value.shape[3])
            tokens = tokens_of(graph, value)
            for block in range(blocks[stage]):
                groups = (groups_first[stage], groups_again[stage])
                tokens = recursive_block(graph, tokens, count, groups, expansion, between, f"block{block}")
            value = grid_of(graph, tokens, *extents)
    pooled = graph.mean(tokens, (1,), "pool")
    graph.output(classifier(graph, block_norm(graph, pooled, "norm"), classes), "logits")


def stem(graph: Builder, value: Value, width: int) -> Value:
    """Three strided 3x3 convolutions to an eighth of the extent."""
    with graph.scope("stem"):
        for number, channels in enumerate((width // 2, width, width)):
            value = conv_norm(graph, value, channels, 3, f"layer{number}", 2, 1)
        return value


def recursive_block(
    graph: Builder,
    tokens: Value,
    heads: int,
    groups: tuple[int, int],
    expansion: float,
    between: int,
    name: str,
) -> Value:
    """Attention and feed-forward layers, run twice with one set of weights, each run followed by layers of its own."""
    width = tokens.shape[-1]
    shared = graph.path(name)
    for run in range(RUNS):
        with graph.scope(f"{name}/run{run}"):
            with graph.sharing(shared):
                attend = partial(sliced_attention, graph, heads=heads, groups=groups[run > 0], shuffled=run > 0)
                tokens = weighed(graph, tokens, attend, 1)
                tokens = weighed(graph, tokens, partial(mlp, graph, hidden=int(expansion * width)), 2)
            tokens = weighed(graph, tokens, partial(mlp, graph, hidden=between * width, name="between"), 3)
    return tokens


def weighed(graph: Builder, value: Value, branch: Branch, number: int) -> Value:
    """a x + b branch(norm(x)), a and b learned."""
    inner = branch(block_norm(graph, value, f"norm{number}"))
    kept = graph.multiply(value, graph.weight(f"keep{number}", 1), f"kept{number}")
    added = graph.multiply(inner, graph.weight(f"add{number}", 1), f"added{number}")
    return graph.add(kept, added, f"residual{number}")


def sliced_attention(graph: Builder, tokens: Value, heads: int, groups: int, shuffled: bool) -> Value:
    """Attention within `groups` slices of the tokens, which are put in another order first and back afterwards if they
    are `shuffled`, so that slices of two runs differ."""
    if groups == 1:
        return encoder_attention(graph, tokens, heads)
    batch, count, width = tokens.shape
    if count % groups:
        raise BadParameter(f"workload '{graph.name}': {count} tokens; expected a multiple of {groups} groups")
    order = np.random.default_rng(zlib.crc32(graph.path("order").encode())).permutation(count)
    if shuffled:
        tokens = graph.pick(tokens, order, 1, "shuffled")
    sliced = graph.reshape(tokens, (batch * groups, count // groups, width), "slices")
    mixed = graph.reshape(encoder_attention(graph, sliced, heads), (batch, count, width), "together")
    return graph.pick(mixed, np.argsort(order), 1, "back") if shuffled else mixed
