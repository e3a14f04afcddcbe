"""From images to tokens and back: patches, grids, and the learned tokens that stand beside them."""

from __future__ import annotations

from codesign.errors import BadParameter
from workloads.blocks.activation import Activation, activate
from workloads.blocks.convolution import convolution, depthwise
from workloads.blocks.dense import linear
from workloads.builder import Builder, Value


def image_input(graph: Builder, batch: int, image: int, step: int = 1) -> Value:
    """A square image (batch, 3, image, image). Raises BadParameter when `image` is no multiple of `step`, the pixels
    between two tokens of the last stage."""
    if image % step:
        raise BadParameter(
            f"workload '{graph.name}': image = {image}; expected a multiple of {step}, the last stage's step"
        )
    return graph.input("pixels", (batch, 3, image, image))


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


def positioned(graph: Builder, tokens: Value, name: str = "positions") -> Value:
    """Tokens with a learned vector for each position added."""
    return graph.add(tokens, graph.weight(name, 1, *tokens.shape[1:]), "positioned")


def depthwise_feed_forward(
    graph: Builder,
    value: Value,
    hidden: int,
    extents: tuple[int, int],
    name: str = "mlp",
    first: Activation = "none",
    activation: Activation = "gelu",
) -> Value:
    """The feed-forward layers with a depthwise 3x3 convolution over the tokens' grid between them (Wang et al. 2022,
    arXiv:2106.13797); `first` acts before the convolution, `activation` after it."""
    with graph.scope(name):
        inner = activate(graph, linear(graph, value, hidden, "up"), first)
        inner = tokens_of(graph, depthwise(graph, grid_of(graph, inner, *extents), 3, "depthwise"))
        return linear(graph, activate(graph, inner, activation), value.shape[-1], "down")


def merge_patches(graph: Builder, grid: Value) -> Value:
    """Each 2x2 pixels (or 2x2x2 voxels) of a grid (batch, *extents, channels) made one of all their channels."""
    batch, *extents, channels = grid.shape
    sides = len(extents)
    with graph.scope("merge"):
        halves = [size for extent in extents for size in (extent // 2, 2)]
        split = graph.reshape(grid, (batch, *halves, channels), "split")
        axes = (0, *range(1, 2 * sides, 2), *range(2, 2 * sides + 1, 2), 2 * sides + 1)
        merged = (batch, *(extent // 2 for extent in extents), channels * 2**sides)
        return graph.reshape(graph.transpose(split, axes), merged, "merged")


def channels_last(graph: Builder, value: Value, name: str = "channels_last") -> Value:
    """(batch, channels, *extents) to (batch, *extents, channels)."""
    return graph.transpose(value, (0, *range(2, value.rank), 1), name)


def channels_first(graph: Builder, value: Value, name: str = "channels_first") -> Value:
    """(batch, *extents, channels) to (batch, channels, *extents)."""
    return graph.transpose(value, (0, value.rank - 1, *range(1, value.rank - 1)), name)


def unfold(graph: Builder, value: Value, kernel: int, stride: int, padding: int, name: str = "unfold") -> Value:
    """Every window of an image (batch, channels, height, width), overlapping or not, as a token that holds its values:
    (batch, windows, channels x kernel x kernel). Two gathers, as torch exports its unfold."""
    batch, channels = value.shape[:2]
    with graph.scope(name):
        value = graph.pad(value, {2: (padding, padding), 3: (padding, padding)})
        counts = [(extent - kernel) // stride + 1 for extent in value.shape[2:]]
        for axis, count in ((2, counts[0]), (4, counts[1])):
            rows = graph.integers("places", [place + stride * at for place in range(kernel) for at in range(count)])
            shape = (*value.shape[:axis], kernel * count, *value.shape[axis + 1 :])
            [gathered] = graph.node("Gather", [value, rows], [shape], axis=axis)
            value = graph.reshape(gathered, (*shape[:axis], kernel, count, *shape[axis + 1 :]), "apart")
        tokens = graph.transpose(value, (0, 3, 5, 1, 2, 4))
        return graph.reshape(tokens, (batch, counts[0] * counts[1], channels * kernel * kernel), "tokens")


def class_token_of(graph: Builder, tokens: Value) -> Value:
    """The first token: (batch, width)."""
    return graph.take(tokens, 0, 1, "class_token")
