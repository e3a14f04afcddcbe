"""Which bytes hit in the L2 cache: cold and warm operands, results that stay, and operands read more than once."""

from __future__ import annotations

from codesign.hardware import MappedOp
from hwmodels.gpu.kernel import Traffic
from hwmodels.gpu.parameters import Cache, GpuParameters

DIRTY_SHARE = 0.6
"""Part of a busy cache's lines that are results not yet in DRAM."""


def hit_fraction(footprint: float, cache: Cache) -> float:
    """Fraction of repeated accesses that hit when `footprint` bytes are touched in between.

    The sets fill unevenly and the replacement is not strictly least recently used, so hits fall gradually.
    """
    missing = (footprint / cache.capacity - cache.full_hits) / cache.miss_span
    return min(1.0, max(0.0, 1.0 - missing))


def retained_bytes(cache: Cache) -> float:
    """The capacity of the strict cache that keeps as much: where half of the repeated accesses hit."""
    return cache.capacity * (cache.full_hits + cache.miss_span / 2)


def missed_bytes(op: MappedOp, cache: Cache) -> float:
    """Bytes of the operands that must come from DRAM at their first use in this operation."""
    hits = hit_fraction(op.work.bytes, cache)
    resident = op.resident or (False,) * len(op.work.reads)
    return sum(
        operand.bytes * (1.0 - hits if here else 1.0) for operand, here in zip(op.work.reads, resident, strict=True)
    )


def access_s(op: MappedOp, parameters: GpuParameters) -> float:
    """Seconds of one access on average: what misses L2 waits for DRAM."""
    misses = min(1.0, missed_bytes(op, parameters.l2) / max(1, op.work.read_bytes))
    return parameters.l2.latency + misses * parameters.dram.latency


def written_back(op: MappedOp, cache: Cache) -> float:
    """Bytes that leave for DRAM: the results that the cache does not keep, and what they and the operands push out.

    With `keep_output` the plan knows what the cache holds. Without it the cache is full of other data, of which a share
    are results: what comes in pushes them out, until none is left, and as many results stay.
    """
    work = op.work
    if op.keep_output:
        return work.write_bytes * (1.0 - hit_fraction(work.bytes, cache))
    held = cache.full_hits * cache.capacity
    return min(DIRTY_SHARE * work.bytes, held) + work.write_bytes - min(work.write_bytes, held)


def once(op: MappedOp, cache: Cache) -> Traffic:
    """Traffic of an operation that reads each operand once and writes each result once."""
    return Traffic(
        l2_read=op.work.read_bytes,
        l2_write=max(1, op.work.write_bytes),
        dram_read=missed_bytes(op, cache),
        dram_write=written_back(op, cache),
    )
