"""MossFormer: speech separation by gated single-head attention, exact in groups of frames and linear over all of them.

Zhao & Ma, ICASSP 2023 (arXiv:2302.11824). Every projection is followed by a residual depthwise convolution.
"""

from __future__ import annotations

from functools import partial

from workloads.blocks.activation import activate
from workloads.blocks.dense import layer_norm, linear
from workloads.blocks.positions import rotary_table, rotate, sinusoids
from workloads.blocks.temporal import temporal_convolution
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

VARIANTS: Table = {
    "mossformer_l": {"width": 512, "blocks": 24},
    "mossformer_m": {"width": 384, "blocks": 25},
    "mossformer_s": {"width": 256, "blocks": 24},
}
REDUCED: Table = {
    "mossformer_l": {"samples": 320, "width": 16, "blocks": 2, "keys": 8, "group": 16, "rotated": 4, "kernel": 5}
}


@variants(VARIANTS, REDUCED)
def mossformer(
    graph: Builder,
    batch: int,
    samples: int,
    *,
    width: int,
    blocks: int,
    keys: int = 128,
    group: int = 256,
    kernel: int = 17,
    rotated: int = 32,
    speakers: int = 2,
    encoder_kernel: int = 16,
) -> None:
    """A mixture (batch, samples) to the waveform of each speaker (batch, speakers, samples)."""
    mixture = graph.unsqueeze(graph.input("mixture", (batch, samples)), [1], "channel")
    stride = encoder_kernel // 2
    encoded = temporal_convolution(graph, mixture, width, encoder_kernel, "encoder", stride, bias=False)
    encoded = activate(graph, encoded, "relu")
    masks = _masks(graph, encoded, blocks, keys, group, kernel, rotated, speakers)
    separated = graph.multiply(graph.unsqueeze(encoded, [1], "mixture_features"), masks, "separated")
    frames = encoded.shape[2]
    rows = graph.reshape(separated, (batch * speakers, width, frames), "speakers")
    length = (frames - 1) * stride + encoder_kernel
    weights = [graph.weight("decoder/weight", width, 1, encoder_kernel)]
    [waves] = graph.node(
        "ConvTranspose", [rows, *weights], [(batch * speakers, 1, length)], "decoder", strides=[stride],
        kernel_shape=[encoder_kernel],
    )  # fmt: skip
    waves = graph.reshape(graph.pad(waves, {2: (0, samples - length)}, "whole"), (batch, speakers, samples), "waves")
    graph.output(waves, "waveforms")


def _masks(
    graph: Builder, encoded: Value, blocks: int, keys: int, group: int, kernel: int, rotated: int, speakers: int
) -> Value:
    """A mask for each speaker (batch, speakers, channels, frames)."""
    batch, width, frames = encoded.shape
    parameters = [graph.weight("norm/weight", width), graph.weight("norm/bias", width)]
    [normed] = graph.node("GroupNormalization", [encoded, *parameters], [encoded.shape], "norm", num_groups=1)
    value = graph.transpose(temporal_convolution(graph, normed, width, 1, "in", bias=False), (0, 2, 1), "frames")
    scale = graph.weight("position_scale", 1)
    skipped = value = graph.add(value, graph.multiply(sinusoids(graph, frames, width), scale), "positioned")
    for index in range(blocks):
        with graph.scope(f"block{index}"):
            value = gated_block(graph, value, keys, group, kernel, rotated)
    value = layer_norm(graph, value, "last_norm", 1e-6)
    with graph.scope("separator"):
        channels = graph.transpose(value, (0, 2, 1), "channels")
        parameters = [graph.weight("norm/weight", width), graph.weight("norm/bias", width)]
        [channels] = graph.node("GroupNormalization", [channels, *parameters], [channels.shape], "norm", num_groups=1)
        channels = graph.add(channels, graph.transpose(skipped, (0, 2, 1)), "skip")
        channels = activate(graph, channels, "prelu")
        split = temporal_convolution(graph, channels, speakers * width, 1, "speakers")
        rows = graph.reshape(split, (batch * speakers, width, frames), "rows")
        branches = [
            activate(graph, temporal_convolution(graph, rows, width, 1, name), name) for name in ("tanh", "sigmoid")
        ]
        mask = temporal_convolution(graph, graph.multiply(branches[0], branches[1]), width, 1, "mask", bias=False)
        return graph.reshape(activate(graph, mask, "relu"), (batch, speakers, width, frames), "masks")


