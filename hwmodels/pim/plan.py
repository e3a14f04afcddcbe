"""Where a model's tensors lie: weights and caches in the banks, activations in the ASIC's memory while they fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from codesign.dtypes import dtype
from codesign.graph import Graph, Op
from codesign.hardware import Fit, MappedOp, MemoryPlan
from codesign.lower import values_of
from codesign.memory import last_uses, live_bytes
from codesign.ops.base import Value
from codesign.work import Attention, Collective, Contraction, Operand, Sort, Transform, Work
from hwmodels.pim.mapping import in_banks
from hwmodels.pim.parameters import PimParameters


def plan(graph: Graph, works: Sequence[Work], parameters: PimParameters) -> MemoryPlan:
    """Residency of each operation's operands, whether all fits the banks, and what does not run there."""
    values = values_of(graph, _float_type(works))
    live = live_bytes(graph, values)
    kept = _kept(graph, values, parameters.asic.sram_bytes)
    ops = tuple(
        MappedOp(
            name=op.name,
            work=_in_place(op, work),
            resident=tuple(name in kept for name in op.reads()),
            keep_output=all(name in kept for name in op.outputs if name and name not in _caches(op)),
        )
        for op, work in zip(graph.ops, works, strict=True)
    )
    peak = max(live, default=0)
    return MemoryPlan(ops, fit(graph, values, peak, parameters), peak, _warnings(ops, parameters))


def _float_type(works: Sequence[Work]) -> str | None:
    """The floating type of the deployment: that of most operands."""
    seen = Counter(
        operand.dtype for work in works for operand in (*work.reads, *work.writes) if dtype(operand.dtype).is_float
    )
    return seen.most_common(1)[0][0] if seen else None


def _kept(graph: Graph, values: Mapping[str, Value], sram_bytes: int) -> set[str]:
    """Activations that stay in the ASIC's memory: at no time of their life is more alive than it holds. Inputs and
    outputs of the graph, caches among them, lie in the banks."""
    outside = {*graph.inputs, *graph.outputs}
    inside = {name: replace(value, shape=(0,)) if name in outside else value for name, value in values.items()}
    live = live_bytes(graph, inside)
    last = last_uses(graph)
    crowded = [0]
    for size in live:
        crowded.append(crowded[-1] + (size > sram_bytes))
    produced = {name: index for index, op in enumerate(graph.ops) for name in op.outputs if name}
    return {
        name
        for name, begin in produced.items()
        if name not in outside and crowded[min(last[name], len(live) - 1) + 1] == crowded[begin]
    }


def _caches(op: Op) -> tuple[str, ...]:
    """Past keys and values that an attention takes beside the new ones, and present ones that it hands back."""
    return (*op.inputs[4:6], *op.outputs[1:3]) if op.kind == "Attention" else ()


def _in_place(op: Op, work: Work) -> Work:
    """The work with caches left where they lie: attention writes the new keys and values into the banks itself."""
    caches = _caches(op)
    if not caches:
        return work
    return replace(
        work, reads=_as_state(op.reads(), work.reads, caches), writes=_as_state(op.outputs, work.writes, caches)
    )


def _as_state(names: Iterable[str], operands: Sequence[Operand], caches: Sequence[str]) -> tuple[Operand, ...]:
    named = [name for name in names if name]
    return tuple(
        replace(operand, role="state") if name in caches else operand
        for name, operand in zip(named, operands, strict=True)
    )


def fit(graph: Graph, values: Mapping[str, Value], peak: int, parameters: PimParameters) -> Fit:
    """Whether weights, and activations at their peak (caches are inputs and outputs of the graph), fit the banks."""
    weights = sum(values[name].operand().bytes for name, weight in graph.weights.items() if weight.is_parameter)
    spilled = max(0, peak - parameters.asic.sram_bytes)
    need, have = weights + spilled, parameters.dram.capacity
    if need <= have:
        return Fit(True, f"weights {_size(weights)} and {_size(spilled)} of activations fit {_size(have)} of DRAM")
    channels = -(-need // parameters.dram.channel_bytes)
    return Fit(
        False,
        f"weights {_size(weights)} and {_size(spilled)} of activations need {_size(need)}; the DRAM has {_size(have)}",
        need - have,
        (
            f"dram.channels={channels} (now {parameters.dram.channels})",
            f"dram.channel_bytes={-(-need // parameters.dram.channels)} (now {parameters.dram.channel_bytes})",
            f"weights at {have / need:.0%} of their bytes: fewer bits, pruning or a smaller model",
        ),
    )


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _warnings(ops: Sequence[MappedOp], parameters: PimParameters) -> tuple[str, ...]:
    """What does not run in the banks although it multiplies, and what leaves the device."""
    native, asic, host = parameters.mac.dtypes, Counter[str](), Counter[str]()
    for op in ops:
        if isinstance(op.work, Attention):
            asic[op.work.kind] += dtype(op.work.dtype).name not in native
        elif isinstance(op.work, Contraction):
            asic[op.work.kind] += not in_banks(op, parameters)
        elif isinstance(op.work, Sort | Transform | Collective):
            host[op.work.kind] += 1
    messages = []
    if any(asic.values()):
        messages.append(
            f"{_list(asic)} run on the ASIC: the banks multiply {', '.join(native)} and suit matrices with at least "
            f"{parameters.dram.banks} outputs"
        )
    if host:
        messages.append(f"{_list(host)} run on the host, over a link whose figures are assumed")
    return tuple(messages)


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()) if count)
