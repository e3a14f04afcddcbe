"""How each class of work runs: products with matrices that lie in the banks there, the rest on the ASIC or the host.

Rules, as in PIM-GPT (npj Unconventional Computing 2024):
* a product of a type the units multiply runs in the banks, token by token, unless the ASIC would end sooner (depthwise
  convolutions use one bank of many); a matrix that was just computed is written into the banks first;
* keys lie token by token and values element by element, so that scores and weighted sums are both products row by row;
* elementwise work, norms and softmax run on the ASIC's adders and multipliers;
* sorting, fast transforms and communication with other devices run on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from codesign.dtypes import dtype
from codesign.hardware import MappedOp, Tasks
from codesign.work import (
    Attention,
    Collective,
    Contraction,
    Gather,
    Move,
    Operand,
    Scan,
    Sort,
    Transform,
    Work,
)
from hwmodels.pim.arithmetic import Arithmetic, arithmetic, element_passes, softmax
from hwmodels.pim.parameters import PimParameters
from hwmodels.pim.product import Product, place, place_scores, product_s
from hwmodels.pim.tasks import Stage, Writer

EMPTY = Stage((), ())


def map_op(op: MappedOp, writer: Writer) -> Tasks:
    """Write the tasks of one operation; its tasks wait for its inputs unless they only read weights."""
    handler = _HANDLERS.get(type(op.work), _vector)
    return handler(op, writer)


def bank_products(op: MappedOp, parameters: PimParameters) -> list[list[Product]]:
    """The products of one operation that run in the banks, those of a list one after the other."""
    work = op.work
    if isinstance(work, Contraction) and in_banks(op, parameters):
        return [contraction_products(work, parameters)]
    if isinstance(work, Attention) and dtype(work.dtype).name in parameters.mac.dtypes:
        return [[score_product(work, parameters)], value_products(work, parameters)]
    return []


def from_memory(op: MappedOp, skip: tuple[int, ...] = ()) -> int:
    """Bytes of activations that the ASIC must read from the banks; caches and weights stay where they are."""
    return sum(
        operand.bytes
        for position, operand in enumerate(op.work.reads)
        if operand.role == "activation" and not is_resident(op, position) and position not in skip
    )


def is_resident(op: MappedOp, position: int) -> bool:
    return position < len(op.resident) and op.resident[position]


def weights_to_asic(work: Work, skip: tuple[int, ...] = ()) -> int:
    """Bytes of weights that the ASIC itself needs: gains, biases, tables."""
    return sum(o.bytes for position, o in enumerate(work.reads) if o.role == "weight" and position not in skip)


def to_memory(op: MappedOp) -> int:
    return 0 if op.keep_output else sum(o.bytes for o in op.work.writes if o.role != "state")


def pieces(parameters: PimParameters, streamed: float) -> int:
    """Pieces in which bytes stream through the ASIC: each takes a quarter of its memory, two in and two out."""
    return max(1, -(-int(streamed) // max(1, parameters.asic.sram_bytes // 4)))


def in_banks(op: MappedOp, parameters: PimParameters) -> bool:
    """Whether a product runs beside the banks: their type, and the ASIC would not end sooner."""
    work = op.work
    if not isinstance(work, Contraction) or dtype(work.dtype).name not in parameters.mac.dtypes:
        return False
    dram = parameters.dram
    banks = sum(product_s(parameters, product) for product in contraction_products(work, parameters))
    if work.reads[1].role == "activation":
        banks += work.reads[1].bytes / (dram.channels * dram.pin_bandwidth)
    multiply = work.macs * element_passes(work) / (parameters.asic.multipliers * parameters.asic.clock)
    return banks <= max(multiply, asic_traffic(work, parameters) / (dram.channels * dram.pin_bandwidth))


def asic_traffic(work: Contraction, parameters: PimParameters) -> float:
    """Bytes the ASIC reads for a product of its own: one side once, the other as often as half its memory holds the
    first."""
    half = max(1, parameters.asic.sram_bytes // 2)
    left, right = work.reads[0].bytes, work.reads[1].bytes
    return min(left + right * -(-left // half), right + left * -(-right // half))


def contraction_products(work: Contraction, parameters: PimParameters) -> list[Product]:
    bits = dtype(work.dtype).bits
    return place(parameters, batch=work.batch, m=work.m, n=work.n, k=work.k, element_bits=bits)


def _contraction(op: MappedOp, writer: Writer) -> Tasks:
    work: Any = op.work
    return _bank_product(op, work, writer) if in_banks(op, writer.parameters) else _asic_product(op, work, writer)


def _bank_product(op: MappedOp, work: Contraction, writer: Writer) -> Tasks:
    parameters = writer.parameters
    moved, stored = from_memory(op), to_memory(op)
    early = writer.transfer("load bias", weights_to_asic(work, skip=(1,)))
    stage = writer.transfer("load activations", moved, pieces=pieces(parameters, moved))
    if work.reads[1].role == "activation":
        stage = writer.follow(stage, _write_matrix(writer, work.reads[1].bytes))
        waits = stage.last
    else:
        waits = ()
    product = writer.products(contraction_products(work, parameters))
    for source in waits:
        for target in product.first:
            writer.builder.barrier(source, target)
    stage = Stage(stage.first or product.first, product.last) if waits else writer.follow(stage, product)
    return _finish(writer, stage, early, _epilogue(work), stored)


def _write_matrix(writer: Writer, total_bytes: int) -> Stage:
    """Write a computed matrix into rows of all banks of all channels."""
    dram = writer.parameters.dram
    in_channel = -(-total_bytes // dram.channels)
    rounds = -(-in_channel // (dram.banks * dram.row_bytes))
    return writer.write_rows("write matrix", rounds, -(-in_channel // (rounds * dram.column_bytes)))


def _asic_product(op: MappedOp, work: Contraction, writer: Writer) -> Tasks:
    """A product on the ASIC's own multipliers, its operands streamed from the banks as its memory requires."""
    resident = sum(o.bytes for i, o in enumerate(work.reads[:2]) if is_resident(op, i))
    moved = max(asic_traffic(work, writer.parameters) - resident, 0) + from_memory(op, skip=(0, 1))
    early = writer.transfer("load bias", weights_to_asic(work, skip=(0, 1)))
    count = pieces(writer.parameters, moved)
    stage = writer.transfer("load operands", moved, pieces=count)
    stage = writer.follow(
        stage, writer.compute("multiply on the ASIC", arithmetic(work, writer.parameters.asic), pieces=count)
    )
    return _finish(writer, stage, early, None, to_memory(op))


