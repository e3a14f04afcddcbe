"""What a run may take: trips of a loop, and memory, looked at before it is taken.

A model file is untrusted: it can ask for endless loops and for results of any size. What is known of a graph is added
up before it runs; a result whose shape comes from data is looked at before it is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codesign.dtypes import name_of, numpy_dtype
from codesign.errors import BadModel, BadParameter, DoesNotFit
from codesign.graph import Graph, Op, Tensor
from codesign.memory import last_uses
from codesign.ops.base import Operator, Value, find
from codesign.ops.views import View

MOST_TRIPS = 1_000_000
"""Trips of one Loop unless another limit is given: seconds of overhead alone, more than any exported model takes."""
ALWAYS_FREE = 64 << 20
"""Bytes: less is not looked for on the machine, since asking takes longer than a small graph does."""
SMALL = 64
"""Elements: values of inputs up to this size may tell the shape of a result; larger ones are data."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`trips` of any one Loop; `memory_bytes` that a run may take beside its inputs, None for what the machine has free
    when the run begins."""

    trips: int = MOST_TRIPS
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.trips < 1:
            raise BadParameter(f"the limit of trips is {self.trips}, expected at least 1")
        if self.memory_bytes is not None and self.memory_bytes < 0:
            raise BadParameter(f"the limit of memory is {self.memory_bytes} bytes, expected at least 0")

    def free_bytes(self, needed: float = math.inf) -> float:
        """Bytes that may be taken from now on, exactly where `needed` exceeds them; infinite where nobody tells."""
        if self.memory_bytes is not None:
            return self.memory_bytes
        found = None if needed <= ALWAYS_FREE else available_bytes()
        return math.inf if found is None else found


_current: ContextVar[Limits] = ContextVar("codesign_limits", default=Limits())  # noqa: B039 (frozen)


def current() -> Limits:
    """The limits of executors that are given none."""
    return _current.get()


@contextmanager
def use(limits: Limits) -> Iterator[None]:
    """Make `limits` those of all executors made inside the `with` block that are given none."""
    token = _current.set(limits)
    try:
        yield
    finally:
        _current.reset(token)


def available_bytes() -> int | None:
    """Memory that this process can still take: free on the machine, within its control group. None when not told."""
    found = [_meminfo(), *(_group_rest(limit, usage) for limit, usage in _GROUPS)]
    return min((size for size in found if size is not None), default=None)


_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of memory, control groups version 2 and 1 (Linux kernel, Documentation/admin-guide/cgroup-v2.rst)."""


def _meminfo() -> int | None:
    """MemAvailable of /proc/meminfo (proc_meminfo(5)), in kB there."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _group_rest(limit: str, usage: str) -> int | None:
    try:
        return int(Path(limit).read_text()) - int(Path(usage).read_text())
    except (OSError, ValueError):  # no control groups, or "max": no limit
        return None


# What a graph takes


@dataclass(frozen=True, slots=True)
class Peak:
    """The most that activations take at a time, and the operation then."""

    bytes: int
    op: Op | None


def peak(graph: Graph) -> Peak:
    """The least that a run of `graph` takes beside its inputs, as far as shapes are known: results alive together,
    those of bodies included. Views share memory with what they view; room within an operation is not counted."""
    shared: dict[str, str] = {}
    for op in graph.ops:
        if isinstance(find(op), View) and op.outputs:
            shared[op.outputs[0]] = shared.get(op.inputs[0], op.inputs[0])
    ends: dict[str, int] = {}
    for name, index in last_uses(graph).items():
        owner = shared.get(name, name)
        ends[owner] = max(ends.get(owner, 0), index)
    dying: dict[int, int] = {}
    alive, most, at = 0, 0, None
    for index, op in enumerate(graph.ops):
        for name in op.outputs:
            if name in graph.tensors and name not in shared:
                size = array_bytes(graph.tensors[name])
                alive += size
                dying[ends[name]] = dying.get(ends[name], 0) + size
        inside = max((peak(body).bytes for body in op.bodies.values()), default=0)
        if alive + inside > most:
            most, at = alive + inside, op
        alive -= dying.pop(index, 0)
    return Peak(most, at)


def array_bytes(tensor: Tensor) -> int:
    """Bytes of the numpy array that holds a tensor: types narrower than a byte take one."""
    return tensor.elements * numpy_dtype(tensor.dtype).itemsize


def check_graph(graph: Graph, found: Peak, weights: int, limits: Limits) -> None:
    """Raises DoesNotFit when a run, its activations at their peak and the `weights` that it makes, would take more than
    it may."""
    needed = found.bytes + weights
    free = limits.free_bytes(needed)
    if needed > free:
        where = f", at node '{found.op.name}' ({found.op.kind})" if found.op is not None else ""
        made = f" and {_size(weights)} for weights that are made" if weights else ""
        raise DoesNotFit(
            f"running '{graph.source or graph.name}' takes at least {_size(found.bytes)}{where}{made}; "
            f"{_size(free)} may be taken: {_ADVICE}"
        )


def made_bytes(graph: Graph, cache_bytes: int) -> int:
    """What weights that are derived or made up take, of which `cache_bytes` are kept and one more is at hand. Stored
    ones lie in the file's own pages."""
    sizes = [array_bytes(weight.tensor) for weight in graph.weights.values() if weight.is_made]
    total = sum(sizes)
    return total if total <= cache_bytes else cache_bytes + max(sizes)


