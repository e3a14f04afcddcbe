"""Kernels that stream: elementwise, layout changes, gathers, interpolation, transforms. Each thread is independent."""

from __future__ import annotations

import math
from dataclasses import replace

from codesign.hardware import MappedOp
from codesign.work import Gather, Map, Move, Transform, Work
from hwmodels.gpu import instructions
from hwmodels.gpu.kernel import Kernel, Traffic
from hwmodels.gpu.parameters import GpuParameters
from hwmodels.gpu.traffic import access_s, once

BLOCK_ELEMENTS = 1024
"""Elements of a thread block of an elementwise kernel; a rest is done one by one, with loads that wait."""

THREADS = 512

FUSED = "Fused"
"""The kind of a kernel that a compiler made of several operations: contiguous, whatever it broadcasts."""

ROLL = "Roll"
"""A tensor's pieces put together in another order along one axis."""

CHANNELS = "NormalizeChannels"
"""The kernel that scales and shifts the channels of a channels-last image."""


def issue_s(instruction_count: float, parameters: GpuParameters) -> float:
    """Seconds in which all SMs issue so many thread instructions."""
    return instruction_count / (parameters.vector.issue * parameters.sm.count * parameters.sm.clock)


def streaming(
    label: str,
    traffic: Traffic,
    elements: float,
    instructions_each: float,
    parameters: GpuParameters,
) -> Kernel:
    """A kernel whose threads each issue `instructions_each` an element."""
    return Kernel(
        label,
        issue_s(elements * instructions_each, parameters),
        traffic,
        compute_J=parameters.energy.vector * elements * instructions_each,
        blocks=max(1, math.ceil(elements / BLOCK_ELEMENTS)),
    )


def elementwise(op: MappedOp, work: Map, parameters: GpuParameters) -> tuple[Kernel, ...]:
    if work.kind == "Resize" and work.planes > 1:
        return (_interpolation(op, work, parameters),)
    elements = max(1, work.elements)
    vectors = work.kind == CHANNELS
    broadcasts = work.kind != FUSED and not vectors and any(1 < operand.elements < elements for operand in work.reads)
    each = instructions.BROADCAST if broadcasts or vectors else instructions.ELEMENTWISE
    each += instructions.OPERATION * work.flops / elements
    kernel = streaming("elementwise", once(op, parameters.l2), elements, each, parameters)
    operands = sum(1 < operand.elements < elements for operand in work.reads) if broadcasts else 0
    waits = 1 + max(elements % BLOCK_ELEMENTS > 0, operands)
    return (kernel.after(waits * access_s(op, parameters) + (exposed_s(kernel, parameters) if broadcasts else 0.0)),)


def exposed_s(kernel: Kernel, parameters: GpuParameters) -> float:
    """Threads that load one element at a time keep too few loads in flight to hide DRAM and addresses behind each
    other: half of the smaller remains."""
    moved = kernel.traffic.dram_read + kernel.traffic.dram_write
    dram_s = moved / (parameters.dram.bandwidth * parameters.achieved.dram)
    return min(dram_s, kernel.compute_s) / 2


def _interpolation(op: MappedOp, work: Map, parameters: GpuParameters) -> Kernel:
    """Bilinear resizing of planes: a thread keeps its place and walks over all planes, one access after another."""
    each = instructions.ELEMENTWISE + instructions.OPERATION * work.flops_per_element
    kernel = streaming("interpolation", once(op, parameters.l2), work.elements, each, parameters)
    return kernel.after(work.planes * access_s(op, parameters))


def move(op: MappedOp, work: Move, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """A copy. Runs shorter than a sector use a whole sector for each element on the side where they are scattered."""
    traffic = once(op, parameters.l2)
    elements = sum(operand.elements for operand in work.writes)
    run = max(1, work.contiguous_bytes)
    whole = work.kind in ("Concat", FUSED)
    permutes = work.kind in ("Transpose", ROLL)
    each = instructions.ELEMENTWISE if whole else instructions.PERMUTED if permutes else instructions.STRIDED
    kernel = streaming("copy", traffic, elements, each, parameters)
    kernel = kernel.after((1 if whole else 2) * access_s(op, parameters))
    if not whole:
        kernel = kernel.after(exposed_s(kernel, parameters))
    if run < parameters.l2.sector:
        scattered = work.write_bytes / run * parameters.l2.sector
        kernel = replace(kernel, scattered=scattered).after(access_s(op, parameters))
    return (kernel,)


def gather(op: MappedOp, work: Gather, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """Runs read at (or added to) addresses found in data; an addition is an atomic of one sector for each element."""
    traffic = once(op, parameters.l2)
    runs = work.lookups * max(work.run_bytes, parameters.l2.sector)
    values = max(work.reads, key=lambda operand: operand.bytes) if work.reads else work.writes[0]
    size = max(1.0, values.bytes / max(1, values.elements))
    elements = work.lookups * work.run_bytes / size
    touched = Traffic(
        l2_read=runs,
        l2_write=max(1, work.write_bytes),
        dram_read=min(runs, traffic.dram_read),
        dram_write=min(float(runs), traffic.dram_write),
    )
    label = "scatter" if work.scatter else "gather"
    kernel = streaming(label, touched, elements, instructions.ELEMENTWISE, parameters)
    kernel = kernel.after(2 * access_s(op, parameters))
    if work.scatter:
        kernel = replace(kernel, scattered=elements * parameters.l2.sector).after(2 * access_s(op, parameters))
    return (kernel,)


def transform(op: MappedOp, work: Transform, parameters: GpuParameters) -> tuple[Kernel, ...]:
    elements = max(1, work.rows * work.length)
    each = instructions.TRANSFORM + work.flops / elements
    kernel = streaming("fast transform", once(op, parameters.l2), elements, each, parameters)
    return (kernel.after(parameters.sm.row_latency + access_s(op, parameters)),)


def generic(op: MappedOp, work: Work, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """Work of a class not known here: its bytes once, its operations on the SIMT units."""
    elements = max(1, sum(operand.elements for operand in work.writes))
    each = instructions.STRIDED + instructions.OPERATION * work.flops / elements
    return (streaming(work.kind, once(op, parameters.l2), elements, each, parameters),)