def _epilogue(work: Work) -> Arithmetic | None:
    half = -(-work.epilogue_flops // 2)
    return Arithmetic(half, half) if half else None


def _finish(writer: Writer, stage: Stage, early: Stage, epilogue: Arithmetic | None, stored: int) -> Tasks:
    """Add the epilogue and the store of the results; weights loaded early are needed by the last computation."""
    count = pieces(writer.parameters, stored)
    if epilogue is not None:
        computed = writer.compute("epilogue", epilogue, pieces=count)
        for source in early.last:
            for target in computed.first:
                writer.builder.barrier(source, target)
        stage = writer.follow(stage, computed)
        early_exit: tuple[int, ...] = ()
    else:
        early_exit = early.last
    stage = writer.follow(stage, writer.transfer("store results", stored, pieces=count))
    return Tasks(entry=stage.first, exit=stage.last + early_exit, early=early.first)


def _attention(op: MappedOp, writer: Writer) -> Tasks:
    work: Any = op.work
    parameters, asic = writer.parameters, writer.parameters.asic
    if dtype(work.dtype).name not in parameters.mac.dtypes:
        return _asic_attention(op, work, writer)
    bits, new = dtype(work.dtype).bits, work.batch * min(work.query_length, work.kv_length)
    query = writer.transfer("load query, new key and value", _new_bytes(op, work))
    key, value = _write_key(writer, work, new, bits), _write_value(writer, work, new, bits)
    scores = writer.product(score_product(work, parameters))
    weighted = writer.products(value_products(work, parameters))
    count = work.query_length
    tokens = mean_tokens(work)
    each = softmax(work.batch, work.heads, tokens, asic)
    exponent = writer.compute(
        "softmax", replace(each, additions=each.additions * count, multiplications=each.multiplications * count),
        pieces=count,
    )  # fmt: skip
    for source in query.last:
        for target in (*key.first, *value.first, *scores.first):
            writer.builder.barrier(source, target)
    for source in key.last:
        for target in scores.first:
            writer.builder.barrier(source, target)
    for source in value.last:
        for target in weighted.first:
            writer.builder.barrier(source, target)
    writer.follow(writer.follow(scores, exponent), weighted)
    stage = Stage(query.first or key.first + value.first + scores.first, weighted.last)
    return _finish(writer, stage, EMPTY, _epilogue(work), to_memory(op))


def mean_tokens(work: Attention) -> int:
    """Keys that a query meets on average: a causal mask spares those after it, aligned at the end."""
    spared = (min(work.query_length, work.kv_length) - 1) // 2 if work.causal else 0
    return work.kv_length - spared


def score_product(work: Attention, parameters: PimParameters) -> Product:
    return place_scores(
        parameters,
        batch=work.batch,
        queries=work.query_length,
        tokens=mean_tokens(work),
        heads=work.heads,
        kv_heads=work.kv_heads,
        head_dim=work.head_dim,
        element_bits=dtype(work.dtype).bits,
    )


def value_products(work: Attention, parameters: PimParameters) -> list[Product]:
    """The weighted sums: of each head's values, an element's tokens side by side, with each of its queries' scores."""
    return place(
        parameters,
        batch=work.batch * work.kv_heads,
        m=work.query_length * -(-work.heads // work.kv_heads),
        n=work.value_dim,
        k=mean_tokens(work),
        element_bits=dtype(work.dtype).bits,
        row_aligned=True,
    )


def _new_bytes(op: MappedOp, work: Attention) -> int:
    """Bytes of query, mask, and the new tokens' keys and values that are not in the ASIC's memory. A key or value may
    be given whole, cache included, of which only the new tokens move."""
    new = work.batch * min(work.query_length, work.kv_length) * work.kv_heads
    most = {1: new * work.head_dim, 2: new * work.value_dim}
    return sum(
        dtype(operand.dtype).bytes_for(min(operand.elements, most.get(position, operand.elements)))
        for position, operand in enumerate(work.reads)
        if not is_resident(op, position) and (operand.role == "activation" or position in most)
    )


def _write_key(writer: Writer, work: Attention, new: int, bits: int) -> Stage:
    """Each new token's key goes to consecutive columns of one bank; tokens take turns over the channels."""
    dram = writer.parameters.dram
    columns = -(-work.kv_heads * work.head_dim * bits // (8 * dram.column_bytes))
    return writer.write_rows("write key", -(-new // dram.channels), columns, channels=new)


def _write_value(writer: Writer, work: Attention, new: int, bits: int) -> Stage:
    """Each element of the new values goes to a row of its own; new tokens of a sequence lie side by side in it."""
    dram = writer.parameters.dram
    rows = -(-work.batch * work.kv_heads * work.value_dim // (dram.channels * dram.banks))
    columns = -(-(new // work.batch) * bits // (8 * dram.column_bytes))
    sets = -(-columns // dram.columns)
    return writer.write_rows("write value", rows * sets, -(-columns // sets) * dram.banks)


def _asic_attention(op: MappedOp, work: Attention, writer: Writer) -> Tasks:
    """Attention in a type that the banks do not multiply: both products and the softmax on the ASIC."""
    asic = writer.parameters.asic
    tokens = mean_tokens(work)
    macs = work.batch * work.heads * work.query_length * tokens * (work.head_dim + work.value_dim)
    wide = -(-dtype(work.dtype).bits // 16)
    scores = softmax(work.batch * work.query_length, work.heads, tokens, asic)
    total = Arithmetic(wide * (macs + scores.additions), wide * (macs + scores.multiplications), scores.passes)
    moved = sum(o.bytes for i, o in enumerate(work.reads) if not is_resident(op, i))
    count = pieces(writer.parameters, moved)
    stage = writer.transfer("load query, key and value", moved, pieces=count)
    stage = writer.follow(stage, writer.compute("attention on the ASIC", total, pieces=count))
    return _finish(writer, stage, EMPTY, _epilogue(work), to_memory(op))


def _vector(op: MappedOp, writer: Writer) -> Tasks:
    """Elementwise work and reductions: stream through the ASIC what is not in its memory."""
    moved, stored = from_memory(op), to_memory(op)
    count = pieces(writer.parameters, moved + stored)
    early = writer.transfer("load weights", weights_to_asic(op.work))
    stage = writer.transfer("load activations", moved, pieces=count)
    computed = writer.compute(op.work.kind, arithmetic(op.work, writer.parameters.asic), pieces=count)
    for source in early.last:
        for target in computed.first:
            writer.builder.barrier(source, target)
    if stage.last:
        writer.builder.buffer(stage.last[0], computed.first[0], slots=2)
    stage = writer.follow(stage, computed)
    stage = writer.follow(stage, writer.transfer("store results", stored, pieces=count))
    return Tasks(entry=stage.first, exit=stage.last, early=early.first)


def _move(op: MappedOp, writer: Writer) -> Tasks:
    """Data moved between banks and the ASIC's memory, in whole columns; what stays there crosses its adders' ports.
    Caches are appended to where they lie, so that only what is new moves."""
    work: Any = op.work
    if work.free:
        return Tasks((), ())
    column = writer.parameters.dram.column_bytes
    run = max(1, work.contiguous_bytes)
    whole = -(-run // column) * column / run
    moved = (from_memory(op) + weights_to_asic(work)) * whole
    stored = to_memory(op) * whole
    elements = max(1, sum(o.elements for o in work.writes))
    count = pieces(writer.parameters, moved + stored)
    stage = writer.transfer("load", moved, pieces=count)
    stage = writer.follow(stage, writer.compute("move", Arithmetic(elements, 0), pieces=count))
    stage = writer.follow(stage, writer.transfer("store", stored, pieces=count))
    return Tasks(entry=stage.first, exit=stage.last)


def _gather(op: MappedOp, writer: Writer) -> Tasks:
    """Runs at addresses found in data: the ASIC reads the addresses, then the banks open a row for each run."""
    work: Any = op.work
    index = sum(o.bytes for i, o in enumerate(work.reads[1:], 1) if o.role != "weight" and not is_resident(op, i))
    stage = writer.transfer("load addresses", index)
    stage = writer.follow(stage, writer.lookups(work.kind, work.lookups, work.run_bytes))
    if not work.scatter:
        stage = writer.follow(stage, writer.transfer("store results", to_memory(op), pieces=1))
    return Tasks(entry=stage.first, exit=stage.last)


def _scan(op: MappedOp, writer: Writer) -> Tasks:
    """A recurrence: each step is a product with the resident weights, then elementwise work that the next waits for."""
    work: Any = op.work
    parameters = writer.parameters
    half = -(-work.step_flops * work.steps // 2)
    stage = writer.transfer("load activations", from_memory(op))
    weights: list[Operand] = [o for o in work.reads if o.role == "weight"]
    banked = bool(weights and work.step_macs and dtype(work.dtype).name in parameters.mac.dtypes)
    extra = 0 if banked else work.macs
    wide = element_passes(work)
    step = writer.compute("step", Arithmetic((half + extra) * wide, (half + extra) * wide), pieces=work.steps)
    begin: Stage = step
    if banked:
        bits = dtype(work.dtype).bits
        length = max(1, work.state_bytes * 8 // bits // work.lanes)
        outputs = -(-work.step_macs // (length * work.lanes))
        placed = place(parameters, batch=work.lanes, m=work.steps, n=outputs, k=length, element_bits=bits)
        products = [writer.product(product) for product in placed]
        for product in products:
            for target in step.first:
                writer.link(product.last[0], target)
            for source in step.last:
                writer.builder.buffer(product.first[0], source, slots=1)
        begin = Stage(_all(product.first for product in products), ())
    else:
        for target in step.first:
            writer.builder.buffer(target, step.last[0], slots=1)
    writer.follow(stage, begin)
    stage = Stage(stage.first or begin.first, step.last)
    return _finish(writer, stage, EMPTY, _epilogue(work), to_memory(op))


def _host(op: MappedOp, writer: Writer) -> Tasks:
    """Sorting and fast transforms: the data goes to the host and comes back."""
    stage = writer.transfer("load activations", from_memory(op))
    work = op.work
    stage = writer.follow(stage, writer.host(work.kind, work.read_bytes, work.flops, work.write_bytes))
    stage = writer.follow(stage, writer.transfer("store results", to_memory(op)))
    return Tasks(entry=stage.first, exit=stage.last)


def _collective(op: MappedOp, writer: Writer) -> Tasks:
    """Communication through the host's link: each participant sends and receives its part of the payload."""
    work: Any = op.work
    others = work.participants - 1
    both_ways = {"all_reduce": 2 * others / work.participants, "all_gather": others, "broadcast": 1, "send": 1}
    crossing = work.payload_bytes * both_ways.get(work.pattern, others / work.participants)
    stage = writer.transfer("load activations", from_memory(op))
    stage = writer.follow(stage, writer.host(work.kind, crossing, work.flops, crossing))
    stage = writer.follow(stage, writer.transfer("store results", to_memory(op)))
    return Tasks(entry=stage.first, exit=stage.last)


def _all(groups: Any) -> tuple[int, ...]:
    return tuple(task for group in groups for task in group)


_HANDLERS: dict[type[Work], Callable[[MappedOp, Writer], Tasks]] = {
    Contraction: _contraction,
    Attention: _attention,
    Move: _move,
    Gather: _gather,
    Scan: _scan,
    Sort: _host,
    Transform: _host,
    Collective: _collective,
}
"""Work that has no entry (elementwise, reductions) streams through the ASIC."""
