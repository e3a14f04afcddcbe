"""Kernels that move more than they compute: elementwise, reductions, layout changes, gathers, scans, sorts."""

from __future__ import annotations

import math
from dataclasses import replace

from codesign.dtypes import dtype as element_type
from codesign.hardware import MappedOp
from codesign.work import Gather, Map, Move, Reduce, Scan, Sort, Transform, Work
from hwmodels.gpu.arithmetic import vector_unit
from hwmodels.gpu.kernel import Kernel, Traffic
from hwmodels.gpu.parameters import GpuParameters
from hwmodels.gpu.traffic import once

THREADS = 512
"""Threads that walk over one row together when a block has it."""

WARP_COLUMNS = 1024
"""Longest row that one warp holds in its registers."""

VECTOR = 4
"""Elements a thread loads at once when rows are a multiple of it."""

SORT_BITS, SELECT_BITS = 4, 2
"""Bits of a key that one radix pass looks at, in a sort and in a selection."""

SORT_STEPS = 4
"""Block-wide steps of a sorting pass: count, scan, exchange, reload."""


def streaming(
    label: str,
    traffic: Traffic,
    elements: float,
    instructions: float,
    parameters: GpuParameters,
    operations: float = 0.0,
) -> Kernel:
    """A kernel whose threads each do `instructions` an element, its bytes dealt out evenly over the blocks.

    Energy goes by the float32 `operations` that the work asks for; loads and stores are part of the bytes'.
    """
    moved = traffic.l2_read + traffic.l2_write
    blocks = max(1, math.ceil(moved / parameters.sm.block_bytes))
    share = 1.0 / blocks
    clock = parameters.sm.clock
    arithmetic_s = elements * share * instructions / (parameters.vector.float32 * clock)
    port_s = moved * share / (parameters.sm.load_bytes_per_clock * clock)
    return Kernel(
        label, blocks, max(arithmetic_s, port_s), traffic, compute_J=parameters.energy.vector * operations, streams=True
    )


def elementwise(op: MappedOp, work: Map, parameters: GpuParameters) -> tuple[Kernel, ...]:
    unit = vector_unit(parameters, work.dtype)
    instructions = parameters.sm.stream_instructions + work.flops / max(1, work.elements) * unit.joules / (
        parameters.energy.vector
    )
    return (streaming("elementwise", once(op, parameters.l2), work.elements, instructions, parameters, work.flops),)


