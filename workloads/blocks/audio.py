"""Spectrograms as tokens."""

from __future__ import annotations

from collections.abc import Sequence

from codesign.errors import BadParameter
from workloads.blocks.convolution import convolution
from workloads.blocks.embedding import learned_token, tokens_of
from workloads.builder import Builder, Value


def spectrogram_tokens(
    graph: Builder,
    spectrogram: Value,
    width: int,
    patch: tuple[int, int],
    stride: tuple[int, int],
    extra_tokens: Sequence[str],
) -> Value:
    """Patches of a spectrogram (batch, 1, mel bins, frames) as tokens after the extra learned ones, with learned
    positions: (batch, tokens, width). Raises BadParameter when the spectrogram is smaller than a patch."""
    if any(extent < size for extent, size in zip(spectrogram.shape[2:], patch, strict=True)):
        raise BadParameter(f"workload '{graph.name}': a spectrogram of {spectrogram.shape[2:]} has no patch of {patch}")
    with graph.scope("embedding"):
        grid = convolution(graph, spectrogram, width, patch, "patches", stride, bias=True)
        patches = tokens_of(graph, grid)
        extras = [learned_token(graph, f"{name}_token", patches.shape[0], width) for name in extra_tokens]
        value = graph.concat([*extras, patches], 1, "tokens")
        return graph.add(value, graph.weight("positions", 1, *value.shape[1:]), "positioned")
