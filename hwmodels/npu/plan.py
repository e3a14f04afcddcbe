"""Residency: which feature maps stay on chip between operations, and whether the model fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from codesign.graph import Graph, Op
from codesign.hardware import Fit, MappedOp, MemoryPlan
from codesign.lower import values_of
from codesign.memory import last_uses, live_bytes
from codesign.ops.base import Value
from codesign.work import Move, Work
from hwmodels.deployment import deployed_type
from hwmodels.npu.mapping import runs_on_npu
from hwmodels.npu.parameters import NpuParameters
from hwmodels.npu.sparsity import minds_zeros


def plan(parameters: NpuParameters, graph: Graph, works: Sequence[Work]) -> MemoryPlan:
    """Keep each result on chip, in the order they are made, while it fits with those still needed; else spill it.

    Graph inputs arrive in DRAM and graph outputs are left there.
    """
    values = values_of(graph, deployed_type(graph, works))
    kept = _kept(parameters, graph, works, values)
    ops = tuple(
        MappedOp(
            op.name,
            work,
            resident=_resident(op, work, values, kept),
            keep_output=bool(op.outputs) and all(name in kept for name in op.outputs if name),
            prefetch=True,
        )
        for op, work in zip(graph.ops, works, strict=True)
    )
    live = live_bytes(graph, values)
    peak = max(live, default=0)
    return MemoryPlan(ops, _fit(parameters, works, peak), peak, _warnings(parameters, graph, works))


def _kept(
    parameters: NpuParameters, graph: Graph, works: Sequence[Work], values: Mapping[str, Value]
) -> frozenset[str]:
    """Names of the values that stay on chip from their making to their last use."""
    room = parameters.sram.capacity * parameters.sram.kept_share
    last = last_uses(graph)
    used = np.zeros(len(graph.ops) + 1)
    kept: set[str] = set()
    outputs = set(graph.outputs)
    for index, (op, work) in enumerate(zip(graph.ops, works, strict=True)):
        view = isinstance(work, Move) and work.free and bool(op.inputs)
        for name in op.outputs:
            if not name or name in outputs:
                continue
            end = last.get(name, index) + 1
            size = values[name].operand().bytes
            if view and op.inputs[0] not in kept:
                continue
            start = last.get(op.inputs[0], index) + 1 if view else index
            if used[start:end].max(initial=0) + size <= room:
                used[start:end] += size
                kept.add(name)
    return frozenset(kept)


def _resident(op: Op, work: Work, values: Mapping[str, Value], kept: frozenset[str]) -> tuple[bool, ...]:
    """For each operand read, whether the tensor it stands for is kept. Operands follow the order of the inputs, some of
    which (shapes, axes) are no operands, and may be a part of theirs (a gather)."""
    names = [name for name in op.reads() if name in values]
    resident = []
    for operand in work.reads:
        alike = [name for name in names if values[name].role == operand.role]
        sizes = {name: values[name].operand().bytes for name in alike}
        match = next((name for name in alike if sizes[name] == operand.bytes), None) or next(
            (name for name in alike if sizes[name] > operand.bytes), None
        )
        if match is not None:
            names.remove(match)
        resident.append(match in kept)
    return tuple(resident)


def _fit(parameters: NpuParameters, works: Sequence[Work], peak: int) -> Fit:
    weights = sum(work.weight_bytes for work in works)
    need = weights + peak
    capacity = parameters.dram.capacity
    if need <= capacity:
        return Fit(True, f"weights {weights:,} B and live activations {peak:,} B fit the {capacity:,} B of DRAM")
    return Fit(
        False,
        f"weights {weights:,} B and live activations {peak:,} B need {need - capacity:,} B more than the "
        f"{capacity:,} B of DRAM",
        gap_bytes=need - capacity,
        levers=(f"dram.capacity of at least {need:,}", "a narrower element type", "a smaller batch or input"),
    )


def _warnings(parameters: NpuParameters, graph: Graph, works: Sequence[Work]) -> tuple[str, ...]:
    """One line for each reason why operations run on the host, with how many and which; and one where zeros matter and
    nobody has counted them."""
    reasons: dict[str, list[str]] = {}
    for op, work in zip(graph.ops, works, strict=True):
        if reason := runs_on_npu(parameters, work):
            reasons.setdefault(reason, []).append(op.kind)
    on_host = tuple(
        f"{len(kinds)} operation{'s' if len(kinds) > 1 else ''} on the host ({', '.join(sorted(set(kinds)))}): {reason}"
        for reason, kinds in reasons.items()
    )
    blind = graph.statistics is None and minds_zeros(parameters.array, parameters.weights)
    return (*on_host, "zeros are passed over, but none are known: measure the model's statistics") if blind else on_host
