"""Convolutions: matrix products where a kernel has one element, implicit products, and direct depthwise kernels.

An implicit product (cuDNN's implicit GEMM) gathers its left operand from windows of the image: each element of the
kernel is a slice, or several, of k, so that few input channels leave slices mostly empty.
"""

from __future__ import annotations

import math

from codesign.hardware import MappedOp
from codesign.work import Contraction, Convolution
from hwmodels.gpu import instructions
from hwmodels.gpu.arithmetic import matrix_unit
from hwmodels.gpu.contraction import IMPLICIT, NARROW, SIMT, Product, contraction, tiled
from hwmodels.gpu.kernel import Kernel, Traffic
from hwmodels.gpu.parameters import GpuParameters
from hwmodels.gpu.streaming import streaming
from hwmodels.gpu.traffic import access_s, missed_bytes, once

CHANNEL_BYTES = 16
"""Input channels are read in whole vectors of this size; images with fewer are first padded to it."""

IMPLICIT_SIMT = SIMT.whole()

FEW_BYTES = 32
"""Bytes of the input channels up to which a kernel takes one position of the window after another."""

POSITION_LATENCIES = 2.0
"""Slice latencies of a position, whose address comes from a table in memory."""

POSITION_LOADS = 2.0
"""Loads of a position beside those of a slice of the same size: the table's."""

LARGE_WINDOW = 49
"""Positions from which windows are too large for the tables that the fast kernels keep: 7 x 7."""

OLD_RATE = 0.6
"""What products of warps reach of a Hopper SM's tfloat32 rate, in the kernels of the generation before."""

TAP_LATENCY = 0.17
"""Accesses to L2 of a tap and row of a depthwise window that nothing hides, for packed 16-bit numbers."""
IMAGE_TILE_ROUNDS = 2.5
"""Block-wide steps in which the kernel for several 16-bit images brings a tile of one into shared memory."""

WIDE_TAP_LATENCY = 0.3
"""The same of a tap, for wider numbers."""


def convolution(op: MappedOp, work: Contraction, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """Kernels of a convolution."""
    geometry = work.convolution
    assert geometry is not None
    if geometry.groups > 1 and work.k == math.prod(geometry.kernel):
        return (_depthwise(op, work, geometry, parameters),)
    if math.prod(geometry.kernel) == 1 and set(geometry.stride) == {1} and geometry.groups == 1:
        return contraction(op, work, parameters)
    return _implicit(op, work, geometry, parameters)


def _implicit(
    op: MappedOp, work: Contraction, geometry: Convolution, parameters: GpuParameters
) -> tuple[Kernel, ...]:
    unit = matrix_unit(parameters, work.dtype)
    family = IMPLICIT if unit.tensor else IMPLICIT_SIMT
    channels = geometry.input_channels // geometry.groups
    # A result of a transposed convolution with a stride meets only some positions of the window.
    positions = math.ceil(work.k / channels)
    vector = max(1, int(CHANNEL_BYTES // unit.element_bytes))
    depth = family.slice_bytes / unit.element_bytes
    padded = -(-channels // vector) * vector if unit.tensor else channels
    few = unit.tensor and padded * unit.element_bytes <= FEW_BYTES and positions > 1
    stem = few and geometry.kernel == (7, 7) and geometry.stride == (2, 2) and channels <= 4
    large = unit.tensor and positions >= LARGE_WINDOW and not stem
    slices = positions if few else math.ceil(padded * positions / depth)
    row_bytes = padded * unit.element_bytes * (1.0 if stem else POSITION_LOADS) if few else family.slice_bytes
    whole = not unit.tensor or (padded % depth == 0 and not large)
    old = large and work.dtype == "tfloat32"
    product = Product(
        batch=work.batch,
        m=work.m,
        n=work.n,
        slices=slices,
        feed=depth / padded if few else OLD_RATE if old else 1.0,
        slice_s=parameters.sm.slice_latency * (POSITION_LATENCIES if large or channels < vector else 1.0),
        start_s=0.0,
        gathered=0.0 if whole else row_bytes * (POSITION_LOADS if large and not few else 1.0),
    )
    kernels = tiled(op, work, product, unit, NARROW if few and not stem else family, parameters)
    if not (work.dtype == "tfloat32" and (few or large)):
        return kernels
    return _converted(op, work, channels, padded, parameters), *kernels


def _converted(op: MappedOp, work: Contraction, channels: int, padded: int, parameters: GpuParameters) -> Kernel:
    """The image copied with its numbers rounded and its channels padded, which the older kernels want."""
    image = work.reads[0]
    size = image.bytes * padded / channels
    traffic = Traffic(image.bytes, size, missed_bytes(op, parameters.l2), 0.0)
    elements = image.elements * padded / channels
    kernel = streaming("convert image", traffic, elements, instructions.STRIDED, parameters)
    return kernel.after(access_s(op, parameters))


def _depthwise(op: MappedOp, work: Contraction, geometry: Convolution, parameters: GpuParameters) -> Kernel:
    """A direct convolution of each channel: a thread walks over the taps of its results."""
    size = 2 if work.writes[0].bytes <= 2 * work.writes[0].elements else 4
    taps = math.prod(geometry.kernel)
    outputs = work.batch * work.m * work.n
    each = instructions.OUTPUT[size] + taps * instructions.TAP[size]
    kernel = streaming("depthwise convolution", once(op, parameters.l2), outputs, each, parameters)
    waits = taps * geometry.kernel[-1] * TAP_LATENCY if size == 2 else taps * WIDE_TAP_LATENCY
    tiled = size == 2 and work.m > math.prod(geometry.output_spatial)
    tiled_s = IMAGE_TILE_ROUNDS * parameters.sm.row_latency if tiled else 0.0
    return kernel.after(2 * access_s(op, parameters) + tiled_s).at_least(waits * parameters.l2.latency)
