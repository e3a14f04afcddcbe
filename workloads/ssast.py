"""SSAST: a transformer over the patches or frames of a spectrogram, with DeiT's two extra tokens.

Gong et al., AAAI 2022 (arXiv:2110.09784). A task's network reads overlapping patches and classifies their mean.
"""

from __future__ import annotations

from workloads.blocks.audio import spectrogram_tokens
from workloads.blocks.dense import classifier, layer_norm
from workloads.builder import Builder
from workloads.registry import Table, variants
from workloads.vit import encoder

VARIANTS: Table = {
    "ssast_tiny": {"width": 192, "heads": 3},
    "ssast_small": {"width": 384, "heads": 6},
    "ssast_base": {},
    "ssast_base_frame": {"patch": (128, 2), "stride": (128, 2)},
    "finetune_esc50": {"stride": (10, 10), "classes": 50},
    "finetune_audioset": {"stride": (10, 10), "classes": 527},
    "finetune_speechcommands": {"patch": (128, 2), "stride": (128, 1), "classes": 35},
}

REDUCED = {
    "ssast_tiny": {"mel_bins": 32, "frames": 64, "width": 48, "layers": 2},
    "finetune_esc50": {"mel_bins": 32, "frames": 64, "width": 48, "layers": 2, "heads": 3},
}


@variants(VARIANTS, REDUCED)
def ssast(
    graph: Builder,
    batch: int,
    mel_bins: int,
    frames: int,
    *,
    width: int = 768,
    heads: int = 12,
    layers: int = 12,
    patch: tuple[int, int] = (16, 16),
    stride: tuple[int, int] = (16, 16),
    classes: int = 0,
) -> None:
    """A log-mel spectrogram (batch, 1, mel bins, frames) to its encoded tokens (batch, tokens, width), or with a task
    to logits (batch, classes)."""
    spectrogram = graph.input("spectrogram", (batch, 1, mel_bins, frames))
    value = spectrogram_tokens(graph, spectrogram, width, patch, stride, ["class", "distillation"])
    value = encoder(graph, value, layers, heads)
    if not classes:
        graph.output(value, "tokens")
        return
    pooled = graph.mean(graph.slice(value, 2, value.shape[1], 1, "patches"), [1], "pool")
    graph.output(classifier(graph, layer_norm(graph, pooled, "head/norm", 1e-5), classes), "logits")