def gated_block(graph: Builder, value: Value, keys: int, group: int, kernel: int, rotated: int) -> Value:
    """x + convolved((A_u * v) * sigmoid(A_v * u)) for attention results A of v and of u, (batch, frames, width)."""
    width = value.shape[-1]
    convolved = partial(convolved_linear, graph, kernel=kernel)
    shifted = shift_half(graph, value)
    gates = convolved(shifted, 4 * width, name="hidden")
    content, gate = graph.split(gates, 2, name="content_gate")
    shared = convolved(shifted, keys, name="keys")
    attended = joint_attention(graph, shared, gates, group, rotated)
    of_content, of_gate = graph.split(attended, 2, name="attended")
    opened = graph.unary("Sigmoid", graph.multiply(of_content, gate), "opened")
    mixed = graph.multiply(graph.multiply(of_gate, content), opened, "gated")
    return graph.add(value, convolved(mixed, width, name="out"), "residual")


def shift_half(graph: Builder, value: Value) -> Value:
    """Half of the channels one frame later."""
    first, second = graph.split(value, 2, name="halves")
    later = graph.slice(graph.pad(first, {1: (1, 0)}, "delayed"), 0, value.shape[1], 1, "later")
    return graph.concat([later, second], 2, "shifted")


def convolved_linear(graph: Builder, value: Value, features: int, kernel: int, name: str) -> Value:
    """A norm by length, a linear layer and SiLU, plus a depthwise convolution of the result."""
    with graph.scope(name):
        width = value.shape[-1]
        unit = graph.unary("LpNormalization", value, "unit", axis=-1, p=2)
        scale = graph.multiply(graph.weight("scale", 1), graph.scalar("root_width", width**0.5), "norm_scale")
        inner = activate(graph, linear(graph, graph.multiply(unit, scale, "normed"), features, "linear"), "silu")
        channels = graph.transpose(inner, (0, 2, 1), "channels")
        mixed = temporal_convolution(
            graph, channels, features, kernel, "depthwise", padding="same", groups=features, bias=False
        )
        return graph.add(inner, graph.transpose(mixed, (0, 2, 1), "frames"), "convolved")


def joint_attention(graph: Builder, shared: Value, value: Value, group: int, rotated: int) -> Value:
    """relu(q k^T / group)^2 v inside groups plus q (k^T v) / frames over all, by four scaled and shifted copies of
    `shared` (batch, frames, keys); `value` (batch, frames, features)."""
    batch, frames, keys = shared.shape
    groups = -(-frames // group)
    rotation = graph.once("rotation", lambda: rotary_table(graph, batch, frames, 0, keys, 10_000.0, min(rotated, keys)))
    copies = {}
    for role in ("quadratic_query", "linear_query", "quadratic_key", "linear_key"):
        affine = graph.multiply(shared, graph.weight(f"{role}/scale", keys), f"{role}/scaled")
        affine = graph.add(affine, graph.weight(f"{role}/offset", keys), f"{role}/shifted")
        turned = rotate(graph, graph.unsqueeze(affine, [1], f"{role}/head"), rotation, role)
        copies[role] = _padded_groups(graph, graph.reshape(turned, shared.shape, f"{role}/frames"), groups, group)
    content = _padded_groups(graph, value, groups, group)
    keys_turned = graph.transpose(copies["quadratic_key"], (0, 1, 3, 2), "keys_transposed")
    scores = graph.matmul(copies["quadratic_query"], keys_turned, "scores")
    scores = activate(graph, graph.multiply(scores, graph.scalar("per_group", 1 / group)), "squared_relu")
    exact = graph.matmul(scores, content, "exact")
    flat = [graph.reshape(part, (batch, groups * group, part.shape[-1]), "flat") for part in
            (copies["linear_query"], copies["linear_key"], content)]  # fmt: skip
    summary = graph.matmul(graph.transpose(flat[1], (0, 2, 1)), flat[2], "summary")
    summary = graph.multiply(summary, graph.scalar("per_frame", 1 / frames), "mean_summary")
    total = graph.add(
        graph.reshape(exact, flat[2].shape, "exact_frames"), graph.matmul(flat[0], summary, "linear"), "joint"
    )
    return graph.slice(total, 0, frames, 1, "frames")


def _padded_groups(graph: Builder, value: Value, groups: int, group: int) -> Value:
    batch, frames, features = value.shape
    padded = graph.pad(value, {1: (0, groups * group - frames)}, "padded")
    return graph.reshape(padded, (batch, groups, group, features), "groups")
