"""Matrix products: the kernels of the libraries, their thread-block tiles, split-K and waves over the SMs.

The tile and the number of splits are those with the least estimated time, as the libraries' heuristics choose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from codesign.hardware import MappedOp
from codesign.work import Contraction
from hwmodels.gpu.arithmetic import Unit, matrix_unit, vector_unit
from hwmodels.gpu.kernel import Kernel, Traffic, dynamic_power_W, streaming_s
from hwmodels.gpu.parameters import GpuParameters
from hwmodels.gpu.streaming import streaming
from hwmodels.gpu.traffic import access_s, hit_fraction, missed_bytes, once, written_back

PARTIAL_BYTES = 4
"""Split-K partial sums are float32."""

VECTOR_BYTES = 16
"""Largest access of one thread: tensor-core kernels load operands in such pieces."""

ASYNCHRONOUS_BYTES = 4
"""Smallest piece that is copied to shared memory without passing through registers."""

_PIECES = 0.7
"""How the rate falls with the size of the pieces: some of their latency is hidden."""

LINE_BYTES = 128
"""Rows of results that do not fill whole lines are written in parts, twice as slowly."""

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Family:
    """A family of product kernels: its tiles (rows, columns), splits of k, bytes of a k-slice of one row, slices it
    holds (`stages`), the blocks that share loads, the fewest slices a split takes, how many blocks share an SM, whether
    a tile's results are stored while the next tile is multiplied, and its start in units of `product_start`."""

    tiles: tuple[tuple[int, int], ...]
    splits: tuple[int, ...]
    slice_bytes: int
    stages: int
    cluster: float
    least_slices: int
    largest_occupancy: int
    overlaps_store: bool
    starts: float

    def whole(self) -> Family:
        """The family without splits of k."""
        return replace(self, splits=(1,))


def _hopper_tiles() -> tuple[tuple[int, int], ...]:
    """Warp-group products are 64 rows by any multiple of 8 columns; operands may change sides."""
    columns = (*range(8, 129, 8), 144, 160, 192, 208, 256)
    tiles = {(rows, count) for rows in (64, 128, 192, 256) for count in columns if rows * count <= 256 * 192}
    return tuple(sorted(tiles | {(count, rows) for rows, count in tiles}))


_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
_WIDE_TILES = ((64, 64), (128, 64), (64, 128), (128, 128), (256, 64), (64, 256), (128, 256), (256, 128))
_SIMT_TILES = (
    (32, 32), (64, 64), (128, 32), (32, 128), (64, 128), (128, 64), (128, 128), (64, 256), (256, 64), (128, 256),
)  # fmt: skip

WARP_GROUP = Family(_hopper_tiles(), _SPLITS, 128, 4, 4.0, 4, 1, True, 1.0)
"""Hopper's asynchronous kernels (cuBLAS's nvjet): tensor memory access, warp-group products, clusters."""

WARP = Family(_WIDE_TILES, _SPLITS, 128, 4, 4.0, 2, 2, True, 3.0)

IMPLICIT = replace(WARP, tiles=(*_WIDE_TILES, (128, 32), (64, 32)), least_slices=48, largest_occupancy=4)
"""Implicit products of convolutions, which split only a long k."""

NARROW = replace(IMPLICIT, tiles=((128, 32),), splits=(1,))
"""Those for a few input channels, whose windows are addressed position by position."""
"""Kernels of warp-wide products with asynchronous copies, and Hopper's for tfloat32."""

SIMT = Family(_SIMT_TILES, _SPLITS, 32, 3, 4.0, 4, 4, False, 2.5)
"""Products on the SIMT units."""


@dataclass(frozen=True, slots=True)
class Choices:
    """(N,) tile rows, columns and splits of every combination of a family."""

    rows: Floats
    columns: Floats
    splits: Floats


_CHOICES: dict[int, Choices] = {}


def _choices(family: Family) -> Choices:
    if id(family) not in _CHOICES:
        table = np.array([(*tile, split) for split in family.splits for tile in family.tiles], dtype=np.float64)
        _CHOICES[id(family)] = Choices(*table.T)
    return _CHOICES[id(family)]


