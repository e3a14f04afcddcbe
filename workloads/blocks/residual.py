"""Residual branches of transformers: what is normalised, mixed, scaled and added.

Stochastic depth, which drops branches in training, leaves nothing at inference.
"""

from __future__ import annotations

from collections.abc import Callable

from workloads.builder import Builder, Value

Branch = Callable[[Value], Value]
"""From a value to what is added to it, of the same shape."""

Norm = Callable[[Builder, Value, str], Value]
"""`norm(graph, value, name)`."""


def residual(
    graph: Builder,
    value: Value,
    branch: Branch,
    number: int | str,
    norm: Norm | None = None,
    layer_scale: bool = False,
    residual_scale: bool = False,
    channel_axis: int = -1,
    after: bool = False,
) -> Value:
    """value + branch(norm(value)), or value + norm(branch(value)) with the norm `after` it.

    `layer_scale` multiplies the branch by a learned number for each channel (Touvron et al. 2021, arXiv:2103.17239),
    `residual_scale` the value (Yu et al. 2024, arXiv:2210.13452). `number` tells the branches of a block apart.
    """
    inner = norm(graph, value, f"norm{number}") if norm and not after else value
    inner = branch(inner)
    inner = norm(graph, inner, f"norm{number}") if norm and after else inner
    if layer_scale:
        inner = channel_scale(graph, inner, f"layer_scale{number}", channel_axis)
    if residual_scale:
        value = channel_scale(graph, value, f"residual_scale{number}", channel_axis)
    return graph.add(value, inner, f"residual{number}")


def channel_scale(graph: Builder, value: Value, name: str, axis: int = -1) -> Value:
    """`value` with each channel, along `axis`, multiplied by a learned number."""
    axis %= value.rank
    shape = (value.shape[axis], *(1,) * (value.rank - 1 - axis))
    with graph.scope(name):
        return graph.multiply(value, graph.weight("weight", *shape))


def encoder_blocks(
    graph: Builder,
    value: Value,
    depth: int,
    mix: Branch,
    feed: Branch,
    norm: Norm,
    scope: str = "block",
    first: int = 0,
) -> Value:
    """`depth` transformer blocks, x + mix(norm(x)) and then x + feed(norm(x)), numbered from `first`."""
    for block in range(first, first + depth):
        with graph.scope(f"{scope}{block}"):
            value = residual(graph, value, mix, 1, norm)
            value = residual(graph, value, feed, 2, norm)
    return value
