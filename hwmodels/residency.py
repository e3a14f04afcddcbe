"""Devices with a hardware-managed cache: whether a model fits the DRAM, and which operands are still in the cache."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence

from codesign.dtypes import dtype as element_type
from codesign.graph import Graph, Op
from codesign.hardware import Fit, MappedOp, MemoryPlan
from codesign.lower import values_of
from codesign.memory import live_bytes
from codesign.ops.base import Value
from codesign.work import Operand, Work


def plan_cached(
    graph: Graph, works: Sequence[Work], cache_bytes: float, dram_bytes: int, repeated: bool = False
) -> MemoryPlan:
    """Residency of each operand in a least-recently-used cache of `cache_bytes`, and the fit in DRAM. With `repeated`
    the cache holds what the same graph left there just before."""
    values = values_of(graph, deployed_type(works))
    live = live_bytes(graph, values)
    peak = max(live, default=0)
    weights = sum(values[name].operand().bytes for name in graph.weights)
    ops = _residency(graph, works, values, cache_bytes, 2 if repeated else 1)
    return MemoryPlan(ops, _fit(weights, peak, dram_bytes), peak)


def deployed_type(works: Sequence[Work]) -> str | None:
    """The floating type most operands have: the one the graph was lowered to."""
    types = Counter(
        operand.dtype for work in works for operand in work.reads + work.writes if element_type(operand.dtype).is_float
    )
    return types.most_common(1)[0][0] if types else None


def _fit(weights: int, activations: int, capacity: int) -> Fit:
    needed = weights + activations
    numbers = f"weights {_gigabytes(weights)} and live activations {_gigabytes(activations)}"
    if needed <= capacity:
        return Fit(True, f"{numbers} fit in {_gigabytes(capacity)} of DRAM")
    gap = needed - capacity
    levers = ["a narrower element type", f"at least {-(-needed // capacity)} devices"]
    if activations > weights:
        levers.insert(0, "a smaller batch or a shorter context")
    return Fit(
        False,
        f"{numbers} are {_gigabytes(gap)} more than {_gigabytes(capacity)} of DRAM",
        gap,
        tuple(levers),
    )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


class _RecentTensors:
    """Tensors in a cache of `capacity` bytes that evicts the least recently used whole tensor."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.used = 0
        self.sizes: OrderedDict[str, int] = OrderedDict()

    def holds(self, name: str) -> bool:
        return name in self.sizes

    def touch(self, name: str, size: int) -> None:
        self.used -= self.sizes.pop(name, 0)
        if size > self.capacity:
            return
        self.sizes[name] = size
        self.used += size
        while self.used > self.capacity:
            _, evicted = self.sizes.popitem(last=False)
            self.used -= evicted


def _residency(
    graph: Graph, works: Sequence[Work], values: Mapping[str, Value], cache_bytes: float, rounds: int
) -> tuple[MappedOp, ...]:
    sizes = {name: value.operand().bytes for name, value in values.items()}
    names = [_operand_names(op, work.reads, sizes) for op, work in zip(graph.ops, works, strict=True)]
    touched = [([*op.reads()], [name for name in op.outputs if name]) for op in graph.ops]
    recent = _RecentTensors(cache_bytes)
    found: list[tuple[tuple[bool, ...], bool]] = []
    for _ in range(rounds):
        found.clear()
        for operands, (reads, writes) in zip(names, touched, strict=True):
            resident = tuple(name is not None and recent.holds(name) for name in operands)
            for name in (*reads, *writes):
                recent.touch(name, sizes[name])
            found.append((resident, all(recent.holds(name) for name in writes)))
    return tuple(
        MappedOp(op.name, work, resident, keep_output=kept)
        for op, work, (resident, kept) in zip(graph.ops, works, found, strict=True)
    )


def _operand_names(op: Op, reads: Sequence[Operand], sizes: Mapping[str, int]) -> list[str | None]:
    """The tensor behind each operand read: the first input of that many bytes and role not yet taken, in order.

    Work does not name its operands; inputs that only steer an operation (shapes, axes) are not among them.
    """
    left = list(dict.fromkeys(op.reads()))
    names: list[str | None] = []
    for operand in reads:
        match = next((name for name in left if sizes[name] == operand.bytes), None)
        if match is not None:
            left.remove(match)
        names.append(match)
    return names
