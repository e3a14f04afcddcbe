"""TERA: a BERT of speech frames. Liu et al., TASLP 2021 (arXiv:2007.06028)."""

from __future__ import annotations

from workloads.bart import norm, post_norm_block
from workloads.blocks.dense import linear
from workloads.blocks.positions import sinusoids
from workloads.builder import Builder
from workloads.registry import Table, variants

VARIANTS: Table = {"tera_base": {"layers": 3}, "tera_medium": {"layers": 6}, "tera_large": {"layers": 12}}
REDUCED: Table = {"tera_base": {"frames": 12, "features": 8, "width": 32, "heads": 4, "layers": 2}}


@variants(VARIANTS, REDUCED)
def tera(
    graph: Builder, batch: int, frames: int, features: int, *, layers: int, width: int = 768, heads: int = 12
) -> None:
    """Log-mel frames (batch, frames, features) to their representation (batch, frames, width)."""
    value = linear(graph, graph.input("features", (batch, frames, features)), width, "embedding")
    value = norm(graph, graph.add(value, sinusoids(graph, frames, width), "positioned"), "norm")
    for index in range(layers):
        with graph.scope(f"layer{index}"):
            value = post_norm_block(graph, value, heads)
    graph.output(value, "representation")
