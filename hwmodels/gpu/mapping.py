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
from hwmodels.gpu import rows, streaming
from hwmodels.gpu.attention import attention
from hwmodels.gpu.contraction import contraction
from hwmodels.gpu.convolution import convolution
from hwmodels.gpu.kernel import Kernel, Setting, write_tasks
from hwmodels.gpu.parameters import GpuParameters
from hwmodels.gpu.runtime import Pieces, pieces_of

KernelRule = Callable[[MappedOp, Any, GpuParameters], tuple[Kernel, ...]]


def _product(op: MappedOp, work: Contraction, parameters: GpuParameters) -> tuple[Kernel, ...]:
    return (contraction if work.convolution is None else convolution)(op, work, parameters)


RULES: dict[type[Work], KernelRule] = {
    Contraction: _product,
    Attention: attention,
    Map: streaming.elementwise,
    Reduce: rows.reduction,
    Move: streaming.move,
    Gather: streaming.gather,
    Scan: rows.scan,
    Sort: rows.sort,
    Transform: streaming.transform,
}


def kernels_of(op: MappedOp, parameters: GpuParameters) -> tuple[Kernel, ...]:
    """The kernels of one operation; none for a view."""
    if isinstance(op.work, Move) and op.work.free:
        return ()
    return RULES.get(type(op.work), streaming.generic)(op, op.work, parameters)


def map_operation(op: MappedOp, parameters: GpuParameters, builder: ProgramBuilder) -> Tasks:
    """Write the tasks of one operation; a view writes none."""
    if isinstance(op.work, Collective):
        return _communicate(op.work, parameters, builder)
    kernels = [kernel for piece in pieces_of(op) for kernel in kernels_of(piece, parameters)]
    if not kernels:
        return Tasks(entry=(), exit=())
    return write_tasks(kernels, parameters, builder, setting_of(op))


def setting_of(op: MappedOp) -> Setting:
    """In a planned graph kernels alternate; an operation by itself follows itself, and is one of many when its operands
    are where the call before left them."""
    return Setting() if isinstance(op.detail, Pieces) else Setting(switched=False, sustained=op.keep_output)


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
