"""kMaX-DeepLab: panoptic segmentation in which queries are cluster centres and attention to pixels a step of k-means.

Yu et al., ECCV 2022 (arXiv:2207.04044). Every pixel goes to the query it is most like, and a query moves by the sum of
its pixels: no softmax over pixels is written. What training predicts beside is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
from onnx import TensorProto

from workloads.blocks.axial_attention import EPSILON, HEADS, axial_block, convolution_block
from workloads.blocks.convnext import convnext_stages
from workloads.blocks.convolution import batch_norm, channel_norm, conv_norm, convolution, max_pool
from workloads.blocks.segmentation import resized
from workloads.builder import Builder, Value
from workloads.registry import Table, variants
from workloads.resnet import stages as resnet_stages

Backbone = Literal["resnet", "axial_resnet", "convnext"]
Assignment = Literal["segment_sum", "one_hot"]

QUERY = 256
EMBEDDING = 128
FEED = 2048

PIXEL_BLOCKS: tuple[tuple[int, int, Callable[..., Value]], ...] = (
    (512, 1, axial_block), (256, 5, axial_block), (128, 1, convolution_block), (64, 1, convolution_block),
)  # fmt: skip
"""Filters, number and kind of the pixel decoder's blocks, from the smallest map on."""

CONVNEXT = {"backbone": "convnext", "depths": (3, 3, 27, 3)}

VARIANTS: Table = {
    "kmax_r50": {"backbone": "resnet"},
    "kmax_max_s": {"backbone": "axial_resnet"},
    "kmax_convnext_t": {"backbone": "convnext", "widths": (96, 192, 384, 768), "depths": (3, 3, 9, 3)},
    "kmax_convnext_s": {**CONVNEXT, "widths": (96, 192, 384, 768)},
    "kmax_convnext_b": {**CONVNEXT, "widths": (128, 256, 512, 1024)},
    "kmax_convnext_l": {**CONVNEXT, "widths": (192, 384, 768, 1536)},
}

SMALL = {
    "height": 65, "width": 96, "queries": 6, "decoder_blocks": (1, 1, 1), "shrink": 16, "depths": (1, 1, 1, 1),
    "classes": 5,
}  # fmt: skip

REDUCED: Table = {
    "kmax_r50": {**SMALL, "stem": 8},
    "kmax_max_s": {**SMALL, "stem": 8},
    "kmax_convnext_t": {**SMALL, "widths": (8, 16, 24, 32), "assignment": "one_hot"},
}


