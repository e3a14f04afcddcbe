"""Matrix products and convolutions: thread-block tiles, split-K and waves over the SMs.

The tile is the one of a table with the least estimated time, as a matrix library's heuristics choose. All terms of the
estimate grow with m, n and k for each tile, so the least over the table grows with them too.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from codesign.hardware import MappedOp
from codesign.work import Contraction
from hwmodels.gpu.arithmetic import Unit, matrix_unit, vector_unit
from hwmodels.gpu.kernel import SLICES, Kernel, Traffic, dynamic_power_W
from hwmodels.gpu.memory_bound import streaming
from hwmodels.gpu.parameters import GpuParameters
from hwmodels.gpu.traffic import missed_bytes, once, panel_rereads, written_back

PARTIAL_BYTES = 4
"""Split-K partial sums are float32."""

VECTOR_BYTES = 16
"""Largest access of one thread."""

SLICE_BYTES = 128
"""Depth of a k-slice in shared memory: one 128-byte swizzled row of each operand."""


Floats = np.ndarray[Any, np.dtype[np.float64]]

_TENSOR_TILES = (
    (256, 128, 2), (128, 256, 2), (128, 128, 2), (128, 128, 1), (256, 64, 1), (64, 256, 1), (128, 64, 1),
    (64, 128, 1), (64, 64, 1), (64, 32, 1), (32, 64, 1), (128, 32, 1), (32, 128, 1), (64, 16, 1), (16, 64, 1),
    (128, 16, 1), (16, 128, 1), (32, 32, 1), (16, 32, 1), (32, 16, 1),
)  # fmt: skip
_SIMT_TILES = (
    (128, 128, 1), (128, 64, 1), (64, 128, 1), (64, 64, 1), (128, 32, 1), (32, 128, 1), (64, 32, 1), (32, 64, 1),
    (32, 32, 1), (16, 128, 1), (128, 16, 1), (16, 32, 1), (32, 16, 1), (8, 64, 1), (64, 8, 1),
)  # fmt: skip
_SPLITS = (1, 2, 4, 8, 16, 32)


def _combinations(tiles: tuple[tuple[int, int, int], ...], splits: tuple[int, ...]) -> Floats:
    """(4, N) rows, columns, cluster size and splits of every combination."""
    return np.array([(*tile, split) for split in splits for tile in tiles], dtype=np.float64).T


_TENSOR = _combinations(_TENSOR_TILES, _SPLITS)
_TENSOR_WHOLE = _combinations(_TENSOR_TILES, (1,))
_SIMT = _combinations(_SIMT_TILES, (1,))


def contraction(op: MappedOp, work: Contraction, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """Kernels of a matrix product or convolution. A product with a vector may run as dot products, a grouped
    convolution as a direct one, both on the SIMT units; the faster by the estimate is taken."""
    options = [_product(op, work, parameters)]
    if min(work.m, work.n) == 1 and work.convolution is None:
        options.append(_dot_products(op, work, parameters))
    if work.convolution is not None and work.convolution.groups > 1:
        options.append(_direct(op, work, parameters))
    return min(options, key=lambda kernels: _seconds(kernels, parameters))


def _spatial(work: Contraction) -> bool:
    """Whether operands are gathered from windows of an image, element by element of the k loop."""
    return work.convolution is not None and math.prod(work.convolution.kernel) > 1


def _depth(work: Contraction, unit: Unit) -> int:
    """Length of the k loop: tensor cores read a convolution's channels in whole 16-byte vectors."""
    if work.convolution is None or not unit.tensor:
        return work.k
    positions = math.prod(work.convolution.kernel)
    channels = work.k // positions
    vector = max(1, int(VECTOR_BYTES // unit.element_bytes))
    return -(-channels // vector) * vector * positions


def _feed(work: Contraction, unit: Unit, parameters: GpuParameters) -> float:
    """Fraction of the tensor cores' rate that loads and stores of the operands' alignment can feed."""
    if not unit.tensor:
        return 1.0
    inner = work.k if work.convolution is None else work.n
    alignment = math.gcd(inner, work.n, VECTOR_BYTES) * unit.element_bytes
    return min(1.0, alignment / parameters.sm.aligned_bytes)


def _product(op: MappedOp, work: Contraction, parameters: GpuParameters) -> tuple[Kernel, ...]:
    unit = matrix_unit(parameters, work.dtype)
    left, right = (operand.bytes / work.batch for operand in work.reads[:2])
    rereads = work.batch * panel_rereads(left, right, parameters.l2)
    dram_read = sum(missed_bytes(op, parameters.l2)) + rereads
    dram_write = written_back(op, parameters.l2)
    pipelined = unit.tensor and not _spatial(work)
    rows, columns, cluster, splits = _TENSOR if pipelined else _TENSOR_WHOLE if unit.tensor else _SIMT
    block_s = _block_seconds(work, unit, parameters, rows, columns, splits)
    blocks = work.batch * np.ceil(work.m / rows) * np.ceil(work.n / columns) * splits
    l2_read = _operand_loads(work, unit, rows, columns, cluster)
    waves = np.ceil(blocks / parameters.sm.count)
    partial_bytes = np.where(splits > 1, PARTIAL_BYTES * work.batch * work.m * work.n * splits, 0.0)
    output_bytes = max(1, work.write_bytes)
    l2_write = np.where(splits > 1, partial_bytes, output_bytes)
    l2_s = np.maximum(l2_read, l2_write) / parameters.l2.bandwidth
    dram_rate = parameters.dram.bandwidth * parameters.achieved.dram
    dram_s = (dram_read + dram_write) / dram_rate
    first_s = np.maximum(l2_s, dram_s) / (waves * SLICES)
    last_s = np.maximum(l2_write / parameters.l2.bandwidth, dram_write / dram_rate) / waves
    compute_J = unit.joules * 2 * work.macs + parameters.energy.vector * work.epilogue_flops
    compute_s = np.maximum(waves * block_s, compute_J / dynamic_power_W(parameters))
    reduction_s = np.where(splits > 1, parameters.launch.start + 2 * parameters.l2.latency, 0.0)
    reduction_s = reduction_s + partial_bytes / parameters.l2.bandwidth
    seconds = np.maximum(compute_s, np.maximum(l2_s, dram_s)) + first_s + last_s + reduction_s
    best = int(np.argmin(seconds))
    main = Kernel(
        label=f"matrix multiply {int(rows[best])}x{int(columns[best])}",
        blocks=int(blocks[best]),
        block_s=float(block_s[best]),
        latency_s=parameters.sm.product_fill,
        traffic=Traffic(float(l2_read[best]), float(l2_write[best]), dram_read, dram_write if splits[best] == 1 else 0),
        compute_J=compute_J,
        component=unit.component,
    )
    if splits[best] == 1:
        return (main,)
    sum_partials = streaming(
        "sum split-K parts",
        Traffic(float(partial_bytes[best]), output_bytes, 0.0, dram_write),
        elements=work.batch * work.m * work.n,
        instructions=parameters.sm.stream_instructions + float(splits[best]),
        parameters=parameters,
    )
    return main, sum_partials


def _block_seconds(
    work: Contraction, unit: Unit, parameters: GpuParameters, rows: Floats, columns: Floats, splits: Floats
) -> Floats:
    """Seconds of a block: the slowest of arithmetic, shared memory and its share of the L2 port, over its k loop.

    Only matrix products in tensor cores are fetched many slices ahead; the other kernels hold two slices, and each
    takes at least the time of an access to L2.
    """
    slice_depth = SLICE_BYTES / unit.element_bytes
    slices = np.ceil(np.ceil(_depth(work, unit) / slice_depth) / splits)
    depth = slices * slice_depth
    arithmetic = rows * columns * depth / (unit.macs_per_s * _feed(work, unit, parameters))
    operand_bytes = depth * unit.element_bytes
    clock = parameters.sm.clock
    shared = (rows + columns) * operand_bytes / (parameters.sm.shared_bytes_per_clock * clock)
    port = parameters.sm.load_bytes_per_clock * clock
    loads = (np.minimum(rows, work.m) + np.minimum(columns, work.n)) * operand_bytes / port
    epilogue = np.minimum(rows, work.m) * np.minimum(columns, work.n) * PARTIAL_BYTES / port
    waiting = slices * parameters.sm.unpipelined_step if not unit.tensor or _spatial(work) else 0.0
    feeding = np.maximum(loads, shared if unit.tensor else 0.0)
    return np.maximum(arithmetic, np.maximum(feeding, waiting)) + epilogue


def _operand_loads(work: Contraction, unit: Unit, rows: Floats, columns: Floats, cluster: Floats) -> Floats:
    """Bytes that all blocks load through L2: each operand once for each tile row or column of the other."""
    left = work.batch * work.m * work.k * unit.element_bytes * np.ceil(np.ceil(work.n / columns) / cluster)
    right = work.batch * work.n * work.k * unit.element_bytes * np.ceil(work.m / rows)
    others = sum(operand.bytes for operand in work.reads[2:])
    return left + right + others


def _dot_products(op: MappedOp, work: Contraction, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """A matrix times a vector: warps stream the matrix and reduce their dot products."""
    unit = vector_unit(parameters, work.dtype)
    lanes = parameters.vector.float32 * parameters.sm.clock
    kernel = streaming(
        "matrix times vector",
        once(op, parameters.l2),
        work.macs,
        lanes / unit.macs_per_s + 1.0,
        parameters,
        2.0 * work.macs,
    )
    return (replace(kernel, latency_s=parameters.sm.loop_latency),)


def _direct(op: MappedOp, work: Contraction, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """A direct convolution: every thread computes outputs, operands read once through L2."""
    unit = vector_unit(parameters, work.dtype)
    outputs = work.batch * work.m * work.n
    lanes = parameters.vector.float32 * parameters.sm.clock
    # Each product costs its multiply-accumulate and the load of one operand; the address is found once an output.
    instructions = work.k * (lanes / unit.macs_per_s + 1.0) + parameters.sm.index_instructions
    kernel = streaming(
        "direct convolution", once(op, parameters.l2), outputs, instructions, parameters, 2.0 * work.macs
    )
    return (kernel,)


def _seconds(kernels: tuple[Kernel, ...], parameters: GpuParameters) -> float:
    """Estimated seconds of kernels, without launches."""
    total = 0.0
    for kernel in kernels:
        traffic = kernel.traffic
        waves = -(-kernel.blocks // parameters.sm.count)
        l2_s = max(traffic.l2_read, traffic.l2_write) / parameters.l2.bandwidth
        dram_s = (traffic.dram_read + traffic.dram_write) / (parameters.dram.bandwidth * parameters.achieved.dram)
        total += max(waves * kernel.block_s, l2_s, dram_s) + kernel.latency_s
    return total
