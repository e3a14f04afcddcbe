"""Agent attention in DeiT, PVT, Swin and CSWin, whose own attention stays in the later stages. Han et al., ECCV 2024
(arXiv:2312.08874).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from workloads import cswin, pvt, swin, vit
from workloads.blocks.agent import agent_attention
from workloads.blocks.attention import encoder_attention
from workloads.blocks.dense import classifier, layer_norm, linear, mlp
from workloads.blocks.embedding import class_token_of, grid_of, image_input, patch_embedding, positioned
from workloads.blocks.residual import Branch, encoder_blocks, residual
from workloads.blocks.window import in_windows
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

AGENTS = (9, 16, 49, 49)
"""Agents of each stage of a pyramid."""
HEAD_SIZE = 32

SHALLOW, DEEP = (2, 2, 6, 2), (2, 2, 18, 2)

DEIT: Table = {
    "agent_deit_t": {"width": 192, "heads": 3},
    "agent_deit_s": {"width": 384, "heads": 6},
    "agent_deit_s_448": {"width": 384, "heads": 6},
    "agent_deit_b": {"width": 768, "heads": 12, "agents": 81, "agent_layers": 4},
}

PVT: Table = {
    "agent_pvt_t": {"depths": (2, 2, 2, 2)},
    "agent_pvt_s": {"depths": (3, 4, 6, 3)},
    "agent_pvt_m": {"depths": (3, 4, 18, 3)},
    "agent_pvt_m_256": {"depths": (3, 4, 18, 3)},
    "agent_pvt_l": {"depths": (3, 8, 27, 3)},
}

SWIN: Table = {
    "agent_swin_t": {"width": 96, "depths": SHALLOW, "agent_blocks": (2, 2, 6, 0)},
    "agent_swin_s": {"width": 96, "depths": DEEP, "agent_blocks": (2, 2, 0, 0)},
    "agent_swin_s_288": {"width": 96, "depths": DEEP, "agent_blocks": (2, 2, 0, 0)},
    "agent_swin_b": {"width": 128, "depths": DEEP, "agent_blocks": (2, 2, 2, 0)},
    "agent_swin_b_384": {"width": 128, "depths": DEEP, "agent_blocks": (2, 2, 2, 0)},
}

CSWIN: Table = {
    "agent_cswin_t": {"width": 64, "depths": (2, 4, 18, 1), "heads": 2},
    "agent_cswin_s": {"width": 64, "depths": (3, 6, 29, 2), "heads": 2},
    "agent_cswin_b": {"width": 96, "depths": (3, 6, 29, 2), "heads": 4},
}

SMALL_DEIT: dict[str, Any] = {"image": 64, "width": 48, "layers": 3, "agent_layers": 2, "agents": 4, "classes": 10}
SMALL_SWIN: dict[str, Any] = {
    "image": 64,
    "width": 32,
    "depths": (1, 2, 2),
    "agent_blocks": (1, 1, 0),
    "window": 2,
    "classes": 10,
}


@variants(DEIT, {"agent_deit_t": SMALL_DEIT})
def agent_deit(
    graph: Builder,
    batch: int,
    image: int,
    *,
    width: int,
    heads: int,
    layers: int = 12,
    agents: int = 49,
    agent_layers: int | None = None,
    patch: int = 16,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes), agents in the first `agent_layers` or all."""
    value = vit.embed(graph, image_input(graph, batch, image, patch), width, patch, ["class"])
    extents = (image // patch, image // patch)
    early = layers if agent_layers is None else agent_layers
    feed = partial(mlp, graph, hidden=4 * width)
    with_agents = partial(_attention, graph, heads=heads, extents=extents, agents=agents)
    value = encoder_blocks(graph, value, early, with_agents, feed, vit.norm, "layer")
    plain = partial(encoder_attention, graph, heads=heads)
    value = encoder_blocks(graph, value, layers - early, plain, feed, vit.norm, "layer", early)
    token = class_token_of(graph, vit.norm(graph, value, "norm"))
    graph.output(classifier(graph, token, classes), "logits")


@variants(PVT, {"agent_pvt_t": {**pvt.SMALL, "image": 64, "agents": (9, 4, 4, 4)}})
def agent_pvt(
    graph: Builder,
    batch: int,
    image: int,
    *,
    depths: Sequence[int],
    widths: Sequence[int] = pvt.WIDTHS,
    agents: Sequence[int] = AGENTS,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes): PVT without reductions, class token and last norm."""
    value = image_input(graph, batch, image, 32)
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        patch, heads = pvt.PATCHES[stage], pvt.HEADS[stage]
        extents = (value.shape[2] // patch, value.shape[3] // patch)
        with graph.scope(f"stage{stage}"):
            tokens = layer_norm(graph, patch_embedding(graph, value, width, patch, "patches"), "embedding_norm")
            attend = partial(_attention, graph, heads=heads, extents=extents, agents=agents[stage])
            feed = partial(mlp, graph, hidden=pvt.EXPANSIONS[stage] * width)
            tokens = encoder_blocks(graph, positioned(graph, tokens), depth, attend, feed, pvt.block_norm)
            value = grid_of(graph, tokens, *extents)
    graph.output(classifier(graph, graph.mean(tokens, (1,), "pool"), classes), "logits")


@variants(SWIN, {"agent_swin_b": SMALL_SWIN})
def agent_swin(
    graph: Builder,
    batch: int,
    image: int,
    *,
    width: int,
    depths: Sequence[int],
    agent_blocks: Sequence[int],
    agents: Sequence[int] = AGENTS,
    window: int | None = None,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes). The first `agent_blocks` of a stage have agents on
    all of the grid, the others shifted windows, which unless stated are as wide as the last of four stages."""
    grid = swin.patches(graph, batch, image, width, len(depths))
    for stage, depth in enumerate(depths):
        with graph.scope(f"stage{stage}"):
            grid = swin.downsample(graph, grid) if stage else grid
            fitted = swin.window_of(graph, grid, window or image // 32)
            heads = grid.shape[-1] // HEAD_SIZE
            for block in range(depth):
                shift = fitted // 2 if block % 2 and fitted < grid.shape[1] else 0
                mix: Branch
                if block < agent_blocks[stage]:
                    mix = partial(_grid_attention, graph, heads=heads, agents=agents[stage])
                else:
                    mixer = partial(swin.attention_with_bias, graph, heads=heads, window=(fitted, fitted))
                    mix = partial(in_windows, graph, window=fitted, shift=shift, mixer=mixer)
                with graph.scope(f"block{block}"):
                    grid = residual(graph, grid, mix, 1, layer_norm)
                    grid = residual(graph, grid, partial(mlp, graph, hidden=4 * grid.shape[-1]), 2, layer_norm)
    pooled = graph.mean(layer_norm(graph, grid, "norm"), (1, 2), "pool")
    graph.output(classifier(graph, pooled, classes), "logits")


@variants(CSWIN, {"agent_cswin_t": {**cswin.SMALL, "agents": (9, 4, 4, 4)}})
def agent_cswin(
    graph: Builder,
    batch: int,
    image: int,
    *,
    width: int,
    depths: Sequence[int],
    heads: int,
    stripes: Sequence[int] = cswin.STRIPES,
    agents: Sequence[int] = AGENTS,
    agent_stages: int = 2,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes), with agents in the first `agent_stages`."""

    def mix(stage: int) -> Branch:
        if stage < agent_stages:
            return partial(_grid_attention, graph, heads=heads << stage, agents=agents[stage])
        return partial(cswin.striped_attention, graph, heads=heads << stage, stripe=stripes[stage])

    cswin.pyramid(graph, batch, image, width, depths, mix, classes)


def _attention(graph: Builder, tokens: Value, heads: int, extents: tuple[int, int], agents: int) -> Value:
    """Agent attention between one projection to queries, keys and values and one of the result."""
    width = tokens.shape[-1]
    with graph.scope("attention"):
        query, key, content = graph.split(linear(graph, tokens, 3 * width, "query_key_value"), 3)
        mixed = agent_attention(graph, query, key, content, heads, extents, agents)
        return linear(graph, mixed, width, "output")


def _grid_attention(graph: Builder, grid: Value, heads: int, agents: int) -> Value:
    """The same for a grid (batch, height, width, channels)."""
    batch, height, columns, width = grid.shape
    tokens = graph.reshape(grid, (batch, height * columns, width), "tokens")
    return graph.reshape(_attention(graph, tokens, heads, (height, columns), agents), grid.shape, "grid")