def reduction(op: MappedOp, work: Reduce, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """Plain sums and short softmaxes take a warp a row, norms and long softmaxes a thread block; pooling windows, whose
    elements each need an address, a thread."""
    traffic = once(op, parameters.l2)
    elements = work.rows * work.columns
    windows = work.reads[0].elements != elements
    instructions = parameters.sm.index_instructions if windows else parameters.sm.stream_instructions
    kernel = streaming(
        "reduction", traffic, elements, instructions + work.flops / max(1, elements), parameters, work.flops
    )
    if windows:
        return (kernel,)
    if work.passes == 1 or (work.passes > 2 and work.columns <= WARP_COLUMNS):
        kernel = replace(kernel, latency_s=parameters.sm.loop_latency)
        return (_by_rows(kernel, work.rows, parameters.sm.row_warp),)
    exposed = work.passes * parameters.sm.loop_latency
    vector = math.gcd(work.columns, VECTOR)
    loops = work.passes * (math.ceil(work.columns / (THREADS * vector)) - 1)
    kernel = replace(kernel, latency_s=exposed + loops * parameters.l2.latency)
    if work.rows < parameters.sm.count:
        share_s = kernel.block_s * kernel.blocks / work.rows
        kernel = replace(kernel, blocks=max(1, work.rows), block_s=share_s)
    return (_by_rows(kernel, work.rows, parameters.sm.row_block * VECTOR / vector),)


def _by_rows(kernel: Kernel, rows: int, row_s: float) -> Kernel:
    """The kernel when each row costs an SM at least `row_s`, whatever its length."""
    return replace(kernel, block_s=max(kernel.block_s, row_s * rows / kernel.blocks))


def move(op: MappedOp, work: Move, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """A copy. Runs shorter than a sector cost a whole sector each on the side where they are scattered."""
    traffic = once(op, parameters.l2)
    elements = sum(operand.elements for operand in work.writes)
    run = max(1, work.contiguous_bytes)
    if run < parameters.l2.sector:
        traffic = replace(traffic, l2_write=traffic.l2_write * parameters.l2.sector / run)
    return (streaming("copy", traffic, elements, parameters.sm.index_instructions, parameters),)


def gather(op: MappedOp, work: Gather, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """Runs read at (or added to) addresses found in data; an addition is an atomic of one sector for each element."""
    traffic = once(op, parameters.l2)
    runs = work.lookups * max(work.run_bytes, parameters.l2.sector)
    values = max(work.reads, key=lambda operand: operand.bytes) if work.reads else work.writes[0]
    size = max(1.0, values.bytes / max(1, values.elements))
    elements = work.lookups * work.run_bytes / size
    touched = Traffic(
        l2_read=runs,
        l2_write=elements * parameters.l2.sector if work.scatter else max(1, work.write_bytes),
        dram_read=min(runs, traffic.dram_read),
        dram_write=min(float(runs), traffic.dram_write),
    )
    kernel = streaming(
        "scatter" if work.scatter else "gather", touched, elements, parameters.sm.stream_instructions, parameters
    )
    return (replace(kernel, latency_s=parameters.l2.latency),)


def scan(op: MappedOp, work: Scan, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """A recurrence: its dependent steps or its throughput, whichever is longer. A running sum is associative, so a
    block walks over at most a warp's columns one by one and adds up the chunks; a step with matrix products needs all
    SMs and is a grid-wide synchronisation away from the next."""
    unit = vector_unit(parameters, work.dtype)
    instructions = (work.flops / max(1.0, unit.macs_per_s)) * parameters.vector.float32 * parameters.sm.clock
    elements = max(1, work.steps * work.lanes)
    each = parameters.sm.index_instructions + instructions / elements
    kernel = streaming("scan", once(op, parameters.l2), elements, each, parameters, work.flops)
    if work.step_macs:
        return (replace(kernel, latency_s=work.steps * parameters.launch.start),)
    chunks = math.ceil(work.steps / WARP_COLUMNS) - 1
    serial = min(work.steps, WARP_COLUMNS) * parameters.sm.chain_latency
    return (replace(kernel, latency_s=serial + chunks * parameters.sm.loop_latency),)


def sort(op: MappedOp, work: Sort, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """A radix sort of each row by one thread block, or a radix selection when few keys are kept."""
    key_bits = max(8, element_type(work.reads[0].dtype).bits)
    selects = work.keep < work.columns
    passes = key_bits // (SELECT_BITS if selects else SORT_BITS)
    instructions = parameters.sm.select_instructions if selects else parameters.sm.sort_instructions
    elements = work.rows * work.columns
    kernel = streaming("sort", once(op, parameters.l2), elements, passes * instructions, parameters, work.flops)
    lanes = parameters.vector.float32 * parameters.sm.clock
    row_s = passes * (work.columns * instructions / lanes + parameters.sm.row_block / 2)
    exposed = passes * parameters.sm.loop_latency * (1 if selects else SORT_STEPS)
    return (replace(kernel, blocks=max(1, work.rows), block_s=row_s, latency_s=exposed),)


def transform(op: MappedOp, work: Transform, parameters: GpuParameters) -> tuple[Kernel, ...]:
    elements = max(1, work.rows * work.length)
    instructions = parameters.sm.stream_instructions + work.flops / elements
    return (streaming("fast transform", once(op, parameters.l2), elements, instructions, parameters, work.flops),)


def generic(op: MappedOp, work: Work, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """Work of a class not known here: its bytes once, its operations on the SIMT units."""
    elements = max(1, sum(operand.elements for operand in work.writes))
    instructions = parameters.sm.index_instructions + work.flops / elements
    return (streaming(work.kind, once(op, parameters.l2), elements, instructions, parameters, work.flops),)
