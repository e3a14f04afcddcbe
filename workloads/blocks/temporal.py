"""Convolutions along a sequence: (batch, channels, length), or (batch, tokens, channels) for the short causal ones."""

from __future__ import annotations

from typing import Literal

from workloads.builder import Builder, Value

Padding = int | Literal["same", "causal"]


def temporal_convolution(
    graph: Builder,
    value: Value,
    channels: int,
    kernel: int,
    name: str,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
) -> Value:
    """A convolution of (batch, channels, length). `padding` is a number of positions on each side; "same" keeps the
    length at stride 1, an odd position at the end; "causal" puts all before, so that no output sees a later input."""
    reach = (kernel - 1) * dilation
    pads = {"same": (reach // 2, reach - reach // 2), "causal": (reach, 0)}
    before, after = pads[padding] if isinstance(padding, str) else (padding, padding)
    length = (value.shape[2] + before + after - reach - 1) // stride + 1
    with graph.scope(name):
        inputs = [value, graph.weight("weight", channels, value.shape[1] // groups, kernel)]
        inputs += [graph.weight("bias", channels)] if bias else []
        [result] = graph.node(
            "Conv",
            inputs,
            [(value.shape[0], channels, length)],
            kernel_shape=[kernel],
            strides=[stride],
            pads=[before, after],
            dilations=[dilation],
            group=groups,
        )
        return result


def short_convolution(
    graph: Builder, value: Value, kernel: int, name: str, past: Value | None = None, bias: bool = True
) -> tuple[Value, Value]:
    """A causal depthwise convolution of (batch, tokens, channels), after the `kernel` - 1 tokens `past`, zeros when
    absent (batch, channels, kernel - 1). Returns the result and the past of the next token."""
    channels = value.shape[-1]
    with graph.scope(name):
        window = graph.transpose(value, (0, 2, 1), "channels_first")
        if past is None and window.shape[2] < kernel - 1:
            window = _padded(graph, window, kernel - 1 - window.shape[2])
            missing = window.shape[2] - value.shape[1]
        else:
            missing = 0
        if past is not None:
            window = graph.concat([past, window], 2, "window")
        present = graph.slice(window, window.shape[2] - (kernel - 1), window.shape[2], 2, "present")
        padding: Padding = 0 if past is not None else "causal"
        mixed = temporal_convolution(graph, window, channels, kernel, "depthwise", 1, padding, 1, channels, bias)
        if missing:
            mixed = graph.slice(mixed, missing, mixed.shape[2], 2, "real")
        return graph.transpose(mixed, (0, 2, 1), "tokens_first"), present


def _padded(graph: Builder, value: Value, count: int) -> Value:
    shape = (*value.shape[:2], value.shape[2] + count)
    [result] = graph.node("Pad", [value, graph.integers("pads", [0, 0, count, 0, 0, 0])], [shape], "padded")
    return result


def reverse(graph: Builder, value: Value, axis: int, name: str = "reversed") -> Value:
    """`value` with the order along `axis` turned round."""
    lowest = -(2**31)
    bounds = [
        graph.integers(f"{name}.{part}", [at])
        for part, at in (("start", value.shape[axis] - 1), ("stop", lowest), ("axis", axis), ("step", -1))
    ]
    [result] = graph.node("Slice", [value, *bounds], [value.shape], name)
    return result
