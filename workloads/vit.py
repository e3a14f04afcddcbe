"""Vision Transformer and DeiT: patches as tokens, pre-norm blocks, a class token.

Dosovitskiy et al., ICLR 2021 (arXiv:2010.11929); Touvron et al., ICML 2021 (arXiv:2012.12877). The tiny and small
widths are DeiT's. At inference the distilled DeiT averages its class and distillation classifiers.
"""

from __future__ import annotations

from functools import partial

from workloads.blocks.attention import encoder_attention
from workloads.blocks.dense import classifier, layer_norm, mean_of, mlp
from workloads.blocks.embedding import image_input, learned_token, patch_embedding, positioned
from workloads.blocks.residual import encoder_blocks
from workloads.builder import Builder, Value
from workloads.registry import variants

norm = partial(layer_norm, epsilon=1e-6)

VARIANTS = {
    "vit_tiny": {"width": 192, "heads": 3},
    "vit_small": {"width": 384, "heads": 6},
    "vit_base": {"width": 768, "heads": 12},
    "deit_tiny": {"width": 192, "heads": 3},
    "deit_small": {"width": 384, "heads": 6},
    "deit_base": {"width": 768, "heads": 12},
    "deit_tiny_distilled": {"width": 192, "heads": 3, "distilled": True},
    "deit_small_distilled": {"width": 384, "heads": 6, "distilled": True},
    "deit_base_distilled": {"width": 768, "heads": 12, "distilled": True},
}

REDUCED = {
    "vit_tiny": {"image": 64, "width": 48, "layers": 2, "classes": 10},
    "deit_tiny_distilled": {"image": 64, "width": 48, "layers": 2, "classes": 10},
}


@variants(VARIANTS, REDUCED)
def vit(
    graph: Builder,
    batch: int,
    image: int,
    *,
    width: int,
    heads: int,
    layers: int = 12,
    distilled: bool = False,
    patch: int = 16,
    classes: int = 1000,
) -> None:
    """Pixels (batch, 3, image, image) to logits (batch, classes)."""
    pixels = image_input(graph, batch, image, patch)
    value = embed(graph, pixels, width, patch, ["class", "distillation"] if distilled else ["class"])
    value = encoder(graph, value, layers, heads)
    logits = classifier(graph, graph.take(value, 0, 1, "class_token"), classes)
    if distilled:
        distilled_token = graph.take(value, 1, 1, "distillation_token")
        distilled_logits = classifier(graph, distilled_token, classes, "distillation_head")
        logits = mean_of(graph, [logits, distilled_logits])
    graph.output(logits, "logits")


def encoder(graph: Builder, value: Value, layers: int, heads: int) -> Value:
    """Tokens (batch, tokens, width) through pre-norm blocks with perceptrons of four widths, and a last norm."""
    feed = partial(mlp, graph, hidden=4 * value.shape[-1])
    value = encoder_blocks(graph, value, layers, partial(encoder_attention, graph, heads=heads), feed, norm, "layer")
    return norm(graph, value, "norm")


def embed(graph: Builder, pixels: Value, width: int, patch: int, extra_tokens: list[str]) -> Value:
    """Patch tokens after the extra learned tokens, with learned positions: (batch, tokens, width)."""
    with graph.scope("embedding"):
        patches = patch_embedding(graph, pixels, width, patch, "patches")
        batch = patches.shape[0]
        extras = [learned_token(graph, f"{name}_token", batch, width) for name in extra_tokens]
        value = graph.concat([*extras, patches], 1, "tokens")
        return positioned(graph, value)
