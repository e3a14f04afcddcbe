"""Waveforms to spectra and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from workloads.builder import Builder, Value


def hann(length: int) -> np.ndarray[Any, Any]:
    """The periodic Hann window."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


def short_time_fourier(graph: Builder, value: Value, window: int, hop: int, name: str = "stft") -> Value:
    """Spectra (rows, frames, window / 2 + 1, 2) of waveforms (rows, samples), half a window of zeros at each end."""
    with graph.scope(name):
        padded = graph.pad(value, {1: (window // 2, window // 2)}, "padded")
        frames = (padded.shape[1] - window) // hop + 1
        inputs = [
            graph.unsqueeze(padded, [2], "real"), graph.integers("hop", hop), graph.constant("window", hann(window)),
            graph.integers("length", window),
        ]  # fmt: skip
        shape = (value.shape[0], frames, window // 2 + 1, 2)
        return graph.node("STFT", inputs, [shape], onesided=1)[0]


def inverse_short_time_fourier(
    graph: Builder, real: Value, imaginary: Value, window: int, hop: int, samples: int, name: str = "istft"
) -> Value:
    """The reverse: spectra (rows, bins, frames) as real and imaginary parts to waveforms (rows, samples), windowed
    again, overlapped, added, and divided by the sum of the squared windows. One transposed convolution with the inverse
    transform for a kernel."""
    rows, bins, frames = real.shape
    angle = 2 * np.pi * np.outer(np.arange(bins), np.arange(window)) / window
    weight = np.where((np.arange(bins) == 0) | (np.arange(bins) == window // 2), 1.0, 2.0)[:, None] / window
    kernel = np.concatenate([weight * np.cos(angle), -weight * np.sin(angle)]) * hann(window)
    length = (frames - 1) * hop + window
    overlap = np.zeros(length)
    for frame in range(frames):
        overlap[frame * hop : frame * hop + window] += hann(window) ** 2
    with graph.scope(name):
        basis = graph.constant("basis", kernel[:, None].astype(np.float32))
        parts = graph.concat([real, imaginary], 1, "parts")
        [waves] = graph.node("ConvTranspose", [parts, basis], [(rows, 1, length)], strides=[hop], kernel_shape=[window])
        scale = graph.constant("overlap", (1 / np.maximum(overlap, 1e-8)).astype(np.float32))
        waves = graph.multiply(graph.reshape(waves, (rows, length), "waves"), scale, "normalised")
        kept = min(samples, length - window // 2)
        waves = graph.slice(waves, window // 2, window // 2 + kept, 1, "centred")
        return graph.pad(waves, {1: (0, samples - waves.shape[1])}, "whole")
