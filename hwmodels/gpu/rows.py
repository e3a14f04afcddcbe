"""Kernels over rows: reductions, softmax, norms, pooling, scans, sorts.

How many threads share a row, and how many steps they take, follows PyTorch's kernels: reduce_kernel, softmax_warp_
forward, vectorized_layer_norm_kernel, RowwiseMoments, tensor_kernel_scan_innermost_dim and the radix sorts.
"""

from __future__ import annotations

import math
from dataclasses import replace

from codesign.dtypes import dtype as element_type
from codesign.hardware import MappedOp
from codesign.work import Reduce, Scan, Sort
from hwmodels.gpu import instructions
from hwmodels.gpu.instructions import RowCost
from hwmodels.gpu.kernel import Kernel, Traffic
from hwmodels.gpu.parameters import GpuParameters
from hwmodels.gpu.streaming import THREADS, issue_s, streaming
from hwmodels.gpu.traffic import access_s, hit_fraction, once

WARP = 32
VECTOR = 4
"""Elements that a thread loads at once where rows are a multiple of it."""

WARP_COLUMNS = 1024
"""Longest row that one warp holds in its registers."""

WARP_SOFTMAX_LEVELS = 0.7
"""Dependent steps of a lane for each of its elements: maximum, exponential, sum, partly side by side."""

NORM_THREADS = 128
SOFTMAX_THREADS = 1024
SPLIT_VALUES = 256
"""Values a thread from which a block's other threads are put to the same row, and other blocks beyond that."""

SORT_BITS, SELECT_BITS = 4, 2
"""Bits of a key that one radix pass looks at, in a sort and in a selection."""

MERGED_COLUMNS = 128
"""Longest row that a warp sorts by merging."""

SORT_LEVELS, SORT_PASS_LEVELS = 70, 11
SELECT_LEVELS, SELECT_PASS_LEVELS = 80, 1.6
"""Dependent exchanges of a block that sorts or selects: once, and for each pass."""

SELECT_THREADS = 1024
"""Threads of a block that selects, at the most."""

_COSTS = {"ReduceMax": instructions.COMPARE, "ReduceMin": instructions.COMPARE, "ArgMax": instructions.ARGUMENT,
          "ArgMin": instructions.ARGUMENT}  # fmt: skip
GROUPS = ("GroupNormalization", "InstanceNormalization")