@dataclass(frozen=True, slots=True)
class Product:
    """A (batched) product as a kernel sees it: `slices` of k in all, `feed` the fraction of the full rate that the
    operands' alignment allows, `slice_s` and `start_s` the latencies of a slice and of the whole; `gathered` the bytes
    of a slice of one row that are loaded piece by piece, each with an address of its own, 0 when none are."""

    batch: int
    m: int
    n: int
    slices: float
    feed: float
    slice_s: float
    start_s: float
    gathered: float = 0.0


def family_of(unit: Unit, parameters: GpuParameters, name: str) -> Family:
    """The family that serves type `name`."""
    if not unit.tensor:
        return SIMT
    return WARP_GROUP if parameters.generation == "hopper" and name not in ("tfloat32", "float64", "int8") else WARP


def contraction(op: MappedOp, work: Contraction, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """Kernels of a matrix product; a product with a vector may run as dot products, the faster is taken."""
    unit = matrix_unit(parameters, work.dtype)
    family = family_of(unit, parameters, work.dtype)
    slices = math.ceil(work.k * unit.element_bytes / family.slice_bytes)
    product = Product(
        work.batch, work.m, work.n, slices, _feed(work, unit), parameters.sm.slice_latency, 0.0
    )
    kernels = tiled(op, work, product, unit, family, parameters)
    if min(work.m, work.n) > 1 or (family is WARP_GROUP and product.feed == 1.0):
        return kernels
    others = _dot_products(op, work, parameters)
    return min((kernels, others), key=lambda found: _estimate(found, parameters))


def _feed(work: Contraction, unit: Unit) -> float:
    """Fraction of the full rate with operands and results whose rows are not aligned to 16 bytes, and so are loaded and
    stored in smaller pieces; those of less than 4 bytes cannot be copied asynchronously and pass through registers."""
    if not unit.tensor:
        return 1.0
    aligned = math.gcd(int(math.gcd(work.n, work.k) * unit.element_bytes), VECTOR_BYTES)
    return (aligned / VECTOR_BYTES) ** _PIECES * (0.5 if aligned < ASYNCHRONOUS_BYTES else 1.0)


def tiled(
    op: MappedOp, work: Contraction, product: Product, unit: Unit, family: Family, parameters: GpuParameters
) -> tuple[Kernel, ...]:
    """The product in tiles over the SMs, and with split-K the kernel that sums the parts."""
    sm, choices = parameters.sm, _choices(family)
    rows, columns, splits = choices.rows, choices.columns, choices.splits
    clock, sms = sm.clock, sm.count
    depth = family.slice_bytes / unit.element_bytes
    m, n = product.m, product.n
    slices = np.ceil(product.slices / splits)
    tile_rows, tile_columns = np.ceil(m / rows), np.ceil(n / columns)
    blocks = product.batch * tile_rows * tile_columns * splits
    arithmetic = rows * columns * depth / (unit.macs_per_clock * unit.achieved * product.feed)
    port = sm.load_bytes_per_clock if unit.tensor else sm.vector_load_bytes_per_clock
    used_rows, used_columns = np.minimum(rows, -(-m // 8) * 8), np.minimum(columns, -(-n // 8) * 8)
    loads = (used_rows + used_columns) * family.slice_bytes / (port * product.feed)
    if product.gathered:
        gathered = used_rows * product.gathered / sm.gather_bytes_per_clock
        loads = np.maximum(gathered, used_columns * family.slice_bytes / port)
    held = (rows + columns) * family.slice_bytes * family.stages
    occupancy = np.clip(sm.shared_bytes // held, 1, family.largest_occupancy)
    each_sm = np.ceil(blocks / sms)
    rounds = np.ceil(each_sm / occupancy)
    output_bytes = max(1, work.write_bytes)
    element_out = output_bytes / (product.batch * m * n)
    parted = 2.0 if n * element_out % LINE_BYTES and n * element_out > LINE_BYTES else 1.0
    store_s = each_sm * used_rows * used_columns * element_out * parted * sms / parameters.l2.write_bandwidth
    multiply_s = np.maximum(
        each_sm * slices * np.maximum(arithmetic, loads) / clock, rounds * slices * product.slice_s
    )
    if family.overlaps_store:
        compute_s = np.maximum(multiply_s, store_s) + np.minimum(multiply_s, store_s) / rounds
    else:
        compute_s = multiply_s + store_s
    left, right = work.reads[0].bytes, work.reads[1].bytes
    l2_read = left * np.maximum(1.0, tile_columns / family.cluster) + right * np.maximum(
        1.0, tile_rows / family.cluster
    )
    parts = np.where(splits > 1, PARTIAL_BYTES * product.batch * m * n * splits, 0.0)
    sum_s = np.where(splits > 1, parameters.launch.start + parameters.sm.row_latency, 0.0) + parts * (
        1 / parameters.l2.bandwidth + 1 / parameters.l2.write_bandwidth
    )
    dram_read = missed_bytes(op, parameters.l2) + _reread(
        work, product, np.maximum(1.0, np.floor(sms * occupancy / splits)), choices, parameters
    )
    dram_write = written_back(op, parameters.l2)
    dram_s = (dram_read + dram_write) / (parameters.dram.bandwidth * parameters.achieved.dram)
    l2_J = parameters.energy.l2 * (l2_read + output_bytes)
    dram_J = parameters.energy.dram * (dram_read + dram_write)
    capped_s = (l2_J + dram_J + unit.joules * 2 * work.macs) / dynamic_power_W(parameters)
    busy_s = np.maximum(np.maximum(compute_s, l2_read / parameters.l2.bandwidth), dram_s)
    total_s = np.maximum(busy_s, capped_s) + sum_s
    best = int(np.argmin(np.where((splits > 1) & (slices < family.least_slices), np.inf, total_s)))
    whole = splits[best] == 1
    main = Kernel(
        label=f"matrix multiply {int(rows[best])}x{int(columns[best])}",
        compute_s=float(compute_s[best]),
        traffic=Traffic(
            float(l2_read[best]) + sum(operand.bytes for operand in work.reads[2:]),
            float(output_bytes if whole else parts[best]),
            float(np.broadcast_to(dram_read, rows.shape)[best]),
            dram_write if whole else 0.0,
        ),
        latency_s=product.start_s + family.starts * sm.product_start + 2 * access_s(op, parameters),
        compute_J=unit.joules * 2 * work.macs + parameters.energy.vector * work.epilogue_flops,
        component=unit.component,
        blocks=int(blocks[best]),
    )
    if whole:
        return (main,)
    traffic = Traffic(float(parts[best]), output_bytes, 0.0, dram_write)
    elements = product.batch * m * n
    return main, streaming("sum split-K parts", traffic, elements, 10 + float(splits[best]), parameters).after(
        parameters.sm.row_latency
    )


def _reread(
    work: Contraction, product: Product, wave: Floats, choices: Choices, parameters: GpuParameters
) -> Floats | float:
    """Bytes fetched again because the operands do not fit in L2 together, for each choice.

    The tiles of a wave walk over k side by side, so L2 needs to hold no more than their current slices, but each wave
    fetches its rows of one operand and its columns of the other anew. Libraries order tiles so that a wave is squarish.
    """
    left, right = work.reads[0].bytes / product.batch, work.reads[1].bytes / product.batch
    if hit_fraction(left + right, parameters.l2) == 1.0:
        return 0.0
    tile_rows, tile_columns = np.ceil(product.m / choices.rows), np.ceil(product.n / choices.columns)
    across = np.clip(np.sqrt(wave * choices.columns / choices.rows), 1.0, tile_rows)
    along = np.clip(np.floor(wave / across), 1.0, tile_columns)
    across = np.clip(np.floor(wave / along), 1.0, tile_rows)
    fetched = left * np.ceil(tile_columns / along) + right * np.ceil(tile_rows / across)
    return product.batch * np.maximum(0.0, fetched - left - right)


def _dot_products(op: MappedOp, work: Contraction, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """A matrix times a vector: warps stream the matrix and reduce their dot products."""
    unit = vector_unit(parameters, work.dtype)
    instructions = 1.0 + parameters.vector.issue / (unit.macs_per_clock * unit.achieved)
    kernel = streaming("matrix times vector", once(op, parameters.l2), work.macs, instructions, parameters)
    return (kernel.after(parameters.sm.row_latency + access_s(op, parameters)),)


def _estimate(kernels: tuple[Kernel, ...], parameters: GpuParameters) -> float:
    """Estimated seconds of kernels."""
    return sum(parameters.launch.start + kernel.latency_s + streaming_s(kernel, parameters) for kernel in kernels)
