"""Placement of matrix-vector products in the banks: what the busiest channel does, and what all of them do together.

Each output's row of the matrix lies in one bank, in consecutive columns. All banks of a channel multiply the same input
vector (the channel's buffer) with their own row at once: a *round* gives one output a bank. Vectors longer than the
buffer are cut in *tiles* of equal length, whose partial sums the ASIC adds. One vector tile through all its rounds is a
*pass*. The rounds of a vector's passes fill DRAM rows one after the other, so that a row is opened once a vector.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwmodels.pim.parameters import PimParameters

FEWEST_STEPS = 32
"""A product of fewer passes is cut finer: results leave the banks round by round, and only the last step's are late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Equal passes. Counts are those of the busiest channel a pass; `all_*` are over all channels a pass."""

    passes: int
    tiles: int  # passes that one vector takes
    matrices: int  # matrices that the channel goes through, one after the other
    rounds: int  # result reads
    commands: int  # multiply-accumulate commands of a round
    commands_a_row: int  # multiply-accumulate commands that an open row serves
    vector_bytes: int
    result_bytes: float
    all_vector_bytes: float
    all_result_bytes: float
    all_banks: int  # banks that open a row when the channel does
    all_macs: int
    partial_sums: int  # additions in the ASIC

    @property
    def rows(self) -> int:
        """Rows that a vector's passes go through, one after the other, in every bank."""
        return -(-self.tiles * self.rounds * self.commands // self.commands_a_row)

    @property
    def stays_open(self) -> bool:
        """A matrix that is one row in each bank is opened once for all its vectors."""
        return self.rows == 1

    @property
    def openings(self) -> int:
        """Times a row is opened."""
        return self.matrices if self.stays_open else self.passes // self.tiles * self.rows

    @property
    def steps_a_pass(self) -> int:
        """Steps in which banks, pins and ASIC overlap: whole passes when there are many, else some rounds of one."""
        return min(self.rounds, -(-FEWEST_STEPS // self.passes))

    @property
    def steps(self) -> int:
        return self.passes * self.steps_a_pass


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
        parts.append((whole, dram.channels, 1))
    if rest:
        parts.append((1, rest, dram.channels // rest))
    tiles, commands = tiling(k, element_bits, parameters)
    tile_bytes = -(-k // tiles) * element_bits // 8
    width = lanes(parameters, element_bits)
    commands_a_row = max(1, dram.row_bytes * 8 // (width * element_bits))
    if row_aligned:
        commands_a_row = -(-commands // -(-commands // commands_a_row))
    products = []
    for matrices, together, share in parts:
        outputs = -(-n // share)
        products.append(
            Product(
                passes=matrices * m * tiles,
                tiles=tiles,
                matrices=matrices,
                rounds=-(-outputs // dram.banks),
                commands=commands,
                commands_a_row=commands_a_row,
                vector_bytes=tile_bytes,
                result_bytes=outputs * element_bits / 8,
                all_vector_bytes=tile_bytes * together * share,
                all_result_bytes=together * n * element_bits / 8,
                all_banks=dram.banks * together * share,
                all_macs=together * n * commands * width,
                partial_sums=together * n if tiles > 1 else 0,
            )
        )
    return products


def place_scores(
    parameters: PimParameters,
    *,
    batch: int,
    queries: int,
    tokens: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    element_bits: int,
) -> Product:
    """Scores of `queries` queries of each of `batch` sequences with a key cache of `tokens` tokens, a token's heads in
    consecutive columns.

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
    vector_bytes = heads_a_pass * head_dim * element_bits // 8
    return Product(
        passes=batch * queries * tiles,
        tiles=tiles,
        matrices=batch,
        rounds=-(-tokens // (dram.banks * dram.channels)) * heads_a_pass,
        commands=commands,
        commands_a_row=max(1, dram.row_bytes * 8 // (width * element_bits)) * heads_a_pass // kv_heads_a_pass,
        vector_bytes=vector_bytes,
        result_bytes=-(-tokens // dram.channels) * heads_a_pass * element_bits / 8,
        all_vector_bytes=vector_bytes * dram.channels,
        all_result_bytes=tokens * heads_a_pass * element_bits / 8,
        all_banks=min(tokens, dram.banks * dram.channels),
        all_macs=tokens * heads_a_pass * commands * width,
        partial_sums=0,
    )


def activate_s(parameters: PimParameters) -> float:
    """Seconds from the first activate command to the first column command: the groups follow each other by tRRD, and
    every fifth waits for the first of its four-activate window."""
    dram = parameters.dram
    gaps = dram.banks // dram.activation_group - 1
    return max(gaps * dram.tRRD, gaps // 4 * dram.tFAW + gaps % 4 * dram.tRRD) + dram.tRCD


def open_s(parameters: PimParameters) -> float:
    """Mean seconds to close the row before and open the next, refresh's share included."""
    return (parameters.dram.tRP + activate_s(parameters)) / parameters.dram.available


def step_s(parameters: PimParameters, product: Product) -> float:
    """Mean seconds of a step: multiply, read results, and what must pass before a row may be closed."""
    dram = parameters.dram
    columns = product.passes * product.rounds * (product.commands + 1) * dram.tCCD / product.openings
    row = columns
    if not product.stays_open:
        row = max(columns - dram.tCCD + max(dram.tCCD, dram.tRTP), dram.tRAS - dram.tRCD)
    return row * product.openings / product.steps / dram.available


def product_s(parameters: PimParameters, product: Product) -> float:
    """Seconds of the busier of banks and pins: an estimate to choose by, not what is reported."""
    pins = product.passes * (product.vector_bytes + product.result_bytes) / parameters.dram.pin_bandwidth
    banks = product.openings * open_s(parameters) + product.steps * step_s(parameters, product)
    return max(banks, pins)
