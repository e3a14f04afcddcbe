"""Whether a model fits a microcontroller: weights and code in flash, live activations and buffers in SRAM."""

from __future__ import annotations

from collections.abc import Sequence

from codesign.dtypes import dtype
from codesign.graph import Graph
from codesign.hardware import Fit, MappedOp, MemoryPlan
from codesign.lower import values_of
from codesign.memory import live_bytes
from codesign.work import Work
from hwmodels.mcu.cost import column_buffer_bytes
from hwmodels.mcu.parameters import McuParameters


def plan(parameters: McuParameters, graph: Graph, works: Sequence[Work], deployed: str | None) -> MemoryPlan:
    """All activations live in one arena; `deployed` is the type that replaced the graph's floating types."""
    values = values_of(graph, deployed)
    live = live_bytes(graph, values)
    buffers = [column_buffer_bytes(work) for work in works]
    peak = max(live, default=0)
    ops = tuple(
        MappedOp(op.name, work, resident=(True,) * len(work.reads), keep_output=True)
        for op, work in zip(graph.ops, works, strict=True)
    )
    weights = sum(values[name].operand().bytes for name in graph.weights)
    totals = [activations + buffer for activations, buffer in zip(live, buffers, strict=True)]
    worst = max(range(len(totals)), key=totals.__getitem__, default=None)
    where = f"at '{graph.ops[worst].name}'" if worst is not None else ""
    arena = totals[worst] if worst is not None else 0
    return MemoryPlan(ops, _fit(parameters, weights, arena, where, deployed), peak)


def _fit(parameters: McuParameters, weights: int, arena: int, where: str, deployed: str | None) -> Fit:
    flash = weights + parameters.runtime.code_bytes
    sram = arena + parameters.runtime.data_bytes
    flash_gap, sram_gap = flash - parameters.flash.capacity, sram - parameters.sram.capacity
    reasons = [
        _sentence("flash", flash, parameters.flash.capacity, f"weights {weights:,} B and code"),
        _sentence(
            "SRAM", sram, parameters.sram.capacity, f"live activations and buffers {arena:,} B {where} and stack"
        ),
    ]
    wide = deployed is not None and dtype(deployed).bits > 8
    levers = [f"int8 instead of {deployed}: a {dtype(deployed).bits // 8}th of the bytes"] if deployed and wide else []
    if flash_gap > 0:
        levers.append(f"weights smaller by {flash_gap:,} B (pruning, factorisation, narrower layers)")
        levers.append(f"flash.capacity of at least {flash:,} B")
    if sram_gap > 0:
        levers.append(
            f"activations {where} smaller by {sram_gap:,} B (input resolution, patch by patch, fewer channels)"
        )
        levers.append(f"sram.capacity of at least {sram:,} B")
    fits = flash_gap <= 0 and sram_gap <= 0
    gap = max(flash_gap, 0) + max(sram_gap, 0)
    return Fit(fits, "; ".join(reasons), gap, () if fits else tuple(levers))


def _sentence(memory: str, need: int, capacity: int, what: str) -> str:
    if need <= capacity:
        return f"{memory}: {what} take {need:,} of {capacity:,} B"
    return f"{memory}: {what} need {need:,} B, {need - capacity:,} more than the {capacity:,} B there are"
