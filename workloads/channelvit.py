"""ChannelViT: patch tokens for every channel of an image, told apart by a learned vector for each channel.

Bao et al., ICLR 2024 (arXiv:2309.16108).
"""

from __future__ import annotations

from codesign.errors import BadParameter
from workloads.blocks.dense import classifier
from workloads.blocks.embedding import learned_token, patch_embedding
from workloads.builder import Builder, Value
from workloads.registry import Table, variants
from workloads.vit import encoder

SMALL = {"width": 384, "heads": 6}

VARIANTS: Table = {
    "channelvit_s16_imagenet": {**SMALL, "patch": 16, "table": 3},
    "channelvit_s8_jumpcp": {**SMALL, "patch": 8, "table": 8, "classes": 161},
    "channelvit_s8_so2sat": {**SMALL, "patch": 8, "table": 18, "classes": 17},
    "channelvit_t": {"width": 192, "heads": 3, "patch": 16, "table": 3},
    "channelvit_b": {"width": 768, "heads": 12, "patch": 16, "table": 3},
}

REDUCED: Table = {
    "channelvit_s16_imagenet": {"image": 32, "channels": 2, "width": 48, "heads": 3, "layers": 2, "classes": 10}
}


@variants(VARIANTS, REDUCED)
def channelvit(
    graph: Builder,
    batch: int,
    image: int,
    channels: int,
    *,
    width: int,
    heads: int,
    patch: int,
    table: int,
    layers: int = 12,
    classes: int = 1000,
) -> None:
    """Pixels (batch, channels, image, image) to logits (batch, classes). The first `channels` of the `table` of known
    ones are shown; training samples them, so that any number may be."""
    if image % patch or channels > table:
        raise BadParameter(
            f"workload '{graph.name}': image = {image}, channels = {channels}; expected a multiple of {patch} and at "
            f"most {table} channels"
        )
    pixels = graph.input("pixels", (batch, channels, image, image))
    value = encoder(graph, channel_tokens(graph, pixels, width, patch, table), layers, heads)
    graph.output(classifier(graph, graph.take(value, 0, 1, "class_token"), classes), "logits")


def channel_tokens(graph: Builder, pixels: Value, width: int, patch: int, table: int) -> Value:
    """A class token, then the patches of each channel, channel after channel: (batch, 1 + channels x patches, width).
    Projection and positions are the same for all channels."""
    batch, channels, height, across = pixels.shape
    with graph.scope("embedding"):
        planes = graph.reshape(pixels, (batch * channels, 1, height, across), "planes")
        patches = patch_embedding(graph, planes, width, patch, "patches")
        tokens = patches.shape[1]
        patches = graph.reshape(patches, (batch, channels, tokens, width), "by_channel")
        vectors = graph.slice(graph.weight("channels", 1, table, 1, width), 0, channels, 1, "shown")
        patches = graph.add(patches, vectors, "channel_told")
        patches = graph.add(patches, graph.weight("positions", 1, 1, tokens, width), "positioned")
        patches = graph.reshape(patches, (batch, channels * tokens, width), "tokens")
        token = learned_token(graph, "class_token", batch, width)
        token = graph.add(token, graph.weight("class_position", 1, 1, width), "class_positioned")
        return graph.concat([token, patches], 1, "all")
