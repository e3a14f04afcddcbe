"""From an operation to its tasks: which kernels each class of work becomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from codesign.hardware import MappedOp, Tasks
from codesign.program import ProgramBuilder
from codesign.work import (
    Attention,
    Collective,
    Contraction,
    Gather,
    Map,
    Move,
    Reduce,
    Scan,
    Sort,
    Transform,
    Work,
)
from hwmodels.gpu import memory_bound
from hwmodels.gpu.attention import attention
from hwmodels.gpu.contraction import contraction
from hwmodels.gpu.kernel import Kernel, write_tasks
from hwmodels.gpu.parameters import GpuParameters

KernelRule = Callable[[MappedOp, Any, GpuParameters], tuple[Kernel, ...]]

RULES: dict[type[Work], KernelRule] = {
    Contraction: contraction,
    Attention: attention,
    Map: memory_bound.elementwise,
    Reduce: memory_bound.reduction,
    Move: memory_bound.move,
    Gather: memory_bound.gather,
    Scan: memory_bound.scan,
    Sort: memory_bound.sort,
    Transform: memory_bound.transform,
}


def map_operation(op: MappedOp, parameters: GpuParameters, builder: ProgramBuilder) -> Tasks:
    """Write the tasks of one operation; a view writes none."""
    if isinstance(op.work, Move) and op.work.free:
        return Tasks(entry=(), exit=())
    if isinstance(op.work, Collective):
        return _communicate(op.work, parameters, builder)
    rule = RULES.get(type(op.work), memory_bound.generic)
    return write_tasks(rule(op, op.work, parameters), parameters, builder)


_STEPS = {
    "all_reduce": lambda n: 2 * (n - 1),
    "all_gather": lambda n: n - 1,
    "reduce_scatter": lambda n: n - 1,
    "all_to_all": lambda n: n - 1,
    "send": lambda n: n,
    "broadcast": lambda n: n,
}
"""Messages of payload / n bytes that each device sends, one after the other, in the ring form of a collective."""


def _communicate(work: Collective, parameters: GpuParameters, builder: ProgramBuilder) -> Tasks:
    steps = max(1, _STEPS[work.pattern](work.participants))
    size = max(1.0, work.payload_bytes / work.participants)
    task = builder.task(
        work.pattern,
        "link",
        duration=builder.ticks(parameters.link.latency),
        bytes=size,
        count=steps,
        energy_J={"link": parameters.energy.link * size},
    )
    return Tasks(entry=(task,), exit=(task,))
