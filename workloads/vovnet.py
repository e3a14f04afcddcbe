"""VoVNet: chains of equal convolutions whose outputs are joined once ("one-shot aggregation").

Lee et al., CVPR Workshops 2019 (arXiv:1904.09730). Version 2 (Lee & Park, CVPR 2020, arXiv:1911.06667) adds residuals
and effective squeeze-excitation; the variants and their depthwise forms are timm's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workloads.blocks.convolution import batch_norm, conv_norm, convolution, depthwise, max_pool, pooled_classifier
from workloads.blocks.convolution import squeeze_excite as gated
from workloads.blocks.embedding import image_input
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

WIDE: dict[str, Any] = {"inner": (128, 160, 192, 224), "outer": (256, 512, 768, 1024)}
SLIM: dict[str, Any] = {"inner": (64, 80, 96, 112), "outer": (112, 256, 384, 512), "layers": 3, "blocks": (1, 1, 1, 1)}
VERSION_2: dict[str, Any] = {"residual": True, "gate": True}
SEPARABLE: dict[str, Any] = {"separable": True, "stem": (64, 64, 64)}

VARIANTS: Table = {
    "vovnet39a": {**WIDE, "blocks": (1, 1, 2, 2)},
    "vovnet57a": {**WIDE, "blocks": (1, 1, 4, 3)},
    "vovnet27_slim": {"inner": SLIM["inner"], "outer": (128, 256, 384, 512), "blocks": (1, 1, 1, 1)},
    "ese_vovnet19b_dw": {**WIDE, **VERSION_2, **SEPARABLE, "blocks": (1, 1, 1, 1), "layers": 3},
    "ese_vovnet19b_slim": {**SLIM, **VERSION_2},
    "ese_vovnet19b_slim_dw": {**SLIM, **VERSION_2, **SEPARABLE},
    "ese_vovnet39b": {**WIDE, **VERSION_2, "blocks": (1, 1, 2, 2)},
    "ese_vovnet57b": {**WIDE, **VERSION_2, "blocks": (1, 1, 4, 3)},
    "ese_vovnet99b": {**WIDE, **VERSION_2, "blocks": (1, 3, 9, 3)},
}

SMALL: dict[str, Any] = {
    "image": 64,
    "stem": (8, 8, 16),
    "inner": (8, 16),
    "outer": (24, 32),
    "blocks": (1, 2),
    "layers": 3,
    "classes": 10,
}

REDUCED = dict.fromkeys(("vovnet39a", "ese_vovnet39b", "ese_vovnet19b_dw"), SMALL)


@variants(VARIANTS, REDUCED)
def vovnet(
    graph: Builder,
    batch: int,
    image: int,
    *,
    inner: Sequence[int],
    outer: Sequence[int],
    blocks: Sequence[int],
    layers: int = 5,
    stem: Sequence[int] = (64, 64, 128),
    separable: bool = False,
    residual: bool = False,
    gate: bool = False,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    value = image_input(graph, batch, image)
    value = conv_norm(graph, value, stem[0], 3, "stem0", stride=2, padding=1)
    value = _layer(graph, value, stem[1], "stem1", separable)
    value = _layer(graph, value, stem[2], "stem2", separable, stride=2)
    for stage, depth in enumerate(blocks):
        with graph.scope(f"stage{stage}"):
            if stage:
                value = max_pool(graph, value, 3, stride=2, ceil=True)
            for block in range(depth):
                with graph.scope(f"block{block}"):
                    joined = aggregate(graph, value, inner[stage], layers, separable)
                    joined = conv_norm(graph, joined, outer[stage], 1, "join")
                    if gate and block == depth - 1:
                        joined = gated(graph, joined, None, gate="hard_sigmoid")
                    value = graph.add(joined, value, "residual") if residual and block else joined
    graph.output(pooled_classifier(graph, value, classes), "logits")


def aggregate(graph: Builder, value: Value, channels: int, layers: int, separable: bool) -> Value:
    """A chain of convolutions of `channels` each, and all their outputs behind the input."""
    outputs = [value]
    if separable and value.shape[1] != channels:
        value = conv_norm(graph, value, channels, 1, "reduce")
    for layer in range(layers):
        value = _layer(graph, value, channels, f"layer{layer}", separable)
        outputs.append(value)
    return graph.concat(outputs, 1, "outputs")


def _layer(graph: Builder, value: Value, channels: int, name: str, separable: bool, stride: int = 1) -> Value:
    """A 3x3 convolution with norm and ReLU, `separable` as a depthwise and a 1x1 convolution."""
    if not separable:
        return conv_norm(graph, value, channels, 3, name, stride, padding=1)
    with graph.scope(name):
        inner = depthwise(graph, value, 3, "depthwise", stride, bias=False)
        inner = convolution(graph, inner, channels, 1, "pointwise")
        return graph.unary("Relu", batch_norm(graph, inner))
