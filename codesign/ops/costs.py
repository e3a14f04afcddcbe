"""Work of the forms that many operators share: elementwise, views, copies in runs, gathers and reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from codesign.dtypes import dtype
from codesign.graph import Op
from codesign.ops.arguments import operands, present
from codesign.ops.base import Value
from codesign.work import Gather, Map, Move, Reduce


def map_work(op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value], flops: float) -> Map:
    """Elementwise work at `flops` operations an element of the first output."""
    found = present(inputs)
    return Map(
        kind=op.kind,
        reads=operands(inputs),
        writes=operands(outputs),
        elements=outputs[0].elements,
        flops_per_element=flops,
        dtype=found[0].dtype if found else outputs[0].dtype,
    )


def view_work(op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Move:
    """Memory under another name or shape, or a value known beforehand: no byte is touched."""
    return Move(
        kind=op.kind,
        reads=tuple(found.operand(0) for found in present(inputs)),
        writes=tuple(output.operand(0) for output in outputs),
        contiguous_bytes=0,
        free=True,
    )


def copy_work(op: Op, inputs: Sequence[Value], outputs: Sequence[Value], run: int, touched: int | None = None) -> Move:
    """A copy in runs of `run` elements. `touched` elements of the first input are read; all when not given."""
    reads = (inputs[0].operand(touched), *operands(inputs[1:]))
    return Move(
        kind=op.kind,
        reads=reads,
        writes=operands(outputs),
        contiguous_bytes=max(1, dtype(inputs[0].dtype).bytes_for(run)),
    )


def fill_work(op: Op, inputs: Sequence[Value], outputs: Sequence[Value]) -> Move:
    """A result written from little or nothing, in one run."""
    writes = operands(outputs)
    return Move(kind=op.kind, reads=operands(inputs), writes=writes, contiguous_bytes=max(1, writes[0].bytes))


def gather_work(
    op: Op, table: Value, indices: Sequence[Value], outputs: Sequence[Value], run: int, touched: int | None = None
) -> Gather:
    """Reads of runs of `run` elements: of `table` only what is looked up, and nothing twice. `touched` elements of it
    are known to be; else as many as there can be."""
    elements = outputs[0].elements
    read = min(elements, table.elements)
    return Gather(
        kind=op.kind,
        reads=(table.operand(read if touched is None else min(read, touched)), *operands(indices)),
        writes=operands(outputs),
        lookups=elements // max(run, 1),
        run_bytes=dtype(table.dtype).bytes_for(run),
    )


def scatter_work(
    op: Op, data: Value, others: Sequence[Value], outputs: Sequence[Value], run: int, updates: int
) -> Gather:
    """A copy of `data` with `updates` elements overwritten in runs of `run`."""
    return Gather(
        kind=op.kind,
        reads=(data.operand(), *operands(others)),
        writes=operands(outputs),
        lookups=updates // max(run, 1),
        run_bytes=dtype(data.dtype).bytes_for(run),
        scatter=True,
    )


def reduce_work(op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value], columns: int, flops: float) -> Reduce:
    """One reduction of `columns` elements for each element of the first output."""
    return Reduce(
        kind=op.kind,
        reads=operands(inputs),
        writes=operands(outputs),
        rows=outputs[0].elements,
        columns=columns,
        flops_per_element=flops,
        dtype=present(inputs)[0].dtype,
    )


def trailing_run(source: tuple[int, ...], result: tuple[int, ...]) -> int:
    """Elements that stay together when a box is cut from, or put into, a larger one: the trailing axes that are whole,
    times the extent of the first that is not."""
    run = 1
    for whole, part in zip(reversed(source), reversed(result), strict=True):
        run *= min(whole, part)
        if whole != part:
            break
    return run


def inner_elements(shape: Sequence[int], axis: int) -> int:
    """Elements of one entry along `axis`: the product of the later extents."""
    return math.prod(shape[axis + 1 :])
