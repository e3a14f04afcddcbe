"""Inner loops of an integer and a float kernel library on a small core, as counts of instructions.

The integer loops are those that a core without 8-bit multiplies needs, as CMSIS-NN (Lai et al., 2018) has them: widen
8-bit values to 16-bit pairs, multiply two pairs in one instruction, keep two weight rows and two columns of inputs in
registers. Counts are of one pass of the loop, by reading what the loop must do; they are not fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwmodels.mcu.parameters import McuParameters


@dataclass(frozen=True, slots=True)
class Loop:
    """One pass of an inner loop: multiply-accumulates done, loads (and runs of loads that follow each other), other
    integer instructions, multiplies, and bytes of weights taken from flash."""

    macs: int
    loads: int
    load_runs: int
    alu: int
    multiplies: int
    weight_bytes: int


# Two weight rows by two columns, four steps deep: 2 weight words widened and packed (4 instructions each), 4 words of
# widened inputs, 8 dual multiplies.
MATRIX_INT8 = Loop(macs=16, loads=6, load_runs=4, alu=9, multiplies=8, weight_bytes=8)
# Two weight rows by one column, four steps deep: all three words widened (2 instructions and a rotate each).
VECTOR_INT8 = Loop(macs=8, loads=3, load_runs=3, alu=10, multiplies=4, weight_bytes=8)
# Four channels, two kernel taps: 2 weight words widened and paired (8), 4 input words paired (4), 4 dual multiplies.
DEPTHWISE_INT8 = Loop(macs=8, loads=6, load_runs=3, alu=13, multiplies=4, weight_bytes=8)
# One multiply-add on two loaded values, unrolled by four.
MATRIX_FLOAT = Loop(macs=4, loads=8, load_runs=2, alu=1, multiplies=4, weight_bytes=16)

WIDEN_PER_ELEMENT = 2.5
"""Cycles to copy one 8-bit input of a patch into the 16-bit column buffer: a load, two widenings, two packs, two
stores and their loop for four elements."""
COPY_PER_FLOAT = 2.5
"""Cycles to copy one float of a patch into the column buffer: load, store, half a loop."""
REQUANTISE_ALU = 14
"""Instructions that turn a 32-bit sum into an 8-bit result: bias, long multiply, rounding shift, offset, clamp twice,
store, addresses."""
RESCALE_ALU = 9
"""Instructions that bring an 8-bit operand to a common 32-bit scale: load, offset, shift, long multiply, rounding."""


def loop_cycles(parameters: McuParameters, loop: Loop, from_flash: bool, is_float: bool) -> float:
    """Cycles of one pass. Weights in flash stop the core at each line: the data port does not read ahead."""
    core, flash = parameters.core, parameters.flash
    loads = loop.load_runs * core.load_cycles + (loop.loads - loop.load_runs) * core.next_load_cycles
    if is_float:
        one = core.float_multiply_cycles if core.float_unit else 2 * core.float_software_cycles
        multiplies = loop.multiplies * one
    else:
        multiplies = loop.multiplies * core.multiply_cycles * (1 if core.packed_multiply else 2)
    stalls = loop.weight_bytes / flash.line_bytes * flash.wait_states if from_flash else 0.0
    return loads + loop.alu * core.alu_cycles + multiplies + core.branch_cycles + stalls


def cycles_per_mac(parameters: McuParameters, loop: Loop, from_flash: bool, is_float: bool) -> float:
    return loop_cycles(parameters, loop, from_flash, is_float) / loop.macs


def requantise_cycles(parameters: McuParameters) -> float:
    """Cycles of one finished integer result, from sum to stored byte."""
    return REQUANTISE_ALU * parameters.core.alu_cycles + 2 * parameters.core.load_cycles


def rescale_cycles(parameters: McuParameters) -> float:
    """Cycles of one integer operand of an elementwise operation."""
    return RESCALE_ALU * parameters.core.alu_cycles + parameters.core.load_cycles


def operation_cycles(parameters: McuParameters, is_float: bool) -> float:
    """Cycles of one scalar operation of general code, its share of loads and branches included."""
    core = parameters.core
    arithmetic = (core.alu_cycles if core.float_unit else core.float_software_cycles) if is_float else core.alu_cycles
    return arithmetic + core.load_cycles / 2 + core.branch_cycles / 4
