"""What networks that enlarge images share: their input, and the last layers, which trade channels for pixels."""

from __future__ import annotations

from workloads.blocks.convolution import convolution
from workloads.builder import Builder, Value


def small_image(graph: Builder, batch: int, height: int, width: int) -> Value:
    """The image to enlarge, (batch, 3, height, width)."""
    return graph.input("pixels", (batch, 3, height, width))


def pixel_shuffle(graph: Builder, value: Value, channels: int, scale: int, name: str = "upsample") -> Value:
    """A 3x3 convolution to `scale` squared times the channels, which become pixels: `scale` times the extents (Shi et
    al. 2016, arXiv:1609.05158)."""
    batch, _, height, width = value.shape
    with graph.scope(name):
        value = convolution(graph, value, channels * scale**2, 3, "convolution", 1, 1, bias=True)
        shape = (batch, channels, height * scale, width * scale)
        [result] = graph.node("DepthToSpace", [value], [shape], "shuffle", blocksize=scale, mode="CRD")
        return result
