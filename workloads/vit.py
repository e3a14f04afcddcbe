"""Vision Transformer and DeiT: patches as tokens, pre-norm blocks, a class token.

Dosovitskiy et al., ICLR 2021 (arXiv:2010.11929); Touvron et al., ICML 2021 (arXiv:2012.12877). The tiny and small
widths are DeiT's. At inference the distilled DeiT averages its class and distillation classifiers.
"""

from __future__ import annotations

from codesign.errors import BadParameter
from workloads.blocks.attention import self_attention
from workloads.blocks.dense import classifier, layer_norm, mlp
from workloads.blocks.embedding import learned_token, patch_embedding
from workloads.builder import Builder, Value
from workloads.registry import variants

EPSILON = 1e-6

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
    if image % patch:
        raise BadParameter(f"workload '{graph.name}': image = {image}; expected a multiple of the patch size {patch}")
    pixels = graph.input("pixels", (batch, 3, image, image))
    value = _embed(graph, pixels, width, patch, ["class", "distillation"] if distilled else ["class"])
    for layer in range(layers):
        with graph.scope(f"layer{layer}"):
            value = encoder_block(graph, value, heads)
    value = layer_norm(graph, value, "norm", EPSILON)
    logits = classifier(graph, graph.take(value, 0, 1, "class_token"), classes)
    if distilled:
        distilled_token = graph.take(value, 1, 1, "distillation_token")
        distilled_logits = classifier(graph, distilled_token, classes, "distillation_head")
        logits = graph.multiply(graph.add(logits, distilled_logits), graph.scalar("half", 0.5), "mean_logits")
    graph.output(logits, "logits")


def encoder_block(graph: Builder, value: Value, heads: int) -> Value:
    """x + attention(norm(x)), then x + mlp(norm(x)) with a hidden layer of four widths."""
    attended, _ = self_attention(graph, layer_norm(graph, value, "norm1", EPSILON), heads)
    value = graph.add(value, attended, "residual1")
    hidden = mlp(graph, layer_norm(graph, value, "norm2", EPSILON), 4 * value.shape[-1])
    return graph.add(value, hidden, "residual2")


def _embed(graph: Builder, pixels: Value, width: int, patch: int, extra_tokens: list[str]) -> Value:
    """Patch tokens after the extra learned tokens, with learned positions: (batch, tokens, width)."""
    with graph.scope("embedding"):
        patches = patch_embedding(graph, pixels, width, patch, "patches")
        batch = patches.shape[0]
        extras = [learned_token(graph, f"{name}_token", batch, width) for name in extra_tokens]
        value = graph.concat([*extras, patches], 1, "tokens")
        return graph.add(value, graph.weight("positions", 1, *value.shape[1:]), "positioned")
