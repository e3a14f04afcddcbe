"""Fused attention: query tiles over the SMs, scores never stored (Dao et al., FlashAttention-2, 2023).

A block holds two tiles of queries and walks over keys and values. While the tensor cores multiply for one tile, the
special-function and SIMT units do the other's softmax (Shah et al., FlashAttention-3, 2024): the slower counts.
Few queries (decoding) are split over the keys, and a second kernel combines the parts.
"""

from __future__ import annotations

import math

from codesign.hardware import MappedOp
from codesign.work import Attention
from hwmodels.gpu.arithmetic import matrix_unit
from hwmodels.gpu.kernel import Kernel, Traffic
from hwmodels.gpu.memory_bound import streaming
from hwmodels.gpu.parameters import GpuParameters
from hwmodels.gpu.traffic import missed_bytes, written_back

_QUERY_TILES = (128, 64, 16)
_SPLITS = (1, 2, 4, 8, 16, 32, 64)
_KEY_TILE = 64
_SCORE_INSTRUCTIONS = 4
"""Scale, maximum, subtraction and sum of each score, beside its exponential."""


def attention(op: MappedOp, work: Attention, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """The main kernel and, when keys are split, the one that combines the parts."""
    options = [(_estimate(work, parameters, tile, splits), tile, splits) for tile in _QUERY_TILES for splits in _SPLITS]
    _, tile, splits = min(options)
    unit = matrix_unit(parameters, work.dtype)
    blocks = _blocks(work, tile) * splits
    output = max(1, work.write_bytes)
    dram_write = written_back(op, parameters.l2)
    partial = _partial_bytes(work, splits) if splits > 1 else output
    scores = _visible(work) * work.batch * work.heads * work.query_length * work.kv_length
    main = Kernel(
        label=f"attention {tile} queries",
        latency_s=parameters.sm.product_fill,
        blocks=blocks,
        block_s=_block_seconds(work, parameters, tile, splits),
        traffic=Traffic(
            l2_read=_loads(work, tile) + sum(operand.bytes for operand in work.reads[3:]),
            l2_write=partial,
            dram_read=sum(missed_bytes(op, parameters.l2)),
            dram_write=dram_write if splits == 1 else 0.0,
        ),
        compute_J=unit.joules * 2 * _visible(work) * work.macs + parameters.energy.vector * 5 * scores,
        component=unit.component,
    )
    if splits == 1:
        return (main,)
    rows = work.batch * work.heads * work.query_length * work.value_dim
    combine = streaming(
        "combine key splits",
        Traffic(partial, output, 0.0, dram_write),
        elements=rows,
        instructions=parameters.sm.stream_instructions + splits,
        parameters=parameters,
    )
    return main, combine


def _rows(work: Attention) -> int:
    """Query rows that share a key-value head: queries times heads of the group."""
    return work.query_length * (work.heads // max(1, work.kv_heads))


def _blocks(work: Attention, tile: int) -> int:
    return work.batch * work.kv_heads * -(-_rows(work) // tile)


def _visible(work: Attention) -> float:
    """Fraction of the scores that a causal mask leaves, keys aligned with the last query."""
    if not work.causal or work.query_length > work.kv_length:
        return 1.0
    return 1.0 - (work.query_length - 1) / (2.0 * work.kv_length)


def _padded(extent: int, multiple: int) -> int:
    return -(-extent // multiple) * multiple


def _block_seconds(work: Attention, parameters: GpuParameters, tile: int, splits: int) -> float:
    """Seconds of a block: products, then exponentials and score arithmetic, over its part of the keys."""
    unit = matrix_unit(parameters, work.dtype)
    keys = _padded(-(-work.kv_length // splits), _KEY_TILE) * _visible(work)
    depth = _padded(work.head_dim, 16) + _padded(work.value_dim, 16)
    rate = unit.macs_per_s * (parameters.achieved.attention / parameters.achieved.tensor_float16 if unit.tensor else 1)
    products = tile * keys * depth / rate
    clock = parameters.sm.clock
    softmax = tile * keys * (1 / parameters.vector.special + _SCORE_INSTRUCTIONS / parameters.vector.float32) / clock
    loads = (keys * depth + tile * depth) * unit.element_bytes / (parameters.sm.load_bytes_per_clock * clock)
    steps = math.ceil(keys / _KEY_TILE)
    return max(products, softmax, loads, steps * parameters.sm.attention_step)


def _loads(work: Attention, tile: int) -> float:
    """Bytes through L2: keys and values once for each query tile, queries once."""
    depth = work.head_dim + work.value_dim
    size = matrix_unit_bytes(work)
    keys = _blocks(work, tile) * work.kv_length * _visible(work) * depth * size
    return keys + work.reads[0].bytes


def matrix_unit_bytes(work: Attention) -> float:
    """Bytes of an element of the keys as stored."""
    return work.reads[1].bytes / max(1, work.reads[1].elements)


def _estimate(work: Attention, parameters: GpuParameters, tile: int, splits: int) -> float:
    waves = -(-_blocks(work, tile) * splits // parameters.sm.count)
    seconds = max(waves * _block_seconds(work, parameters, tile, splits), _loads(work, tile) / parameters.l2.bandwidth)
    if splits == 1:
        return seconds
    partial_s = 2 * _partial_bytes(work, splits) / parameters.l2.bandwidth
    return seconds + partial_s + parameters.launch.start + 2 * parameters.l2.latency


def _partial_bytes(work: Attention, splits: int) -> float:
    """Float32 results of all key splits, before they are combined."""
    return 4.0 * work.batch * work.heads * work.query_length * work.value_dim * splits
