"""Pieces of attention over blocks of a sequence: (batch, heads, blocks, tokens of a block, head size)."""

from __future__ import annotations

from typing import Any

import numpy as np

from workloads.builder import Builder, Value

LOWEST = float(np.finfo(np.float32).min)


def with_previous_block(graph: Builder, value: Value) -> Value:
    """Each block after the one before it, zeros before the first: twice the tokens in a block."""
    earlier = graph.slice(value, 0, -1, 2, "earlier") if value.shape[2] > 1 else None
    shape = [*value.shape]
    shape[2] = 1
    first = graph.zeros("first", shape)
    previous = graph.concat([first, earlier], 2, "previous") if earlier else first
    return graph.concat([previous, value], 3, "two_blocks")


def block_causal_mask(graph: Builder, blocks: int, block: int) -> Value:
    """Added to scores (blocks, block, 2 block) of `with_previous_block`: hides later tokens, and what is before the
    first block."""

    def make() -> Value:
        causal = np.triu(np.full((block, 2 * block), LOWEST, dtype=np.float32), block + 1)
        before = np.zeros((blocks, 1, 2 * block), dtype=np.float32)
        before[0, 0, :block] = LOWEST / 2
        return graph.add(graph.constant("causal", causal / 2), graph.constant("before_first", before), "mask")

    return graph.once(f"block_mask_{blocks}_{block}", make)


def hidden_from(graph: Builder, name: str, hidden: np.ndarray[Any, Any]) -> Value:
    """Added to scores: the lowest float where `hidden`, zero elsewhere. A constant, made once for all layers."""
    return graph.once(name, lambda: graph.constant("mask", np.where(hidden, np.float32(LOWEST), np.float32(0))))
