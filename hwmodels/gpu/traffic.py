"""Which bytes hit in the L2 cache: cold and warm operands, results that stay, and operands read more than once."""

from __future__ import annotations

from codesign.hardware import MappedOp
from hwmodels.gpu.kernel import Traffic
from hwmodels.gpu.parameters import Cache


def hit_fraction(footprint: float, cache: Cache) -> float:
    """Fraction of repeated accesses that hit when `footprint` bytes are touched in between.

    The sets fill unevenly and the replacement is not strictly least recently used, so hits fall gradually.
    """
    missing = (footprint / cache.capacity - cache.full_hits) / cache.miss_span
    return min(1.0, max(0.0, 1.0 - missing))


def retained_bytes(cache: Cache) -> float:
    """The capacity of the strict cache that keeps as much: where half of the repeated accesses hit."""
    return cache.capacity * (cache.full_hits + cache.miss_span / 2)


def missed_bytes(op: MappedOp, cache: Cache) -> tuple[float, ...]:
    """Bytes of each operand read that must come from DRAM at its first use in this operation."""
    hits = hit_fraction(op.work.bytes, cache)
    resident = op.resident or (False,) * len(op.work.reads)
    return tuple(
        operand.bytes * (1.0 - hits if here else 1.0) for operand, here in zip(op.work.reads, resident, strict=True)
    )


def written_back(op: MappedOp, cache: Cache) -> float:
    """Bytes of the results that leave for DRAM: all, unless the plan keeps them and the cache has room."""
    kept = hit_fraction(op.work.bytes, cache) if op.keep_output else 0.0
    return op.work.write_bytes * (1.0 - kept)


def once(op: MappedOp, cache: Cache) -> Traffic:
    """Traffic of an operation that reads each operand once and writes each result once."""
    return Traffic(
        l2_read=op.work.read_bytes,
        l2_write=max(1, op.work.write_bytes),
        dram_read=sum(missed_bytes(op, cache)),
        dram_write=written_back(op, cache),
    )


def panel_rereads(left: float, right: float, cache: Cache) -> float:
    """Bytes fetched again because a product's operands do not fit in L2 together.

    One operand is kept in panels of half the cache, and the other streams past once for each panel; the cheaper of the
    two choices (the tile order, or swizzle, of matrix libraries).
    """
    panel = cache.capacity / 2
    extra_left = left * (-(-right // panel) - 1)
    extra_right = right * (-(-left // panel) - 1)
    return max(0.0, min(extra_left, extra_right))
