"""From images to tokens and back: patches, grids, and the learned tokens that stand beside them."""

from __future__ import annotations

from workloads.blocks.convolution import convolution
from workloads.builder import Builder, Value


def patch_embedding(graph: Builder, value: Value, width: int, patch: int, name: str) -> Value:
    """Square patches of an image, each made a token: (batch, tokens, width)."""
    with graph.scope(name):
        grid = convolution(graph, value, width, patch, "projection", stride=patch, bias=True)
        return tokens_of(graph, grid)


def tokens_of(graph: Builder, value: Value) -> Value:
    """(batch, channels, height, width) to (batch, height x width, channels)."""
    batch, channels, height, width = value.shape
    return graph.transpose(graph.reshape(value, (batch, channels, height * width)), (0, 2, 1))


def grid_of(graph: Builder, value: Value, height: int, width: int) -> Value:
    """The reverse of `tokens_of`."""
    batch, _, channels = value.shape
    return graph.reshape(graph.transpose(value, (0, 2, 1)), (batch, channels, height, width))


def learned_token(graph: Builder, name: str, batch: int, width: int) -> Value:
    """A learned token, the same for every image: (batch, 1, width)."""
    with graph.scope(name):
        shape = graph.integers("shape", (batch, 1, width))
        [tokens] = graph.node("Expand", [graph.weight("weight", 1, 1, width), shape], [(batch, 1, width)])
        return tokens
