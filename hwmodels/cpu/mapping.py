"""From an operation to its loop: how much one core computes, in how many parts, and what the loop moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from codesign.dtypes import dtype as element_type
from codesign.hardware import MappedOp, Tasks
from codesign.program import ProgramBuilder
from codesign.work import Attention, Collective, Contraction, Gather, Map, Move, Reduce, Scan, Sort, Transform, Work
from hwmodels.cpu.loop import Loop, traffic, write_tasks
from hwmodels.cpu.parameters import CpuParameters

ROW_TILE = 6
"""Rows of a register tile of a matrix product: with two vectors of columns they fill the accumulators that hide the
latency of the multiply-accumulate (Goto and van de Geijn, 2008)."""

EXPONENTIAL_INSTRUCTIONS = 12
"""SIMD instructions of an exponential: range reduction and a polynomial of degree five."""

CACHE_LINE = 64


def map_operation(op: MappedOp, parameters: CpuParameters, builder: ProgramBuilder) -> Tasks:
    """Write the tasks of one operation; a view writes none."""
    if isinstance(op.work, Move) and op.work.free:
        return Tasks(entry=(), exit=())
    rule = RULES.get(type(op.work), _stream)
    return write_tasks(rule(op, op.work, parameters), parameters, builder)


def lanes(parameters: CpuParameters, dtype: str) -> float:
    """Elements of a vector register in the type computed in: half precision is widened to float32."""
    kind = element_type(dtype)
    bits = max(32, kind.bits) if kind.is_float else max(8, kind.bits)
    return parameters.core.simd_bits / bits


def macs_per_clock(parameters: CpuParameters, dtype: str) -> float:
    """Multiply-accumulates a clock and core at peak."""
    core, kind = parameters.core, element_type(dtype)
    words = core.simd_bits / 32
    if kind.bits <= 8 and not kind.is_float:
        # Without dot products, 8-bit values are widened to 16 bits and added in pairs.
        return words * core.fma_units * (4 if core.dot_product_int8 else 2)
    if kind.name == "bfloat16" and core.dot_product_bfloat16:
        return words * core.fma_units * 2
    return core.simd_bits / max(32, kind.bits) * core.fma_units


def contraction(op: MappedOp, work: Contraction, parameters: CpuParameters) -> Loop:
    """A matrix product or convolution in register tiles; rows and columns that fill no tile waste lanes."""
    words = int(parameters.core.simd_bits // 32)
    rows, columns = _padded(work.m, ROW_TILE), _padded(work.n, words)
    transposed = _padded(work.n, ROW_TILE) * _padded(work.m, words)
    vectorised_over_channels = work.batch * words if work.n == 1 and work.batch > 1 else 0
    if vectorised_over_channels:
        # Depthwise: a vector holds the channels of several groups, and every product needs a load of its own.
        products = _padded(work.batch, words) * work.m * work.k * 2.0
    else:
        products = float(work.batch * min(rows * columns, transposed) * work.k)
    rate = macs_per_clock(parameters, work.dtype) * parameters.core.achieved * parameters.core.clock
    bytes_in = work.read_bytes + work.write_bytes
    port = parameters.core.load_bytes_per_clock * parameters.core.clock
    core_s = max(products / rate, bytes_in / port) + _arithmetic(work.epilogue_flops, work.dtype, parameters)
    parts = work.batch * max(1, math.ceil(work.m / ROW_TILE)) * max(1, math.ceil(work.n / words))
    joules = work.macs * _mac_energy(work.dtype, parameters)
    loop = _loop(op, "matrix multiply", core_s, parts, parameters, joules)
    return _with_reorders(loop, work, parameters) if work.convolution is not None else loop


def _with_reorders(loop: Loop, work: Contraction, parameters: CpuParameters) -> Loop:
    """A framework keeps tensors in the model's layout; its convolutions work on blocks of channels, so input, weights
    and result are each rewritten once a call (read, written, and read again) in a parallel loop of its own."""
    moved = 2.0 * work.bytes
    port_s = moved / (parameters.core.load_bytes_per_clock * parameters.core.clock)
    spilled = moved if work.bytes > parameters.cache.l3 / 2 else 0.0
    return replace(
        loop,
        core_s=loop.core_s + port_s,
        cache_bytes=loop.cache_bytes + moved,
        dram_read=loop.dram_read + spilled / 2,
        dram_write=loop.dram_write + spilled / 2,
        regions=4,
    )


def attention(op: MappedOp, work: Attention, parameters: CpuParameters) -> Loop:
    """Scores, softmax and weighted sum, one head and row block after another."""
    rate = macs_per_clock(parameters, work.dtype) * parameters.core.achieved * parameters.core.clock
    scores = work.batch * work.heads * work.query_length * work.kv_length
    visible = 1.0 if not work.causal else 1.0 - (min(work.query_length, work.kv_length) - 1) / (2.0 * work.kv_length)
    softmax = _arithmetic(scores * (EXPONENTIAL_INSTRUCTIONS + 4), "float32", parameters)
    parts = work.batch * work.heads * max(1, math.ceil(work.query_length / 32))
    joules = work.macs * _mac_energy(work.dtype, parameters)
    return _loop(op, "attention", visible * (work.macs / rate + softmax), parts, parameters, visible * joules)


def _map(op: MappedOp, work: Map, parameters: CpuParameters) -> Loop:
    return _simd(op, "elementwise", work.flops, work.dtype, parameters)


def _reduce(op: MappedOp, work: Reduce, parameters: CpuParameters) -> Loop:
    """Each pass over a row that no longer fits a private cache is read again through the shared one."""
    row = work.read_bytes / max(1, work.rows)
    again = (work.passes - 1) * work.read_bytes if row > parameters.cache.l2 else 0
    return _simd(op, "reduction", work.flops, work.dtype, parameters, extra_bytes=again)


def _stream(op: MappedOp, work: Work, parameters: CpuParameters) -> Loop:
    return _simd(op, work.kind, work.flops, "float32", parameters)


def _move(op: MappedOp, work: Move, parameters: CpuParameters) -> Loop:
    """Runs shorter than a vector are moved element by element."""
    if work.contiguous_bytes >= CACHE_LINE:
        return _simd(op, "copy", 0, "float32", parameters)
    moved = sum(operand.elements for operand in work.writes)
    return _scalar(op, "copy", 2.0 * moved, moved, parameters)


def _gather(op: MappedOp, work: Gather, parameters: CpuParameters) -> Loop:
    """Each run starts with a miss in the private caches; a core overlaps as many as its DRAM share allows."""
    instructions = work.lookups * (8 + work.run_bytes * 8 / parameters.core.simd_bits)
    return _scalar(op, "scatter" if work.scatter else "gather", instructions, work.lookups, parameters)


def _scan(op: MappedOp, work: Scan, parameters: CpuParameters) -> Loop:
    """Steps follow each other; within a step the lanes are vectorised. Independent lanes run on several cores."""
    rate = macs_per_clock(parameters, work.dtype) * parameters.core.achieved * parameters.core.clock
    core_s = work.macs / rate + _arithmetic(work.steps * work.step_flops, work.dtype, parameters)
    least_s = 4 * work.steps / parameters.core.clock  # the latency of a floating-point addition
    return _loop(
        op, "scan", max(core_s, least_s), max(1, work.lanes), parameters, work.flops * parameters.energy.mac / 2
    )


def _sort(op: MappedOp, work: Sort, parameters: CpuParameters) -> Loop:
    """A comparison sort, or a heap of the best `keep` keys; a comparison costs about ten scalar instructions."""
    depth = max(1, min(work.keep, work.columns).bit_length())
    return _scalar(op, "sort", 10.0 * work.rows * work.columns * depth, work.rows, parameters)


def _transform(op: MappedOp, work: Transform, parameters: CpuParameters) -> Loop:
    return _simd(op, "fast transform", work.flops, work.dtype, parameters)


RULES: dict[type[Work], Callable[[MappedOp, Any, CpuParameters], Loop]] = {
    Contraction: contraction,
    Attention: attention,
    Map: _map,
    Reduce: _reduce,
    Move: _move,
    Gather: _gather,
    Scan: _scan,
    Sort: _sort,
    Transform: _transform,
    Collective: _stream,
}


def _simd(
    op: MappedOp, label: str, operations: float, dtype: str, parameters: CpuParameters, extra_bytes: float = 0.0
) -> Loop:
    """A vectorised loop: its arithmetic, or the bytes through the core's load ports."""
    moved = op.work.bytes + extra_bytes
    port_s = moved / (parameters.core.load_bytes_per_clock * parameters.core.clock)
    core_s = max(_arithmetic(operations, dtype, parameters), port_s)
    joules = (operations + moved / 4) * parameters.energy.mac / 2
    return _loop(op, label, core_s, parameters.core.count, parameters, joules)


def _scalar(op: MappedOp, label: str, instructions: float, parts: int, parameters: CpuParameters) -> Loop:
    """A loop without SIMD."""
    core_s = instructions / (parameters.core.scalar_per_clock * parameters.core.clock)
    return _loop(op, label, core_s, max(1, parts), parameters, instructions * parameters.energy.scalar)


def _arithmetic(operations: float, dtype: str, parameters: CpuParameters) -> float:
    """Seconds of one core for elementwise SIMD operations."""
    return operations / (lanes(parameters, dtype) * parameters.core.fma_units * parameters.core.clock)


def _mac_energy(dtype: str, parameters: CpuParameters) -> float:
    """Energy follows the vector instructions: narrower types share one among more products."""
    words = parameters.core.simd_bits / 32 * parameters.core.fma_units
    return parameters.energy.mac * words / macs_per_clock(parameters, dtype)


def _padded(extent: int, multiple: int) -> int:
    return -(-extent // multiple) * multiple


def _loop(op: MappedOp, label: str, core_s: float, parts: int, parameters: CpuParameters, joules: float) -> Loop:
    read, written = traffic(op, parameters)
    moved = float(op.work.bytes)
    return Loop(label, core_s, parts, moved, read, written, float(op.work.flops), joules)