def check_result(op: Op, operator: Operator, inputs: Sequence[Any], limits: Limits) -> None:
    """Raises DoesNotFit when the results of `op`, as far as the shapes and small values of its inputs tell them, would
    take more than they may."""
    if any(value is not None and not isinstance(value, np.ndarray) for value in inputs):
        return
    values = [
        None if value is None else Value(value.shape, name_of(value.dtype), "activation", 1.0, _small(value))
        for value in inputs
    ]
    try:
        results = operator.infer(op, values)
    except Exception:
        return  # a shape that only the result tells, or inputs that the computation refuses in its own words
    needed = sum(array_bytes(Tensor("", shape, kind)) for shape, kind in results)
    free = limits.free_bytes(needed)
    if needed > free:
        raise DoesNotFit(
            f"node '{op.name}' ({op.kind}): its result of shape {list(results[0][0])} takes {_size(needed)}, "
            f"{_size(free)} may be taken: {_ADVICE}"
        )


def _small(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    return value if value.size <= SMALL else None


class Gathered:
    """What a loop gathers trip by trip, within its limits."""

    def __init__(self, op: Op) -> None:
        self.op = op
        self.limits = current()
        self._free: float | None = self.limits.memory_bytes
        self._bytes = 0

    def check_trip(self, trip: int) -> None:
        """Raises BadModel when the loop has taken as many trips as it may."""
        if trip >= self.limits.trips:
            raise BadModel(
                f"node '{self.op.name}' ({self.op.kind}): has not ended after {self.limits.trips:,} trips; raise the "
                "limit (--max-trips, or Limits(trips=...)) if it is meant to go on"
            )

    def add(self, values: Sequence[Any]) -> None:
        """Count what a trip gave. Raises DoesNotFit when all trips together take too much."""
        self._bytes += sum(_held(value) for value in values)
        if self._free is None and self._bytes > ALWAYS_FREE:
            self._free = self._bytes + self.limits.free_bytes()
        if self._free is not None and self._bytes > self._free:
            raise DoesNotFit(
                f"node '{self.op.name}' ({self.op.kind}): what its trips give takes more than "
                f"{_size(self._free)}: {_ADVICE}"
            )


def _held(value: Any) -> int:
    if isinstance(value, list):
        return sum(_held(item) for item in value)
    return 0 if value is None else int(value.nbytes)


_ADVICE = "run a smaller batch, or raise the limit (--max-memory, or Limits(memory_bytes=...))"


def _size(number: float) -> str:
    from codesign.report.units import bytes_

    return bytes_(number)