def reduction(op: MappedOp, work: Reduce, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """Pooling windows take a thread each, sums a warp or more a row, short softmaxes a warp, norms a block."""
    if work.reads[0].elements != work.rows * work.columns:
        return (_windows(op, work, parameters),)
    if work.passes == 1:
        return (_sum(op, work, parameters),)
    if work.kind in GROUPS:
        return _group_norm(op, work, parameters)
    if work.passes > 2:
        return (_softmax(op, work, parameters),)
    return _norm(op, work, parameters)


def _rows_kernel(op: MappedOp, work: Reduce, cost: RowCost, parameters: GpuParameters, columns: int = 0) -> Kernel:
    count = work.rows * (cost.row + (columns or work.columns) * cost.element)
    count += instructions.OPERATION * work.epilogue_flops
    return Kernel(
        work.kind.lower(),
        issue_s(count, parameters),
        once(op, parameters.l2),
        compute_J=parameters.energy.vector * count,
        blocks=max(1, work.rows),
        latency_s=access_s(op, parameters),
    )


def _step_s(op: MappedOp, work: Reduce, parameters: GpuParameters) -> float:
    """Seconds of a thread's step over a row: a vector of loads for a sum, one or two rounds for what also compares."""
    size = work.reads[0].bytes / max(1, work.reads[0].elements)
    rounds = 2.0 if work.kind.startswith("Arg") else 1.0 if work.kind in _COSTS else 0.25 + size / 8
    return access_s(op, parameters) * rounds


def _reread(kernel: Kernel, work: Reduce, times: int, threads: int, parameters: GpuParameters) -> Kernel:
    """The kernel with the rows it reads again: from L2 as long as those of all blocks at work fit in there."""
    blocks = min(work.rows, parameters.sm.count * max(1, parameters.sm.threads // threads))
    missing = 1.0 - hit_fraction(blocks * work.reads[0].bytes / work.rows, parameters.l2)
    traffic = kernel.traffic
    again = times * work.reads[0].bytes * missing
    return replace(kernel, traffic=replace(traffic, dram_read=traffic.dram_read + again))


def _windows(op: MappedOp, work: Reduce, parameters: GpuParameters) -> Kernel:
    each = instructions.WINDOW.get(work.kind, instructions.OTHER_WINDOW)
    kernel = streaming("pooling", once(op, parameters.l2), work.rows * work.columns, each, parameters)
    return kernel.after(parameters.sm.row_latency + 2 * access_s(op, parameters))


def _sum(op: MappedOp, work: Reduce, parameters: GpuParameters) -> Kernel:
    kernel = _rows_kernel(op, work, _COSTS.get(work.kind, instructions.SUM), parameters)
    rows_a_block = min(_power_below(work.rows), THREADS // WARP)
    width = min(_power_below(work.columns), THREADS // rows_a_block)
    values = work.columns / width
    if values >= min(SPLIT_VALUES, rows_a_block * 16):
        values /= rows_a_block
    if values >= SPLIT_VALUES:  # several blocks share a row, and the last one adds up
        values = max(16.0, values * work.rows / parameters.sm.count)
    return kernel.after(parameters.sm.row_latency).at_least(math.ceil(values / VECTOR) * _step_s(op, work, parameters))


def _power_below(extent: int) -> int:
    return 1 << (max(1, extent).bit_length() - 1)


def _softmax(op: MappedOp, work: Reduce, parameters: GpuParameters) -> Kernel:
    if work.columns <= WARP_COLUMNS:
        padded = 1 << (work.columns - 1).bit_length()
        kernel = _rows_kernel(op, work, instructions.WARP_SOFTMAX, parameters, padded)
        return kernel.at_least(padded / WARP * parameters.sm.chain_latency * WARP_SOFTMAX_LEVELS)
    steps = work.passes * math.ceil(work.columns / (SOFTMAX_THREADS * VECTOR))
    kernel = _rows_kernel(op, work, instructions.BLOCK_SOFTMAX, parameters)
    kernel = _reread(kernel, work, work.passes - 1, SOFTMAX_THREADS, parameters)
    return kernel.after(2 * parameters.sm.row_latency).at_least(steps * access_s(op, parameters))


def _norm(op: MappedOp, work: Reduce, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """One kernel that loads vectors; rows of another length take a kernel for the moments and one that applies them."""
    if parameters.runtime == "fused":
        kernel = _rows_kernel(op, work, instructions.COMPILED_NORM, parameters)
        return (kernel.after(parameters.sm.row_latency),)
    centred = work.kind != "RMSNormalization"
    if work.columns % VECTOR:
        steps = work.passes * (math.ceil(work.columns / THREADS) - 1)
        kernel = _rows_kernel(op, work, instructions.UNALIGNED_NORM, parameters)
        exposed_s = 2 * parameters.sm.row_latency + parameters.launch.start
        return (kernel.after(exposed_s).at_least(steps * (access_s(op, parameters) + parameters.sm.chain_latency)),)
    steps = work.passes * (math.ceil(work.columns / (NORM_THREADS * VECTOR)) - 1)
    wide = element_type(work.reads[0].dtype).bits > 16
    layer = instructions.WIDE_LAYER_NORM if wide else instructions.LAYER_NORM
    square = instructions.WIDE_RMS_NORM if wide else instructions.RMS_NORM
    kernel = _rows_kernel(op, work, layer if centred else square, parameters)
    kernel = _reread(kernel, work, 1, NORM_THREADS, parameters)
    first_s = (2 if centred else 1) * parameters.sm.row_latency
    return (kernel.after(first_s).at_least(steps * access_s(op, parameters)),)


def _group_norm(op: MappedOp, work: Reduce, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """Moments by one block a group, however long; then the factors of each channel; then their application. A compiler
    splits the groups over all SMs instead, adds up, and applies."""
    steps = math.ceil(work.columns / THREADS)
    rounds = math.ceil(work.rows / (parameters.sm.count * VECTOR))
    traffic = once(op, parameters.l2)
    small = Kernel("factors", 0.0, Traffic(1.0, 1.0, 0.0, 0.0))
    elements = work.rows * work.columns
    if parameters.runtime == "fused":
        reads = replace(traffic, l2_write=1.0, dram_write=0.0)
        parts = streaming("partial moments", reads, elements, instructions.ELEMENTWISE, parameters)
        return (
            parts.after(parameters.sm.row_latency),
            small,
            streaming("apply", traffic, elements, instructions.ELEMENTWISE, parameters),
        )
    moments = _rows_kernel(op, work, instructions.UNALIGNED_NORM, parameters).after(
        parameters.sm.row_latency + rounds * steps * access_s(op, parameters)
    )
    return moments, small, streaming("apply", traffic, elements, instructions.BROADCAST, parameters)


def scan(op: MappedOp, work: Scan, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """A recurrence. A running sum goes through each row in chunks of twice the threads that share it, each chunk an up-
    and a down-sweep; a step with matrix products needs all SMs and is a kernel away from the next."""
    elements = max(1, work.steps * work.lanes)
    each = instructions.SCAN + instructions.OPERATION * work.flops / elements
    kernel = streaming("scan", once(op, parameters.l2), elements, each, parameters)
    if work.step_macs:
        return (kernel.after(work.steps * parameters.launch.start),)
    lengths = math.ceil(math.log2(max(2, work.steps))) - math.ceil(math.log2(max(1, work.lanes)))
    level = min(9, max(4, (9 + lengths) // 2))
    chunks = math.ceil(work.steps / (2 << level))
    step_s = (level + 1) * parameters.sm.chain_latency + access_s(op, parameters)
    return (kernel.after(parameters.sm.row_latency).at_least(chunks * step_s),)


def sort(op: MappedOp, work: Sort, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """A sort of each row by one thread block, or a radix selection when few keys are kept."""
    return ((_select if work.keep < work.columns else _sort)(op, work, parameters),)


def _sort(op: MappedOp, work: Sort, parameters: GpuParameters) -> Kernel:
    """A radix sort, padded to a power of two; short rows are merged by a warp instead."""
    passes = max(8, element_type(work.reads[0].dtype).bits) / SORT_BITS
    padded = 1 << (work.columns - 1).bit_length()
    cost = instructions.SORT_PASS
    each = passes * (cost.row + max(padded, MERGED_COLUMNS) * cost.element)
    if padded <= MERGED_COLUMNS:
        each *= instructions.MERGED
    alone_s = each / (parameters.vector.issue * parameters.sm.clock)
    kernel = streaming("sort", once(op, parameters.l2), work.rows, each, parameters)
    exposed_s = (SORT_LEVELS + SORT_PASS_LEVELS * passes) * parameters.sm.chain_latency
    return kernel.at_least(alone_s if work.rows < parameters.sm.count else 0.0).after(
        exposed_s / 2 if work.rows > parameters.sm.count else exposed_s
    )


def _select(op: MappedOp, work: Sort, parameters: GpuParameters) -> Kernel:
    """Digit after digit, a block counts the keys that may still be among the largest; then it sorts what it kept."""
    passes = max(8, element_type(work.reads[0].dtype).bits) / SELECT_BITS
    threads = min(SELECT_THREADS, -(-work.columns // WARP) * WARP)
    waves = math.ceil(work.rows / (parameters.sm.count * max(1, parameters.sm.threads // threads)))
    walks = passes * (math.ceil(work.columns / threads) - 1)
    block_s = (SELECT_LEVELS + SELECT_PASS_LEVELS * passes + walks) * parameters.sm.chain_latency
    kernel = streaming("select", once(op, parameters.l2), work.rows * work.columns, 1.0, parameters)
    return kernel.after(access_s(op, parameters)).at_least(waves * block_s)
