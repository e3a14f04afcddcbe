"""Fused attention: query tiles over the SMs, scores never stored (Dao et al., FlashAttention-2, 2023).

A block holds a tile of queries and walks over tiles of keys: two products and, between them, the exponentials of the
scores, of which only a part overlaps the products (Shah et al., FlashAttention-3, 2024). A few queries (decoding) read
each key once; the keys are then split over the SMs, and a second kernel combines the parts.
"""

from __future__ import annotations

import math

from codesign.dtypes import dtype as element_type
from codesign.hardware import MappedOp
from codesign.work import Attention
from hwmodels.gpu.arithmetic import Unit, matrix_unit, vector_unit
from hwmodels.gpu.kernel import Kernel, Traffic
from hwmodels.gpu.parameters import GpuParameters
from hwmodels.gpu.streaming import streaming
from hwmodels.gpu.traffic import access_s, missed_bytes, written_back

QUERY_TILE = KEY_TILE = 128
HEAD_TILE = 64
"""Head widths are padded to a multiple of it."""

DECODE_QUERIES = 1
LEAST_SPLIT = 256
"""Fewest keys of a part when keys are split."""

SHARED_KEYS = 8
"""Blocks of the same head that read a key tile from L2 at about the same time, so that it is moved once."""

DECODE_WAITS = 2.5
"""Accesses that a step over a key tile waits for when one query leaves nothing else to do: keys, then values."""

_DIAGONAL = 1.2
"""Tiles that a masked diagonal tile adds to the walk of a block, beside its own half."""


def attention(op: MappedOp, work: Attention, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """The main kernel and, when keys are split, the one that combines the parts."""
    if work.query_length <= DECODE_QUERIES:
        return _decode(op, work, parameters)
    return (_prefill(op, work, parameters),)


def _unit(work: Attention, parameters: GpuParameters) -> Unit:
    """Tensor cores for 16-bit and narrower types; the frameworks' fused kernel for 32-bit floats multiplies on the SIMT
    units, also where products may be rounded to tfloat32."""
    wide = element_type(work.dtype).name in ("float32", "tfloat32")
    return vector_unit(parameters, "float32") if wide else matrix_unit(parameters, work.dtype)


def _padded(extent: int, multiple: int) -> int:
    return -(-extent // multiple) * multiple


def _visible(work: Attention) -> float:
    """Fraction of the scores that a causal mask leaves, keys aligned with the last query."""
    if not work.causal or work.query_length > work.kv_length:
        return 1.0
    return 1.0 - (work.query_length - 1) / (2.0 * work.kv_length)


def _scores_J(work: Attention, parameters: GpuParameters) -> float:
    unit = _unit(work, parameters)
    scores = _visible(work) * work.batch * work.heads * work.query_length * work.kv_length
    return unit.joules * 2 * _visible(work) * work.macs + parameters.energy.vector * 5 * scores


def _prefill(op: MappedOp, work: Attention, parameters: GpuParameters) -> Kernel:
    sm, unit = parameters.sm, _unit(work, parameters)
    depth = _padded(work.head_dim, HEAD_TILE) + _padded(work.value_dim, HEAD_TILE)
    pairs = QUERY_TILE * KEY_TILE
    achieved = parameters.achieved.attention if unit.tensor else unit.achieved
    products = pairs * depth / (unit.macs_per_clock * achieved)
    tile_s = (products + pairs / parameters.vector.special) / sm.clock
    blocks = work.batch * work.heads * -(-work.query_length // QUERY_TILE)
    longest = -(-work.kv_length // KEY_TILE)
    mean = longest * _visible(work) + (_DIAGONAL if work.causal else 0.0)
    waves = -(-blocks // sm.count)
    steps = waves * longest if not work.causal else min(waves * longest, blocks / sm.count * mean + longest / 2)
    compute_s = max(longest, steps) * tile_s + waves * sm.product_start
    size = work.reads[1].bytes / max(1, work.reads[1].elements)
    keys = blocks * work.kv_length * _visible(work) * (work.head_dim + work.value_dim) * size
    return Kernel(
        label=f"attention {QUERY_TILE} queries",
        compute_s=compute_s,
        traffic=Traffic(
            l2_read=keys / SHARED_KEYS + work.reads[0].bytes + sum(operand.bytes for operand in work.reads[3:]),
            l2_write=max(1, work.write_bytes),
            dram_read=missed_bytes(op, parameters.l2),
            dram_write=written_back(op, parameters.l2),
        ),
        latency_s=sm.product_start + parameters.launch.start + (2 + depth / HEAD_TILE) * access_s(op, parameters),
        compute_J=_scores_J(work, parameters),
        component=unit.component,
        blocks=blocks,
    )


def _decode(op: MappedOp, work: Attention, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """Keys and values stream once for each group of heads that shares them."""
    unit = _unit(work, parameters)
    groups = work.batch * work.kv_heads
    splits = max(1, min(-(-parameters.sm.count // groups), work.kv_length // LEAST_SPLIT))
    output = max(1, work.write_bytes)
    partial = 4.0 * work.batch * work.heads * work.query_length * work.value_dim * splits if splits > 1 else output
    keys = work.reads[1].bytes + work.reads[2].bytes
    steps = math.ceil(work.kv_length / splits / KEY_TILE) * math.ceil(groups * splits / parameters.sm.count)
    main = Kernel(
        label="attention over keys",
        compute_s=steps * DECODE_WAITS * parameters.l2.latency,
        traffic=Traffic(
            l2_read=keys + work.reads[0].bytes + sum(operand.bytes for operand in work.reads[3:]),
            l2_write=partial,
            dram_read=missed_bytes(op, parameters.l2),
            dram_write=written_back(op, parameters.l2) if splits == 1 else 0.0,
        ),
        latency_s=parameters.sm.product_start + 2 * access_s(op, parameters),
        compute_J=_scores_J(work, parameters),
        component=unit.component,
        blocks=groups * splits,
    )
    if splits == 1:
        return (main,)
    rows = work.batch * work.heads * work.query_length * work.value_dim
    traffic = Traffic(partial, output, 0.0, written_back(op, parameters.l2))
    combine = streaming("combine key splits", traffic, rows, 10.0 + splits, parameters)
    return main, combine.after(parameters.sm.row_latency)
