"""Parameters of a microcontroller: an in-order core with packed multiplies, flash behind wait states, and SRAM."""

from __future__ import annotations

from pydantic import Field

from codesign.hardware import Parameters


class Core(Parameters):
    """Cycles of the instruction classes; see the core's technical reference manual."""

    clock: float = Field(default=120e6, gt=0, description="hertz")
    load_cycles: float = Field(default=2.0, gt=0, description="cycles of a load that no other load follows")
    next_load_cycles: float = Field(default=1.0, gt=0, description="cycles of each load that follows a load directly")
    alu_cycles: float = Field(default=1.0, gt=0, description="cycles of a shift, pack, add or store")
    multiply_cycles: float = Field(default=1.0, gt=0, description="cycles of a packed or long multiply-accumulate")
    branch_cycles: float = Field(default=3.0, gt=0, description="cycles of a taken branch, pipeline refill included")
    packed_multiply: bool = Field(
        default=True, description="whether one instruction multiplies two 16-bit pairs (SMLAD)"
    )
    float_unit: bool = Field(default=True, description="whether single precision runs in hardware")
    float_multiply_cycles: float = Field(default=3.0, gt=0, description="cycles of a fused float multiply-add")
    float_software_cycles: float = Field(default=40.0, gt=0, description="cycles of a float operation in software")
    divide_cycles: float = Field(default=12.0, gt=0, description="cycles of a division")


class Flash(Parameters):
    """Program memory: weights are read from it through the core's data port."""

    capacity: int = Field(default=2097152, ge=1024, description="bytes")
    wait_states: int = Field(default=5, ge=0, le=64, description="cycles the core stands still for each line read")
    line_bytes: int = Field(default=8, ge=1, le=256, description="bytes one read of the array brings")
    cache_bytes: int = Field(default=256, ge=0, description="data cache in front of the flash, bytes")


class Sram(Parameters):
    """Data memory: activations, buffers, stack."""

    capacity: int = Field(default=655360, ge=1024, description="bytes")
    bytes_per_cycle: float = Field(default=4.0, gt=0, description="bytes a core cycle")


class Runtime(Parameters):
    """The inference library around the kernels."""

    call_cycles: int = Field(default=2000, ge=0, description="cycles to prepare and call one operation's kernel")
    code_bytes: int = Field(default=102400, ge=0, description="flash bytes of the library and the application")
    data_bytes: int = Field(default=16384, ge=0, description="SRAM bytes of stack, library state and tensor records")


class Link(Parameters):
    """The serial link to other devices."""

    bandwidth: float = Field(default=1.25e6, gt=0, description="bytes a second")


class Energy(Parameters):
    """Where the supply current goes."""

    supply: float = Field(default=1.8, gt=0, description="volts")
    active_current: float = Field(default=150e-12, gt=0, description="amperes a hertz while the core executes")
    flash_byte: float = Field(default=30e-12, ge=0, description="joules a byte read from flash")
    sram_byte: float = Field(default=10e-12, ge=0, description="joules a byte read from or written to SRAM")
    static_current: float = Field(default=1.0e-3, ge=0, description="amperes drawn whatever is done")


class McuParameters(Parameters):
    """A microcontroller."""

    core: Core = Field(default=Core())
    flash: Flash = Field(default=Flash())
    sram: Sram = Field(default=Sram())
    runtime: Runtime = Field(default=Runtime())
    link: Link = Field(default=Link())
    energy: Energy = Field(default=Energy())
