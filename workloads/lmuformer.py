"""LMUFormer: a convolutional stem, one Legendre memory unit, a feed-forward part; also with spiking neurons.

Liu et al., ICLR 2024 (arXiv:2402.04882); the memory of Voelker et al., NeurIPS 2019. The memory is a fixed linear
recurrence: "parallel" convolves with its impulse response by Fourier transforms, "recurrent" is a Scan.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from workloads.blocks.activation import activate
from workloads.blocks.convolution import batch_norm
from workloads.blocks.dense import linear
from workloads.blocks.spiking import leaky_integrate_and_fire
from workloads.blocks.temporal import temporal_convolution
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

VARIANTS: Table = {
    "lmuformer": {},
    "spiking_lmuformer": {"spiking": True, "memory": 512},
    "attn_ms_conv1d": {"spiking": True, "mixer": "attention"},
}

SMALL = {"frames": 12, "mel_bins": 8, "width": 32, "memory": 8, "theta": 8.0, "classes": 5}
REDUCED: Table = {name: {**SMALL, "heads": 4} for name in VARIANTS}


@variants(VARIANTS, REDUCED)
def lmuformer(
    graph: Builder,
    batch: int,
    mel_bins: int,
    frames: int,
    *,
    spiking: bool = False,
    mixer: Literal["memory", "attention"] = "memory",
    form: Literal["parallel", "recurrent"] = "parallel",
    width: int = 256,
    memory: int = 256,
    theta: float = 128.0,
    heads: int = 16,
    classes: int = 35,
) -> None:
    """A log-mel spectrogram (batch, mel bins, frames) to logits (batch, classes), the mean of those of each frame."""
    value = _stem(graph, graph.input("spectrogram", (batch, mel_bins, frames)), width, spiking)

    def fire(inner: Value, name: str, threshold: float = 1.0) -> Value:
        return _spikes(graph, inner, name, threshold) if spiking else inner

    with graph.scope("mixer"):
        if mixer == "memory":
            read = legendre_memory(graph, fire(value, "input", 0.5), memory, width, theta, form)
            mixed = temporal_convolution(graph, fire(read, "read"), width, 1, "project")
        else:
            mixed = spiking_attention(graph, fire(value, "input", 0.5), heads)
        value = graph.add(value, mixed if spiking else batch_norm(graph, mixed), "residual")
    with graph.scope("mlp"):
        inner = temporal_convolution(graph, fire(value, "input"), 4 * width, 1, "up")
        inner = fire(inner, "hidden") if spiking else activate(graph, batch_norm(graph, inner, "norm1"), "gelu")
        outer = temporal_convolution(graph, inner, width, 1, "down")
        outer = outer if spiking else activate(graph, batch_norm(graph, outer, "norm2"), "relu")
        value = graph.add(value, outer, "residual")
    value = graph.transpose(fire(value, "output"), (0, 2, 1), "frames")
    graph.output(graph.mean(linear(graph, value, classes, "head"), [1], "mean_logits"), "logits")


def _stem(graph: Builder, value: Value, width: int, spiking: bool) -> Value:
    """Four convolutions over time, and a residual one for the position."""
    with graph.scope("stem"):
        for index in range(4):
            value = temporal_convolution(graph, value, width, 3, f"convolution{index}", padding=1, bias=False)
            if spiking:
                value = batch_norm(graph, value, f"norm{index}")
                value = leaky_integrate_and_fire(graph, value, 2, name=f"neurons{index}") if index < 3 else value
            else:
                value = batch_norm(graph, activate(graph, value, "relu"), f"norm{index}")
        source = leaky_integrate_and_fire(graph, value, 2, name="neurons_position") if spiking else value
        place = temporal_convolution(graph, source, width, 3, "position", padding=1, bias=False)
        return graph.add(value, place, "positioned")


def _spikes(graph: Builder, value: Value, name: str, threshold: float) -> Value:
    with graph.scope(name):
        return leaky_integrate_and_fire(graph, batch_norm(graph, value), 2, threshold)


def legendre_matrices(memory: int, theta: float) -> tuple[Array, Array]:
    """The recurrence m_t = A m_(t-1) + B u_t that keeps the Legendre coefficients of the last `theta` inputs, with the
    input held between steps: A (memory, memory) and B (memory)."""
    order = np.arange(memory)
    row, column = order[:, None], order[None, :]
    sign = np.where(row < column, -1.0, (-1.0) ** (row - column + 1))
    rate = (2 * order + 1)[:, None] * sign / theta
    drive = (2 * order + 1) * (-1.0) ** order / theta
    held = np.zeros((memory + 1, memory + 1))
    held[:memory, :memory], held[:memory, memory] = rate, drive
    step = _exponential(held)
    return step[:memory, :memory], step[:memory, memory]


def _exponential(matrix: Array) -> Array:
    """The exponential of a matrix by its Taylor series, scaled and squared."""
    halvings = max(0, int(np.ceil(np.log2(max(np.abs(matrix).sum(axis=1).max(), 1e-9)))) + 4)
    scaled = matrix / 2.0**halvings
    term = total = np.eye(len(matrix))
    for order in range(1, 20):
        term = term @ scaled / order
        total = total + term
    for _ in range(halvings):
        total = total @ total
    return total


def legendre_memory(
    graph: Builder, value: Value, memory: int, width: int, theta: float, form: Literal["parallel", "recurrent"]
) -> Value:
    """relu(W [m; x]) of the memory m of one learned signal of x, (batch, channels, frames): (batch, width, frames)."""
    transition, drive = legendre_matrices(memory, theta)
    tokens = graph.transpose(value, (0, 2, 1), "tokens")
    with graph.scope("memory"):
        signal = activate(graph, linear(graph, tokens, 1, "signal"), "relu")
        if form == "recurrent":
            states = _recurrent_memory(graph, signal, transition, drive)
        else:
            states = _convolved_memory(graph, signal, transition, drive)
        hidden = linear(graph, graph.concat([states, tokens], 2, "memory_and_input"), width, "read")
        return graph.transpose(activate(graph, hidden, "relu"), (0, 2, 1), "channels")


def _recurrent_memory(graph: Builder, signal: Value, transition: Array, drive: Array) -> Value:
    batch, memory = signal.shape[0], len(drive)
    step_matrix = graph.constant("transition", transition.T.astype(np.float32))
    into = graph.constant("drive", drive.astype(np.float32)[None])
    shape = (batch, memory)
    start = graph.zeros("empty", shape)

    def step(states: list[Value], slices: list[Value]) -> tuple[list[Value], list[Value]]:
        kept = graph.matmul(states[0], step_matrix, "kept")
        after = graph.add(kept, graph.multiply(slices[0], into, "driven"), "memory")
        return [after], [after]

    _, [states] = graph.scan(step, [start], [signal], axis=1, name="steps")
    return states


def _convolved_memory(graph: Builder, signal: Value, transition: Array, drive: Array) -> Value:
    """The same by Fourier transforms of twice the length: m = irfft(rfft(u) rfft(h)) of the impulse response h."""
    batch, frames, _ = signal.shape
    memory, length = len(drive), 2 * frames
    response = np.empty((frames, memory))
    response[0] = drive
    for frame in range(1, frames):
        response[frame] = transition @ response[frame - 1]
    spectrum = np.fft.fft(response, length, axis=0)
    response_parts = [graph.constant(name, part.astype(np.float32)[None]) for name, part in
                      (("response_real", spectrum.real), ("response_imaginary", spectrum.imag))]  # fmt: skip
    padded = graph.pad(signal, {1: (0, frames)}, "padded")
    axis = graph.integers("axis", 1)
    [transformed] = graph.node("DFT", [padded, None, axis], [(batch, length, 2)], "transform")
    real, imaginary = graph.split(transformed, 2, name="parts")

    def product(left: int, right: int, kind: str) -> Value:
        parts = (real, imaginary)
        one = graph.multiply(parts[0], response_parts[left])
        return graph.binary(kind, one, graph.multiply(parts[1], response_parts[right]), "product")

    multiplied = [product(0, 1, "Sub"), product(1, 0, "Add")]
    joined = graph.concat([graph.unsqueeze(part, [-1], "part") for part in multiplied], 3, "complex")
    [back] = graph.node("DFT", [joined, None, axis], [(batch, length, memory, 2)], "inverse", inverse=1)
    states = graph.slice(back, 0, frames, 1, "frames")
    return graph.reshape(graph.slice(states, 0, 1, 3, "real"), (batch, frames, memory), "memory")


def spiking_attention(graph: Builder, value: Value, heads: int, scale: float = 0.25) -> Value:
    """Attention of spikes (batch, channels, frames) without a softmax: scale x (q k^T) v of spiking q, k and v."""
    batch, width, frames = value.shape
    parts = []
    for role in ("query", "key", "value"):
        projected = temporal_convolution(graph, value, width, 1, role, bias=False)
        spikes = _spikes(graph, projected, f"{role}_neurons", 1.0)
        cut = graph.reshape(spikes, (batch, heads, width // heads, frames), f"{role}_heads")
        parts.append(graph.transpose(cut, (0, 1, 3, 2), role))
    query, key, content = parts
    scores = graph.matmul(query, graph.transpose(key, (0, 1, 3, 2)), "scores")
    context = graph.multiply(graph.matmul(scores, content, "context"), graph.scalar("scale", scale), "scaled")
    joined = graph.reshape(graph.transpose(context, (0, 1, 3, 2)), (batch, width, frames), "joined")
    spikes = leaky_integrate_and_fire(graph, joined, 2, 0.5, name="context_neurons")
    return batch_norm(graph, temporal_convolution(graph, spikes, width, 1, "output", bias=False), "output_norm")
