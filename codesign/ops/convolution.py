"""Convolution and its transpose, of any spatial rank, groups and dilation included."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from codesign.graph import Op
from codesign.ops.activations import ACTIVATIONS
from codesign.ops.arguments import bad, narrowed, operands, optional, required, text, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.window import Window, padding, per_axis, window
from codesign.work import Contraction, Convolution, Work


def convolution_window(op: Op, image: tuple[int, ...], weights: tuple[int, ...]) -> tuple[Window, int]:
    """The window and the number of groups. Raises BadModel when image, weights and attributes do not fit together."""
    if len(image) < 3 or len(weights) != len(image):
        raise bad(
            op, f"expected (batch, channels, spatial...) and weights of that rank, got {list(image)}, {list(weights)}"
        )
    groups = int(op.attributes.get("group", 1))
    if groups < 1 or image[1] != weights[1] * groups or weights[0] % groups:
        raise bad(op, f"{image[1]} input channels, weights {list(weights)} and {groups} groups do not fit together")
    kernel = tuple(op.attributes.get("kernel_shape", ()) or weights[2:])
    if kernel != tuple(weights[2:]):
        raise bad(op, f"attribute 'kernel_shape' {list(kernel)} differs from the weights' {list(weights[2:])}")
    found = window(op, image[2:], kernel)
    if any(extent < 1 for extent in found.outputs(image[2:])):
        raise bad(op, f"kernel reach {list(found.reach)} is larger than the padded input {list(image[2:])}")
    return found, groups


def convolution_shape(op: Op, image: tuple[int, ...], weights: tuple[int, ...]) -> tuple[int, ...]:
    found, _ = convolution_window(op, image, weights)
    return (image[0], weights[0], *found.outputs(image[2:]))


def convolution(op: Op, image: Array, weights: Array, bias: Array | None = None) -> Array:
    """The convolution of `op`, in the arrays' own element type."""
    from codesign.executor.kernels.convolution import convolve

    found, groups = convolution_window(op, image.shape, weights.shape)
    wide = widened(image)
    offset = None if bias is None else widened(bias).astype(wide.dtype, copy=False)
    return narrowed(convolve(wide, widened(weights), found, groups, offset), image.dtype)


def _add_bias(result: Array, bias: Array | None) -> Array:
    if bias is not None:
        result += bias.reshape(-1, *(1,) * (result.ndim - 2))
    return result


def convolution_work(
    op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value], image_index: int = 0, weight_index: int = 1
) -> Contraction:
    """The Contraction of a convolution; operands other than image and weights are read after them."""
    image, weights = required(op, inputs, image_index, "X"), required(op, inputs, weight_index, "W")
    found, groups = convolution_window(op, image.shape, weights.shape)
    spatial = found.outputs(image.shape[2:])
    others = [index for index in range(len(inputs)) if index not in (image_index, weight_index)]
    return Contraction(
        kind=op.kind,
        reads=operands(inputs, image_index, weight_index, *others),
        writes=tuple(output.operand() for output in outputs),
        batch=groups,
        m=image.shape[0] * math.prod(spatial),
        n=weights.shape[0] // groups,
        k=weights.shape[1] * math.prod(found.kernel),
        dtype=image.dtype,
        convolution=_geometry(found, groups, image.shape, (image.shape[0], weights.shape[0], *spatial)),
    )


def _geometry(
    found: Window, groups: int, image: tuple[int, ...], result: tuple[int, ...], transposed: bool = False
) -> Convolution:
    return Convolution(
        input_spatial=image[2:],
        output_spatial=result[2:],
        kernel=found.kernel,
        stride=found.stride,
        dilation=found.dilation,
        groups=groups,
        input_channels=image[1],
        output_channels=result[1],
        transposed=transposed,
    )


