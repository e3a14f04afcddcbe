"""Matrix products and convolutions: thread-block tiles, split-K and waves over the SMs.

The tile is the one of a table with the least estimated time, as a matrix library's heuristics choose. All terms of the
estimate grow with m, n and k for each tile, so the least over the table grows with them too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from codesign.device import MappedOp
from codesign.work import Contraction
from hwmodels.gpu.arithmetic import Unit, matrix_unit, vector_unit
from hwmodels.gpu.kernel import SLICES, Kernel, Traffic
from hwmodels.gpu.memory_bound import streaming
from hwmodels.gpu.parameters import GpuParameters
from hwmodels.gpu.traffic import missed_bytes, panel_rereads, written_back

PARTIAL_BYTES = 4
"""Split-K partial sums are float32."""

SLICE_BYTES = 128
"""Depth of a k-slice in shared memory: one 128-byte swizzled row of each operand."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """A way to cut a product: tile extents, thread blocks that share operands by multicast, parts of the k loop."""

    rows: int
    columns: int
    cluster: int
    splits: int


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


def _combinations(tiles: tuple[tuple[int, int, int], ...]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(4, N) rows, columns, cluster size and splits of every combination."""
    return np.array([(*tile, split) for split in _SPLITS for tile in tiles], dtype=np.float64).T


_TENSOR, _SIMT = _combinations(_TENSOR_TILES), _combinations(_SIMT_TILES)


def contraction(op: MappedOp, work: Contraction, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """Kernels of a matrix product or convolution; a grouped convolution may run as a direct one on the SIMT units."""
    product = _product(op, work, parameters)
    if work.convolution is None or work.convolution.groups == 1:
        return product
    direct = _direct(op, work, parameters)
    return direct if _seconds(direct, parameters) < _seconds(product, parameters) else product


def _product(op: MappedOp, work: Contraction, parameters: GpuParameters) -> tuple[Kernel, ...]:
    unit = matrix_unit(parameters, work.dtype)
    dram_read = sum(missed_bytes(op, parameters.l2)) + panel_rereads(
        work.reads[0].bytes, work.reads[1].bytes, parameters.l2
    )
    dram_write = written_back(op, parameters.l2)
    rows, columns, cluster, splits = _TENSOR if unit.tensor else _SIMT
    block_s = _block_seconds(work, unit, parameters, rows, columns, splits)
    blocks = work.batch * np.ceil(work.m / rows) * np.ceil(work.n / columns) * splits
    l2_read = _operand_loads(work, unit, rows, columns, cluster)
    waves = np.ceil(blocks / parameters.sm.count)
    partial_bytes = np.where(splits > 1, PARTIAL_BYTES * work.batch * work.m * work.n * splits, 0.0)
    output_bytes = max(1, work.write_bytes)
    l2_write = np.where(splits > 1, partial_bytes, output_bytes)
    l2_s = (l2_read + l2_write) / parameters.l2.bandwidth
    dram_s = (dram_read + dram_write) / (parameters.dram.bandwidth * parameters.achieved.dram)
    first_s = np.maximum(l2_s, dram_s) / (waves * SLICES)
    reduction_s = np.where(splits > 1, parameters.launch.start + 2 * parameters.l2.latency, 0.0)
    reduction_s = reduction_s + (partial_bytes + output_bytes) * (splits > 1) / parameters.l2.bandwidth
    seconds = np.maximum(waves * block_s, np.maximum(l2_s, dram_s)) + first_s + reduction_s
    best = int(np.argmin(seconds))
    main = Kernel(
        label=f"matrix multiply {int(rows[best])}x{int(columns[best])}",
        blocks=int(blocks[best]),
        block_s=float(block_s[best]),
        traffic=Traffic(float(l2_read[best]), float(l2_write[best]), dram_read, dram_write if splits[best] == 1 else 0),
        compute_J=unit.joules * 2 * work.macs + parameters.energy.vector * work.epilogue_flops,
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
    work: Contraction, unit: Unit, parameters: GpuParameters, rows: np.ndarray, columns: np.ndarray, splits: np.ndarray
) -> np.ndarray:
    """Seconds of a block: the slowest of arithmetic, shared memory and its share of the L2 port, over its k loop."""
    slice_depth = SLICE_BYTES / unit.element_bytes
    depth = np.ceil(np.ceil(work.k / slice_depth) / splits) * slice_depth
    arithmetic = rows * columns * depth / unit.macs_per_s
    operand_bytes = depth * unit.element_bytes
    clock = parameters.sm.clock
    shared = (rows + columns) * operand_bytes / (parameters.sm.shared_bytes_per_clock * clock)
    port = parameters.sm.load_bytes_per_clock * clock
    loads = (np.minimum(rows, work.m) + np.minimum(columns, work.n)) * operand_bytes / port
    epilogue = np.minimum(rows, work.m) * np.minimum(columns, work.n) * PARTIAL_BYTES / port
    filling = parameters.sm.block_fill
    return np.maximum(arithmetic, np.maximum(shared if unit.tensor else 0.0, loads)) + epilogue + filling


def _operand_loads(
    work: Contraction, unit: Unit, rows: np.ndarray, columns: np.ndarray, cluster: np.ndarray
) -> np.ndarray:
    """Bytes that all blocks load through L2: each operand once for each tile row or column of the other."""
    left = work.batch * work.m * work.k * unit.element_bytes * np.ceil(np.ceil(work.n / columns) / cluster)
    right = work.batch * work.n * work.k * unit.element_bytes * np.ceil(work.m / rows)
    others = sum(operand.bytes for operand in work.reads[2:])
    return left + right + others


def _direct(op: MappedOp, work: Contraction, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """A direct convolution: every thread computes outputs, operands read once through L2."""
    unit = vector_unit(parameters, work.dtype)
    outputs = work.batch * work.m * work.n
    traffic = Traffic(
        l2_read=work.read_bytes,
        l2_write=max(1, work.write_bytes),
        dram_read=sum(missed_bytes(op, parameters.l2)),
        dram_write=written_back(op, parameters.l2),
    )
    lanes = parameters.vector.float32 * parameters.sm.clock
    # Each product costs its multiply-accumulate and the load of one operand; the address is found once an output.
    instructions = work.k * (lanes / unit.macs_per_s + 1.0) + parameters.sm.index_instructions
    kernel = streaming("direct convolution", traffic, outputs, instructions, parameters, unit.joules * 2 * work.macs)
    return (kernel,)


def _seconds(kernels: tuple[Kernel, ...], parameters: GpuParameters) -> float:
    """Estimated seconds of kernels, without launches."""
    total = 0.0
    for kernel in kernels:
        traffic = kernel.traffic
        waves = -(-kernel.blocks // parameters.sm.count)
        l2_s = (traffic.l2_read + traffic.l2_write) / parameters.l2.bandwidth
        dram_s = (traffic.dram_read + traffic.dram_write) / (parameters.dram.bandwidth * parameters.achieved.dram)
        total += max(waves * kernel.block_s, l2_s, dram_s) + kernel.latency_s
    return total