@variants(VARIANTS, REDUCED)
def kmax_deeplab(
    graph: Builder,
    batch: int,
    height: int,
    width: int,
    *,
    backbone: Backbone,
    depths: Sequence[int] = (3, 4, 6, 3),
    widths: Sequence[int] = (),
    stem: int = 64,
    queries: int = 128,
    decoder_blocks: Sequence[int] = (2, 2, 2),
    classes: int = 134,
    shrink: int = 1,
    assignment: Assignment = "segment_sum",
) -> None:
    """Pixels (batch, 3, height, width) to logits of each query's class (batch, queries, classes), and of its mask at a
    quarter of the extents, rounded up. `shrink` divides the decoders' channels."""
    pixels = graph.input("pixels", (batch, 3, height, width))
    maps = _backbone(graph, pixels, backbone, depths, widths, stem)
    decoded = pixel_decoder(graph, maps[::-1], shrink)
    centres = graph.expand(graph.weight("centres", 1, QUERY // shrink, queries), (batch, QUERY // shrink, queries))
    update = partial(kmeans_layer, graph, shrink=shrink, assignment=assignment)
    for level, count in enumerate(decoder_blocks):
        for block in range(count):
            with graph.scope(f"decoder{level}/block{block}"):
                centres = update(centres, decoded[level])
    embeddings = [_norm_conv(graph, centres, centres.shape[1], name) for name in ("class_embedding", "mask_embedding")]
    mask = mask_logits(graph, embeddings[1], decoded[-1], shrink, "prediction")
    logits = convolution(graph, embeddings[0], classes, 1, "class_head", bias=True)
    graph.output(graph.transpose(logits, (0, 2, 1)), "class_logits")
    graph.output(mask, "mask_logits")


def _backbone(
    graph: Builder, pixels: Value, kind: Backbone, depths: Sequence[int], widths: Sequence[int], stem: int
) -> list[Value]:
    with graph.scope("backbone"):
        if kind == "convnext":
            return convnext_stages(graph, pixels, widths, depths)
        if kind == "resnet":
            return resnet_stages(graph, pixels, depths, stem)
        return axial_resnet_stages(graph, pixels, depths, stem)


def axial_resnet_stages(graph: Builder, pixels: Value, depths: Sequence[int], stem: int) -> list[Value]:
    """MaX-S (Wang et al. 2021, arXiv:2012.00759): a stem of three convolutions, two stages that convolve and two that
    attend along axes. The paper averages after a strided block's attention; here its first convolution strides."""
    with graph.scope("stem"):
        value = conv_norm(graph, pixels, stem, 3, "layer0", 2, 1, activation="gelu", epsilon=EPSILON)
        value = conv_norm(graph, value, stem, 3, "layer1", 1, 1, activation="gelu", epsilon=EPSILON)
        value = conv_norm(graph, value, 2 * stem, 3, "layer2", 1, 1, activation="gelu", epsilon=EPSILON)
        value = max_pool(graph, value, 3, 2, 1)
    maps = []
    for stage, depth in enumerate(depths):
        kind = axial_block if stage > 1 else convolution_block
        for block in range(depth):
            stride = 2 if stage and not block else 1
            value = kind(graph, value, stem << stage, f"stage{stage}/block{block}", stride)
        maps.append(value)
    return maps


def pixel_decoder(graph: Builder, maps: Sequence[Value], shrink: int) -> list[Value]:
    """Maps from the smallest on, each through blocks of its own after the one before, enlarged, was added."""
    decoded: list[Value] = []
    for level, (feature_map, (filters, count, kind)) in enumerate(zip(maps, PIXEL_BLOCKS, strict=True)):
        filters //= shrink
        with graph.scope(f"pixel_decoder{level}"):
            value = channel_norm(graph, feature_map, "in_norm")
            if decoded:
                value = _fused(graph, decoded[-1], value, filters)
            for block in range(count):
                value = kind(graph, value, filters, f"block{block}")
            decoded.append(value)
    return decoded


def _fused(graph: Builder, low: Value, high: Value, channels: int) -> Value:
    """The smaller map, enlarged, and the larger one, projected where their channels differ, added."""
    extents = (high.shape[2], high.shape[3])
    parts = []
    for value, name in ((low, "low"), (high, "high")):
        if value.shape[1] != channels:
            value = _norm_conv(graph, graph.unary("Gelu", value), channels, name, activated=False)
        parts.append(resized(graph, value, extents, f"{name}_enlarged", aligned=low.shape[3] % 2 == 1))
    return graph.add(parts[0], parts[1], "fused")


def _norm_conv(graph: Builder, value: Value, channels: int, name: str, activated: bool = True) -> Value:
    """A 1x1 convolution, batch norm and, if `activated`, GELU, of queries or of pixels."""
    return conv_norm(
        graph, value, channels, 1, name, activation="gelu" if activated else "none", epsilon=EPSILON
    )


def mask_logits(graph: Builder, embedding: Value, feature_map: Value, shrink: int, name: str) -> Value:
    """How like each query is to each pixel, (batch, queries, height, width): products with pixels of length one."""
    batch, channels, height, width = feature_map.shape
    size, queries = EMBEDDING // shrink, embedding.shape[2]
    with graph.scope(name):
        value = conv_norm(
            graph, feature_map, channels, 5, "pixel0", 1, 2, channels, activation="gelu", epsilon=EPSILON
        )
        value = _norm_conv(graph, value, QUERY // shrink, "pixel1")
        value = conv_norm(graph, value, size, 1, "pixel2", bias=True, activation="none", epsilon=EPSILON)
        value = graph.unary("LpNormalization", value, axis=1, p=2)
        kernel = graph.transpose(_norm_conv(graph, embedding, size, "mask_head", activated=False), (0, 2, 1))
        flat = graph.reshape(value, (batch, size, height * width), "flat")
        logits = graph.reshape(graph.matmul(kernel, flat, "likeness"), (batch, 1, queries * height, width), "one")
        return graph.reshape(batch_norm(graph, logits, "norm", EPSILON), (batch, queries, height, width), "logits")


def kmeans_layer(
    graph: Builder, centres: Value, feature_map: Value, shrink: int, assignment: Assignment
) -> Value:
    """Queries (batch, 256, queries) after a step of k-means over a map's pixels, self-attention and feed-forward
    layers. Its own head for classes serves training alone and is not built."""
    width, depth = QUERY // shrink, QUERY // shrink
    space = _norm_conv(graph, graph.unary("Gelu", feature_map), width, "pixel_in")
    query = _norm_conv(graph, centres, width, "query_in")
    content = _norm_conv(graph, space, depth, "pixel_value", activated=False)
    likeness = mask_logits(graph, query, space, shrink, "assignment")
    moved = pixel_sums(graph, likeness, content, assignment)
    moved = batch_norm(graph, moved, "update_norm", EPSILON)
    centres = graph.add(centres, _norm_conv(graph, moved, width, "update_out", activated=False), "moved")
    attended = _norm_conv(graph, _self_attention(graph, query, shrink), width, "attention_out", activated=False)
    centres = graph.unary("Gelu", graph.add(centres, attended, "attended"))
    hidden = _norm_conv(graph, centres, FEED // shrink, "feed_up")
    fed = _norm_conv(graph, hidden, width, "feed_down", activated=False)
    return graph.unary("Gelu", graph.add(centres, fed, "fed"))


def pixel_sums(graph: Builder, likeness: Value, content: Value, assignment: Assignment) -> Value:
    """For each query the sum of the pixels' values (batch, depth, height, width) that are most like it: (batch, depth,
    queries). By adding each pixel to its query, or as a product with a matrix of zeros and ones."""
    batch, queries, height, width = likeness.shape
    depth, pixels = content.shape[1], height * width
    with graph.scope("kmeans"):
        flat = graph.reshape(content, (batch, depth, pixels), "flat")
        scores = graph.reshape(likeness, (batch, queries, pixels), "scores")
        [nearest] = graph.node("ArgMax", [scores], [(batch, pixels)], data_type=TensorProto.INT64, axis=1, keepdims=0)
        if assignment == "segment_sum":
            images = graph.constant("images", np.arange(batch, dtype=np.int64).reshape(batch, 1, 1))
            places = [graph.expand(images, (batch, pixels, 1), "image"), graph.unsqueeze(nearest, [2])]
            inputs = [
                graph.zeros("empty", (batch, queries, depth)), graph.concat(places, 2, "places"),
                graph.transpose(flat, (0, 2, 1), "by_pixel"),
            ]  # fmt: skip
            [sums] = graph.node("ScatterND", inputs, [(batch, queries, depth)], reduction="add")
            return graph.transpose(sums, (0, 2, 1), "sums")
        values = graph.constant("off_on", np.array([0, 1], np.float32))
        inputs = [nearest, graph.integers("queries", queries), values]
        [ones] = graph.node("OneHot", inputs, [(batch, pixels, queries)], data_type=TensorProto.FLOAT, axis=2)
        return graph.matmul(flat, ones, "sums")


def _self_attention(graph: Builder, query: Value, shrink: int) -> Value:
    """Attention between queries, scores and result normalised: (batch, 256, queries)."""
    batch, _, count = query.shape
    key_width, value_width = EMBEDDING // shrink, QUERY // shrink
    with graph.scope("attention"):
        projected = _norm_conv(graph, query, 2 * key_width + value_width, "query_key_value", activated=False)
        parts = graph.split_sizes(projected, [key_width, key_width, value_width], 1)
        heads = [graph.reshape(part, (batch, HEADS, part.shape[1] // HEADS, count), "heads") for part in parts]
        scores = graph.matmul(graph.transpose(heads[0], (0, 1, 3, 2)), heads[1], "scores")
        weights = graph.unary("Softmax", batch_norm(graph, scores, "score_norm", EPSILON), axis=-1)
        found = graph.matmul(heads[2], graph.transpose(weights, (0, 1, 3, 2)), "found")
        found = graph.reshape(found, (batch, value_width, count), "together")
        return graph.unary("Gelu", batch_norm(graph, found, "found_norm", EPSILON))