@operator("Conv")
class Conv(Operator):
    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        image, weights = required(op, inputs, 0, "X"), required(op, inputs, 1, "W")
        return [(convolution_shape(op, image.shape, weights.shape), image.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        return [convolution(op, required(op, inputs, 0, "X"), required(op, inputs, 1, "W"), optional(inputs, 2))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return convolution_work(op, inputs, outputs)


# The parameters that an activation takes from `activation_params`, in order. Clip is two comparisons.
_FUSED_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (), "Tanh": (), "Sigmoid": (), "LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": (),
    "HardSwish": (),
}  # fmt: skip
_CLIP_FLOPS = 2


@operator("FusedConv", domain="com.microsoft")
class FusedConv(Conv):
    """Convolution, plus an optional addend (input 3), then the activation named in the attributes."""

    @staticmethod
    def _activation(op: Op) -> tuple[Callable[[Array], Array] | None, float]:
        """The activation and what it costs an element; None when there is none."""
        name, given = text(op, "activation"), tuple(op.attributes.get("activation_params", ()))
        if not name:
            return None, 0.0
        if name not in _FUSED_ACTIVATIONS:
            raise bad(op, f"activation '{name}' is unknown; expected one of {', '.join(_FUSED_ACTIVATIONS)}")
        if name == "Clip":
            return (lambda values: np.clip(values, *map(values.dtype.type, given))), _CLIP_FLOPS
        parameters = dict(zip(_FUSED_ACTIVATIONS[name], given, strict=False))
        return partial(ACTIVATIONS[name].apply, Op(op.name, name, (), (), parameters)), ACTIVATIONS[name].flops

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        (result,) = super().compute(op, inputs)
        addend, (activation, _) = optional(inputs, 3), self._activation(op)
        result = result if addend is None else result + addend
        return [result if activation is None else activation(result)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        each = (optional(inputs, 3) is not None) + self._activation(op)[1]
        return replace(convolution_work(op, inputs, outputs), epilogue_flops=int(each * outputs[0].elements))


@operator("ConvTranspose")
class ConvTranspose(Operator):
    """Upsampling convolution; weights are (input channels, output channels / groups, kernel...)."""

    @staticmethod
    def _window(op: Op, image: tuple[int, ...], weights: tuple[int, ...]) -> tuple[Window, int, tuple[int, ...]]:
        """The window, the groups and the output's spatial extents."""
        rank = len(image) - 2
        groups = int(op.attributes.get("group", 1))
        if rank < 1 or len(weights) != len(image) or image[1] != weights[0] or groups < 1 or weights[0] % groups:
            raise bad(op, f"input {list(image)}, weights {list(weights)} and {groups} groups do not fit together")
        before, after = padding(op, rank)
        found = Window(
            tuple(weights[2:]), per_axis(op, "strides", rank, 1), per_axis(op, "dilations", rank, 1), before, after
        )
        extra = tuple(op.attributes.get("output_padding", ()) or (0,) * rank)
        swept = [
            (extent - 1) * step + reach + more
            for extent, step, reach, more in zip(image[2:], found.stride, found.reach, extra, strict=True)
        ]
        wanted = tuple(op.attributes.get("output_shape", ()))[-rank:]
        mode = str(op.attributes.get("auto_pad", "") or "NOTSET")
        if not wanted and mode.startswith("SAME"):
            wanted = tuple(extent * step for extent, step in zip(image[2:], found.stride, strict=True))
        if wanted:
            total = [max(full - size, 0) for full, size in zip(swept, wanted, strict=True)]
            small, large = tuple(pad // 2 for pad in total), tuple(pad - pad // 2 for pad in total)
            before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
        spatial = wanted or tuple(full - low - high for full, low, high in zip(swept, before, after, strict=True))
        if any(extent < 1 for extent in spatial):
            raise bad(op, f"padding {list(before)}, {list(after)} leaves nothing of the output")
        return Window(found.kernel, found.stride, found.dilation, before, after), groups, spatial

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        image, weights = required(op, inputs, 0, "X"), required(op, inputs, 1, "W")
        _, groups, spatial = self._window(op, image.shape, weights.shape)
        return [((image.shape[0], weights.shape[1] * groups, *spatial), image.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        from codesign.executor.kernels.convolution import convolve_transposed

        image, weights = required(op, inputs, 0, "X"), required(op, inputs, 1, "W")
        found, groups, spatial = self._window(op, image.shape, weights.shape)
        result = convolve_transposed(widened(image), widened(weights), found, groups, spatial)
        return [narrowed(_add_bias(result, optional(inputs, 2)), image.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        image, weights = required(op, inputs, 0, "X"), required(op, inputs, 1, "W")
        found, groups, _ = self._window(op, image.shape, weights.shape)
        return Contraction(
            kind=op.kind,
            reads=operands(inputs, 0, 1, 2),
            writes=(outputs[0].operand(),),
            batch=groups,
            m=image.shape[0] * math.prod(image.shape[2:]),
            n=weights.shape[1] * math.prod(found.kernel),
            k=weights.shape[0] // groups,
            dtype=image.dtype,
            convolution=_geometry(found, groups, image.shape, outputs[0].shape, transposed=True),
        )
