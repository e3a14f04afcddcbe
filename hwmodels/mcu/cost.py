"""Core cycles and memory traffic of each kind of work on a microcontroller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from codesign.dtypes import dtype
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
from hwmodels.mcu import kernels
from hwmodels.mcu.parameters import McuParameters


@dataclass(frozen=True, slots=True)
class Cost:
    """Cycles on the core (flash stalls included), and bytes that pass to and from flash and SRAM."""

    cycles: float
    flash_bytes: float
    sram_bytes: float
    label: str

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.cycles + other.cycles,
            self.flash_bytes + other.flash_bytes,
            self.sram_bytes + other.sram_bytes,
            self.label,
        )


def cost_of(parameters: McuParameters, work: Work) -> Cost:
    """Cost of `work` without its call."""
    return _RULES[type(work)](parameters, work) + _epilogue(parameters, work)


def column_buffer_bytes(work: Work) -> int:
    """SRAM bytes of the patch buffer of a convolution: two columns, widened to 16 bits unless float."""
    if not isinstance(work, Contraction) or work.convolution is None:
        return 0
    patch = work.k * (work.batch if work.convolution.depthwise else 1)
    return 2 * patch * (4 if _is_float(work.dtype) else 2)


def _is_float(name: str) -> bool:
    return dtype(name).is_float


def _epilogue(parameters: McuParameters, work: Work) -> Cost:
    """Fused operations beyond the requantisation, and clamp on both sides, that every integer result gets anyway."""
    result = sum(operand.elements for operand in work.writes)
    is_float = any(_is_float(operand.dtype) for operand in work.writes)
    fused = work.epilogue_flops - work.requantise_flops
    if isinstance(work, Contraction) and work.addends and not is_float:
        # Integer kernels of products add no second feature map, which has a scale of its own: another kernel does.
        addends = len(work.addends)
        joined = result * _joined_cycles(parameters, addends + 1)
        remaining = max(0, fused - (addends + 2) * result)
        return Cost(joined + remaining * kernels.operation_cycles(parameters, False), 0, 2 * result, "epilogue")
    extra = fused if is_float else max(0, fused - 2 * result)
    return Cost(extra * kernels.operation_cycles(parameters, is_float), 0, 0, "epilogue")


def _joined_cycles(parameters: McuParameters, operands: int) -> float:
    """Cycles of one element of an integer operation on more than one operand: each is rescaled, the result again."""
    return operands * kernels.rescale_cycles(parameters) + kernels.requantise_cycles(parameters)


def _contraction(parameters: McuParameters, work: Contraction) -> Cost:
    is_float = _is_float(work.dtype)
    columns = 1 if work.m == 1 else 2
    convolution = work.convolution
    depthwise = convolution is not None and convolution.depthwise
    if is_float:
        loop = kernels.MATRIX_FLOAT
    elif depthwise:
        loop = kernels.DEPTHWISE_INT8
    else:
        loop = kernels.VECTOR_INT8 if columns == 1 else kernels.MATRIX_INT8
    weights = work.reads[1] if len(work.reads) > 1 else None
    from_flash = weights is not None and weights.role == "weight"
    cached = weights is not None and weights.bytes <= parameters.flash.cache_bytes
    per_mac = kernels.cycles_per_mac(parameters, loop, from_flash and not cached, is_float)
    outputs = work.batch * work.m * work.n
    cycles = work.macs * per_mac + outputs * _per_output(parameters, is_float)
    # Patches are gathered once for all output channels of a group; a one-tap kernel of floats reads in place.
    patches = work.batch * work.m * work.k
    if convolution is not None and (not is_float or max(convolution.kernel) > 1):
        cycles += patches * (kernels.COPY_PER_FLOAT if is_float else kernels.WIDEN_PER_ELEMENT)
    read_again = work.macs * loop.weight_bytes / loop.macs
    flash_bytes = 0.0 if not from_flash else weights.bytes if cached and weights else read_again
    traffic = work.read_bytes + work.write_bytes + work.macs / columns * (4 if is_float else 2)
    return Cost(cycles, flash_bytes, traffic, "multiply")


def _per_output(parameters: McuParameters, is_float: bool) -> float:
    if is_float:
        return 2 * parameters.core.load_cycles + 2 * parameters.core.alu_cycles
    return kernels.requantise_cycles(parameters)


def _attention(parameters: McuParameters, work: Attention) -> Cost:
    is_float = _is_float(work.dtype)
    loop = kernels.MATRIX_FLOAT if is_float else kernels.VECTOR_INT8
    scores = work.batch * work.heads * work.query_length * work.kv_length
    cycles = work.macs * kernels.cycles_per_mac(parameters, loop, False, is_float)
    cycles += (work.flops - 2 * work.macs - work.epilogue_flops) * kernels.operation_cycles(parameters, is_float)
    width = dtype(work.dtype).bits / 8
    return Cost(cycles, 0.0, work.bytes + 4 * scores * width, "attention")


def _map(parameters: McuParameters, work: Map) -> Cost:
    """Integer operands are rescaled and the result requantised; a function of one operand is a table look-up."""
    operands = max(1, sum(operand.elements * 2 > work.elements for operand in work.reads))
    if _is_float(work.dtype):
        per_element = work.flops_per_element * kernels.operation_cycles(parameters, True)
        per_element += (operands + 1) * parameters.core.next_load_cycles
    elif operands > 1:
        per_element = _joined_cycles(parameters, operands)
    else:
        per_element = 2 * parameters.core.load_cycles + parameters.core.alu_cycles + parameters.core.branch_cycles / 4
    return Cost(work.elements * per_element, _weights(work), work.bytes, "elementwise")


def _reduce(parameters: McuParameters, work: Reduce) -> Cost:
    is_float = _is_float(work.dtype)
    elements = work.rows * work.columns
    per_element = max(1.0, work.flops_per_element) * kernels.operation_cycles(parameters, is_float)
    if work.passes > 1 and not is_float:
        # A fixed-point exponential or reciprocal square root: a polynomial of about four long multiplies an element.
        per_element += 4 * kernels.rescale_cycles(parameters)
    per_row = parameters.core.divide_cycles + _per_output(parameters, is_float)
    return Cost(
        elements * per_element + work.rows * per_row, _weights(work), work.bytes * max(1, work.passes), "reduce"
    )


def _move(parameters: McuParameters, work: Move) -> Cost:
    """Copied by words while runs last, else element by element with its address."""
    core = parameters.core
    run = max(1, min(work.contiguous_bytes, work.write_bytes))
    words = -(-run // 4) if run >= 4 else run
    runs = -(-work.write_bytes // run)
    per_run = words * (core.next_load_cycles + core.alu_cycles) + core.load_cycles + core.branch_cycles
    return Cost(runs * per_run, _weights(work), 2 * work.write_bytes, "copy")


def _gather(parameters: McuParameters, work: Gather) -> Cost:
    core = parameters.core
    table = work.reads[0] if work.reads else None
    in_flash = table is not None and table.role == "weight"
    lines = work.lookups * -(-work.run_bytes // parameters.flash.line_bytes) if in_flash else 0
    copy = -(-work.run_bytes // 4) * (core.next_load_cycles + core.alu_cycles)
    cycles = work.lookups * (copy + 2 * core.load_cycles + core.branch_cycles) + lines * parameters.flash.wait_states
    moved = work.lookups * work.run_bytes
    return Cost(cycles, moved if in_flash else 0.0, moved * (1 if in_flash else 2), "gather")


def _scan(parameters: McuParameters, work: Scan) -> Cost:
    is_float = _is_float(work.dtype)
    loop = kernels.MATRIX_FLOAT if is_float else kernels.VECTOR_INT8
    weights = _weights(work)
    cycles = work.macs * kernels.cycles_per_mac(parameters, loop, weights > 0, is_float)
    cycles += work.steps * work.step_flops * kernels.operation_cycles(parameters, is_float)
    return Cost(cycles, work.steps * weights, work.bytes + work.steps * 2 * work.state_bytes, "recurrence")


def _general(parameters: McuParameters, work: Sort | Transform) -> Cost:
    is_float = any(_is_float(operand.dtype) for operand in work.reads)
    operations = work.flops - work.epilogue_flops
    cycles = max(operations * kernels.operation_cycles(parameters, is_float), work.bytes / 4)
    return Cost(cycles, _weights(work), max(work.bytes, 8 * operations), "general code")


def _collective(parameters: McuParameters, work: Collective) -> Cost:
    """The core feeds the link byte by byte and waits for it."""
    seconds = work.payload_bytes * max(1, work.participants - 1) / parameters.link.bandwidth
    return Cost(seconds * parameters.core.clock, 0.0, work.payload_bytes, "send")


def _weights(work: Work) -> float:
    return float(work.weight_bytes)


_RULES: dict[type[Work], Callable[[McuParameters, Any], Cost]] = {
    Contraction: _contraction,
    Attention: _attention,
    Map: _map,
    Reduce: _reduce,
    Move: _move,
    Gather: _gather,
    Scan: _scan,
    Sort: _general,
    Transform: _general,
    Collective: _collective,
}
