"""SSAMBA: selective scans of a spectrogram's patches, both ways. Shams et al., SLT 2024 (arXiv:2405.11831)."""

from __future__ import annotations

from workloads.blocks.audio import spectrogram_tokens
from workloads.blocks.dense import layer_norm
from workloads.blocks.recurrence import Form
from workloads.blocks.state_space import Selective, mamba_mixer
from workloads.builder import Builder
from workloads.registry import variants

EPSILON = 1e-5

VARIANTS = {"ssamba_tiny": {"width": 192}, "ssamba_small": {"width": 384}, "ssamba_base": {"width": 768}}

REDUCED = {"ssamba_tiny": {"mel_bins": 32, "frames": 64, "width": 32, "layers": 2}}


@variants(VARIANTS, REDUCED)
def ssamba(
    graph: Builder,
    batch: int,
    mel_bins: int,
    frames: int,
    *,
    width: int,
    layers: int = 24,
    form: Form = "recurrent",
    patch: int = 16,
) -> None:
    """A log-mel spectrogram (batch, 1, mel bins, frames) to the mean of its encoded tokens (batch, width)."""
    sizes = Selective(inner=2 * width, state=16, kernel=4, rank=-(-width // 16))
    spectrogram = graph.input("spectrogram", (batch, 1, mel_bins, frames))
    value = spectrogram_tokens(graph, spectrogram, width, (patch, patch), (patch, patch), ["class"])
    for layer in range(layers):
        with graph.scope(f"layer{layer}"):
            normed = layer_norm(graph, value, "norm", EPSILON)
            mixed, _ = mamba_mixer(graph, normed, sizes, form, bidirectional=True)
            value = graph.add(value, mixed, "residual")
    graph.output(graph.mean(layer_norm(graph, value, "norm", EPSILON), [1], "pool"), "features")
