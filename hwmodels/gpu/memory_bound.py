"""Kernels that move more than they compute: elementwise, reductions, layout changes, gathers, scans, sorts."""

from __future__ import annotations

import math
from dataclasses import replace

from codesign.device import MappedOp
from codesign.work import Gather, Map, Move, Reduce, Scan, Sort, Transform, Work
from hwmodels.gpu.arithmetic import vector_unit
from hwmodels.gpu.kernel import Kernel, Traffic
from hwmodels.gpu.parameters import GpuParameters
from hwmodels.gpu.traffic import once

THREADS = 512
"""Threads that walk over one row together in a reduction or a sort."""

RADIX_PASSES = 8
"""Passes over a row of a radix selection, four bits of a 32-bit key at a time."""


def streaming(
    label: str,
    traffic: Traffic,
    elements: float,
    instructions: float,
    parameters: GpuParameters,
    compute_J: float | None = None,
) -> Kernel:
    """A kernel whose threads each do `instructions` an element, its bytes dealt out evenly over the blocks."""
    moved = traffic.l2_read + traffic.l2_write
    blocks = max(1, math.ceil(moved / parameters.sm.block_bytes))
    share = 1.0 / blocks
    clock = parameters.sm.clock
    arithmetic_s = elements * share * instructions / (parameters.vector.float32 * clock)
    port_s = moved * share / (parameters.sm.load_bytes_per_clock * clock)
    joules = parameters.energy.vector * elements * instructions if compute_J is None else compute_J
    return Kernel(label, blocks, max(arithmetic_s, port_s), traffic, compute_J=joules)


def elementwise(op: MappedOp, work: Map, parameters: GpuParameters) -> tuple[Kernel, ...]:
    unit = vector_unit(parameters, work.dtype)
    instructions = parameters.sm.stream_instructions + work.flops / max(1, work.elements) * unit.joules / (
        parameters.energy.vector
    )
    return (streaming("elementwise", once(op, parameters.l2), work.elements, instructions, parameters),)


def reduction(op: MappedOp, work: Reduce, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """One block a row while there are rows enough; a plain reduction of few long rows is cut into parts."""
    traffic = once(op, parameters.l2)
    elements = work.rows * work.columns
    instructions = parameters.sm.stream_instructions + work.flops / max(1, elements)
    kernel = streaming("reduction", traffic, elements, instructions, parameters)
    row_steps = work.passes * math.ceil(work.columns / (THREADS * _vector_width(work)))
    exposed = work.passes * parameters.sm.loop_latency
    if work.passes == 1:
        return (replace(kernel, latency_s=exposed),)
    waiting_s = (row_steps - work.passes) * parameters.l2.latency
    few_rows = work.rows < parameters.sm.count
    blocks = work.rows if few_rows else kernel.blocks
    share_s = kernel.block_s * kernel.blocks / blocks
    return (replace(kernel, blocks=max(1, blocks), block_s=share_s, latency_s=exposed + waiting_s),)


def _vector_width(work: Reduce) -> int:
    """Elements a thread loads at once: eight bytes' worth."""
    size = max(1.0, work.reads[0].bytes / max(1, work.reads[0].elements))
    return max(1, int(8 // size))


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
    """A recurrence: as many dependent steps as it has, or the work's throughput, whichever is longer. Steps with
    matrix products need all SMs and are a grid-wide synchronisation apart."""
    unit = vector_unit(parameters, work.dtype)
    instructions = (work.flops / max(1.0, unit.macs_per_s)) * parameters.vector.float32 * parameters.sm.clock
    elements = max(1, work.steps * work.lanes)
    step_s = parameters.launch.start if work.step_macs else parameters.sm.chain_latency
    kernel = streaming(
        "scan",
        once(op, parameters.l2),
        elements,
        parameters.sm.index_instructions + instructions / elements,
        parameters,
    )
    return (replace(kernel, latency_s=work.steps * step_s),)


def sort(op: MappedOp, work: Sort, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """A bitonic sort of each row in shared memory (Batcher, 1968), or a radix selection when few keys are kept."""
    bits = max(1, (work.columns - 1).bit_length())
    stages = RADIX_PASSES if work.keep < work.columns else bits * (bits + 1) // 2
    elements = work.rows * work.columns
    kernel = streaming(
        "sort", once(op, parameters.l2), elements, stages * parameters.sm.index_instructions / 2, parameters
    )
    return (replace(kernel, latency_s=stages * parameters.sm.loop_latency),)


def transform(op: MappedOp, work: Transform, parameters: GpuParameters) -> tuple[Kernel, ...]:
    elements = max(1, work.rows * work.length)
    instructions = parameters.sm.stream_instructions + work.flops / elements
    return (streaming("fast transform", once(op, parameters.l2), elements, instructions, parameters),)


def generic(op: MappedOp, work: Work, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """Work of a class not known here: its bytes once, its operations on the SIMT units."""
    elements = max(1, sum(operand.elements for operand in work.writes))
    instructions = parameters.sm.index_instructions + work.flops / elements
    return (streaming(work.kind, once(op, parameters.l2), elements, instructions, parameters),)
