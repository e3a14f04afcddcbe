"""Parameters of an edge NPU: a multiply-accumulate array, an on-chip memory, a vector unit, a DRAM port and a host."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from codesign.hardware import Parameters

Dataflow = Literal["weight_stationary", "output_stationary", "input_stationary", "dot_product"]
Skipped = Literal["none", "weights", "inputs", "both"]


class Array(Parameters):
    """The multiply-accumulate array.

    A systolic array (`weight_stationary`, `output_stationary`, `input_stationary`) has rows x columns units. A
    `dot_product` array computes, each cycle, `rows` output channels of block_height x block_width output positions
    over `columns` elements of the reduction.
    """

    rows: int = Field(default=8, ge=1, le=1024, description="array rows, or output channels computed together")
    columns: int = Field(default=8, ge=1, le=1024, description="array columns, or reduction elements summed together")
    dataflow: Dataflow = Field(
        default="dot_product",
        description="which operand stays in the units while others stream",
    )
    block_height: int = Field(default=1, ge=1, le=16, description="output rows computed together (dot_product only)")
    block_width: int = Field(
        default=1,
        ge=1,
        le=16,
        description="output columns computed together (dot_product only)",
    )
    reduction_steps: int = Field(
        default=1,
        ge=1,
        le=16,
        description="cycles spent on one fetched granule of columns x reduction_steps reduction elements "
        "(dot_product only); a partly filled granule costs as much as a full one",
    )
    weight_decoder_rate: float = Field(
        default=1e9,
        gt=0,
        description="weights decoded a cycle for the array (dot_product only); huge when not a limit",
    )
    accumulator_bytes: int = Field(
        default=32768,
        ge=256,
        description="bytes of partial sums of the block being computed, and again of the block being written out",
    )
    accumulator_width: int = Field(default=4, ge=1, le=8, description="bytes of one partial sum")
    dynamic_weights: bool = Field(default=True, description="whether both operands of a product may be activations")
    dtypes: tuple[str, ...] = Field(
        default=("int8", "uint8", "int4", "int16"),
        description="element types multiplied; 16-bit ones take twice the cycles of 8-bit ones",
    )
    skips_zeros: Skipped = Field(
        default="none",
        description="operands whose zeros take no cycle (dot_product only): the lanes pass over them within a granule "
        "of columns x reduction_steps elements and wait for each other at its end",
    )
    gates_zeros: bool = Field(
        default=False,
        description="whether a multiplier with a zero operand is held still: it takes its cycle and no energy",
    )

    @model_validator(mode="after")
    def _only_lanes_can_skip(self) -> Array:
        if self.skips_zeros != "none" and self.dataflow != "dot_product":
            raise ValueError(
                f"skips_zeros = {self.skips_zeros} needs dataflow = dot_product: operands of a {self.dataflow} array "
                "move in lockstep; gates_zeros saves their energy"
            )
        return self


class Sram(Parameters):
    """The on-chip memory for feature maps and weights in use."""

    capacity: int = Field(default=524288, ge=4096, description="bytes")
    bandwidth: float = Field(default=16e9, gt=0, description="bytes a second, reads and writes together")
    latency: float = Field(default=32e-9, ge=0, description="seconds from request to data")
    beat: int = Field(
        default=16,
        ge=1,
        le=512,
        description="bytes of the shortest access: a shorter run costs as much",
    )
    kept_share: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="share kept for feature maps that stay between operations; the rest holds tiles in flight",
    )


class Dram(Parameters):
    """The external memory as seen through the NPU's port."""

    bandwidth: float = Field(default=3.75e9, gt=0, description="bytes a second")
    latency: float = Field(default=500e-9, ge=0, description="seconds from request to data")
    burst: int = Field(
        default=64, ge=1, le=1024, description="bytes of the shortest access: a shorter run costs as much"
    )
    capacity: int = Field(default=1 << 30, ge=1, description="bytes")


class Weights(Parameters):
    """How weights are stored off chip."""

    compression_ratio: float = Field(default=1.0, gt=0, le=2, description="encoded bytes / original bytes")
    zero_mask: bool = Field(
        default=False,
        description="whether zeros are left out: a bit for each weight says whether it follows, where that is shorter",
    )


class Vector(Parameters):
    """The elementwise and output unit: scales, activates and requantises results, and does elementwise operations."""

    lanes: float = Field(default=4.0, gt=0, description="elementary operations a cycle")
    lookup_operations: int = Field(
        default=4,
        ge=1,
        description="elementary operations of one table look-up (sigmoid, exp)",
    )
    normalisation_passes: int = Field(default=5, ge=1, description="commands over all elements of a softmax or norm")
    normalisation_row_commands: int = Field(
        default=23,
        ge=0,
        description="commands over one value a row of a softmax or norm (the integer reciprocal)",
    )


class Control(Parameters):
    """What each command, and each tile of it, costs beside its data."""

    command_cycles: int = Field(default=0, ge=0, description="cycles to decode and start one command")
    tile_cycles: int = Field(default=0, ge=0, description="cycles in which the array changes from one tile to the next")


class Host(Parameters):
    """The processor that runs what the NPU cannot."""

    clock: float = Field(default=1e9, gt=0, description="hertz")
    macs_per_cycle: float = Field(default=1.0, gt=0, description="multiply-accumulates a cycle, sustained")
    operations_per_cycle: float = Field(default=0.5, gt=0, description="scalar operations a cycle, sustained")
    call_cycles: int = Field(default=2000, ge=0, description="host cycles to take over an operation and hand it back")


class Energy(Parameters):
    """Joules by component at the device's technology node."""

    mac: float = Field(
        default=1.1e-13,
        ge=0,
        description="one 8-bit multiply-accumulate; 16-bit costs four times that",
    )
    sram_byte: float = Field(default=1.63e-12, ge=0, description="one byte at `sram_reference` bytes of capacity")
    sram_reference: int = Field(default=32768, ge=1, description="capacity, bytes, at which `sram_byte` holds")
    sram_exponent: float = Field(
        default=0.304,
        ge=0,
        le=1,
        description="energy a byte grows as capacity to this power",
    )
    dram_byte: float = Field(default=64e-12, ge=0, description="one byte over the DRAM interface, device and link")
    vector_operation: float = Field(default=2e-13, ge=0, description="one elementary operation of the vector unit")
    host_operation: float = Field(default=3e-11, ge=0, description="one scalar operation of the host")
    leakage_per_mm2: float = Field(default=0.01, ge=0, description="watts a square millimetre of silicon, always")


class Area(Parameters):
    """Square millimetres at the device's technology node."""

    mac: float = Field(default=5.2e-5, ge=0, description="one 8-bit multiplier with its 32-bit adder")
    sram_byte: float = Field(default=9.3e-7, ge=0, description="one byte of static memory, periphery included")
    lane: float = Field(default=5e-4, ge=0, description="one lane of the vector unit")
    fixed: float = Field(default=0.07, ge=0, description="control, DMA, command decoder")


class NpuParameters(Parameters):
    """An edge NPU."""

    clock: float = Field(default=1e9, gt=0, description="hertz")
    array: Array = Field(default=Array())
    sram: Sram = Field(default=Sram())
    dram: Dram = Field(default=Dram())
    weights: Weights = Field(default=Weights())
    vector: Vector = Field(default=Vector())
    control: Control = Field(default=Control())
    host: Host = Field(default=Host())
    energy: Energy = Field(default=Energy())
    area: Area = Field(default=Area())
