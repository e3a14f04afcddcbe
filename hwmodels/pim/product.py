"""Placement of matrix-vector products in the banks: what the busiest channel does, and what all of them do together.

Each output's row of the matrix lies in one bank, in consecutive columns. All banks of a channel multiply the same input
vector (the channel's buffer) with their own row at once: a *round* gives one output a bank. Vectors longer than the
buffer are cut in *tiles* of equal length, whose partial sums the ASIC adds. One vector tile through all its rounds is a
*pass*. The rounds of a pass fill DRAM rows one after the other, so that a row is opened once a pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwmodels.pim.parameters import PimParameters


@dataclass(frozen=True, slots=True)
class Product:
    """Equal passes. Counts are those of the busiest channel a pass; `all_*` are over all channels a pass."""

    passes: int
    tiles: int  # passes whose partial sums belong together
    rounds: int  # result reads
    commands: int  # multiply-accumulate commands of a round
    rows: int  # rows opened, one after the other, in every bank
    held: bool  # the one row that all passes use stays open
    vector_bytes: int
    result_bytes: float
    all_vector_bytes: float
    all_result_bytes: float
    all_rows: float
    all_macs: int
    partial_sums: int  # additions in the ASIC

    @property
    def firings(self) -> int:
        """Rows worked through in all passes: the steps that banks, pins and ASIC overlap in."""
        return self.passes * self.rows


def lanes(parameters: PimParameters, element_bits: int) -> int:
    """Elements that one column command multiplies."""
    return max(1, min(parameters.mac.width, parameters.dram.column_bytes * 8 // element_bits))


def tiling(length: int, element_bits: int, parameters: PimParameters) -> tuple[int, int]:
    """Tiles of a vector of `length` elements, all equal so that none is a short rest, and commands of each."""
    capacity = max(1, parameters.mac.buffer_bytes * 8 // element_bits)
    tiles = -(-length // capacity)
    longest = -(-length // tiles)
    return tiles, -(-longest // lanes(parameters, element_bits))


def place(
    parameters: PimParameters, *, batch: int, m: int, n: int, k: int, element_bits: int, row_aligned: bool = False
) -> list[Product]:
    """Products of `batch` resident n x k matrices with `m` vectors each.

    Whole matrices go to channels as long as every channel gets one; the matrices that remain are split by outputs over
    as many channels each as there are. With `row_aligned` each output's row starts a DRAM row of its own, as in a value
    cache that keeps room for tokens to come.
    """
    dram = parameters.dram
    whole, rest = divmod(batch, dram.channels)
    parts = []
    if whole:
        parts.append((whole * m, dram.channels, 1))
    if rest:
        parts.append((m, rest, dram.channels // rest))
    tiles, commands = tiling(k, element_bits, parameters)
    tile_bytes = -(-k // tiles) * element_bits // 8
    stored_bytes = commands * lanes(parameters, element_bits) * element_bits // 8
    products = []
    for vectors, matrices, share in parts:
        outputs = -(-n // share)
        rounds = -(-outputs // dram.banks)
        rows = (
            rounds * -(-stored_bytes // dram.row_bytes) if row_aligned else -(-rounds * stored_bytes // dram.row_bytes)
        )
        held = rows == 1 and tiles == 1 and vectors == m
        products.append(
            Product(
                passes=vectors * tiles,
                tiles=tiles,
                rounds=rounds,
                commands=commands,
                rows=rows,
                held=held,
                vector_bytes=tile_bytes,
                result_bytes=outputs * element_bits / 8,
                all_vector_bytes=tile_bytes * matrices * share,
                all_result_bytes=matrices * n * element_bits / 8,
                all_rows=(1 / (vectors * tiles) if held else rows) * dram.banks * matrices * share,
                all_macs=matrices * n * commands * lanes(parameters, element_bits),
                partial_sums=matrices * n if tiles > 1 else 0,
            )
        )
    return products


def place_scores(
    parameters: PimParameters, *, queries: int, tokens: int, heads: int, kv_heads: int, head_dim: int, element_bits: int
) -> Product:
    """Scores of `queries` queries with a key cache of `tokens` tokens, a token's heads in consecutive columns.

    Tokens are spread over all banks of all channels; a token's row is opened once for all heads whose part of the query
    is in the buffer, which every channel holds.
    """
    dram = parameters.dram
    width = lanes(parameters, element_bits)
    commands = -(-head_dim // width)
    capacity = max(1, parameters.mac.buffer_bytes * 8 // (element_bits * head_dim))
    tiles = -(-heads // min(heads, capacity))
    heads_a_pass = -(-heads // tiles)
    kv_heads_a_pass = -(-heads_a_pass * kv_heads // heads)
    tokens_a_bank = -(-tokens // (dram.banks * dram.channels))
    stored_bytes = kv_heads_a_pass * commands * width * element_bits // 8
    rows = -(-tokens_a_bank * stored_bytes // dram.row_bytes)
    tokens_a_channel = -(-tokens // dram.channels)
    held = rows == 1 and tiles == 1
    return Product(
        passes=queries * tiles,
        tiles=1,
        rounds=tokens_a_bank * heads_a_pass,
        commands=commands,
        rows=rows,
        held=held,
        vector_bytes=heads_a_pass * head_dim * element_bits // 8,
        result_bytes=tokens_a_channel * heads_a_pass * element_bits / 8,
        all_vector_bytes=heads_a_pass * head_dim * element_bits / 8 * dram.channels,
        all_result_bytes=tokens * heads_a_pass * element_bits / 8,
        all_rows=(1 / (queries * tiles) if held else rows) * min(tokens, dram.banks * dram.channels),
        all_macs=tokens * heads_a_pass * commands * width,
        partial_sums=0,
    )


def open_s(parameters: PimParameters) -> float:
    """Seconds from the first activate command to the first column command: the groups follow each other by tRRD, and
    every fifth waits for the first of its four-activate window."""
    dram = parameters.dram
    gaps = dram.banks // dram.activation_group - 1
    return max(gaps * dram.tRRD, gaps // 4 * dram.tFAW + gaps % 4 * dram.tRRD) + dram.tRCD


def row_s(parameters: PimParameters, product: Product) -> float:
    """Mean seconds that the banks spend on one row of the product: open, multiply, read results, close, refresh.

    A row whose passes all find it open pays for opening only after refreshes, which the mean leaves out.
    """
    dram = parameters.dram
    column_commands = product.rounds * (product.commands + 1) / product.rows
    if product.held:
        return column_commands * dram.tCCD / dram.available
    used = open_s(parameters) + (column_commands - 1) * dram.tCCD + dram.tRTP
    least = open_s(parameters) - dram.tRCD + dram.tRAS
    return (max(used, least) + dram.tRP) / dram.available


def product_s(parameters: PimParameters, product: Product) -> float:
    """Seconds of the busier of banks and pins: an estimate to choose by, not what is reported."""
    pins = product.passes * (product.vector_bytes + product.result_bytes) / parameters.dram.pin_bandwidth
    return max(product.firings * row_s(parameters, product), pins)
