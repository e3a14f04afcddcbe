"""Parameters of a DRAM with a multiply-accumulate unit beside each bank, and of the ASIC that drives it."""

from __future__ import annotations

from pydantic import Field, model_validator

from codesign.hardware import Parameters

Seconds = float


class Dram(Parameters):
    """Organisation and timing of the memory; timing names are JEDEC's."""

    channels: int = Field(gt=0, description="channels, each with its own pins, banks and command bus")
    banks: int = Field(gt=0, description="banks of a channel, all computing at once")
    activation_group: int = Field(gt=0, description="banks of a channel that one activate command opens")
    row_bytes: int = Field(gt=0, description="bytes of a bank's row buffer")
    column_bytes: int = Field(gt=0, description="bytes of one column access of a bank")
    channel_bytes: int = Field(gt=0, description="capacity of a channel, bytes")
    pin_bandwidth: float = Field(gt=0, description="bytes/s through the pins of one channel")
    tRCD: Seconds = Field(ge=0, description="activate to column command, seconds")
    tRP: Seconds = Field(ge=0, description="precharge to activate, seconds")
    tRAS: Seconds = Field(ge=0, description="activate to precharge, seconds")
    tCCD: Seconds = Field(gt=0, description="column command to column command, seconds")
    tRRD: Seconds = Field(ge=0, description="activate to activate of another bank group, seconds")
    tFAW: Seconds = Field(ge=0, description="window that holds at most four activate commands, seconds")
    tRTP: Seconds = Field(ge=0, description="read to precharge, seconds")
    tCL: Seconds = Field(ge=0, description="read command to first data on the pins, seconds")
    tCWL: Seconds = Field(ge=0, description="write command to first data on the pins, seconds")
    tWR: Seconds = Field(ge=0, description="end of write data to precharge, seconds")
    tWTR: Seconds = Field(ge=0, description="end of write data to a read, seconds")
    tRFC: Seconds = Field(ge=0, description="duration of a refresh of all banks, seconds")
    tREFI: Seconds = Field(gt=0, description="interval between refreshes, seconds")

    @model_validator(mode="after")
    def _check(self) -> Dram:
        if self.row_bytes % self.column_bytes:
            raise ValueError("dram.row_bytes must be a multiple of dram.column_bytes")
        if self.tRFC >= self.tREFI:
            raise ValueError("dram.tRFC must be shorter than dram.tREFI")
        return self

    @property
    def columns(self) -> int:
        """Column accesses of a row."""
        return self.row_bytes // self.column_bytes

    @property
    def available(self) -> float:
        """Fraction of time that refresh leaves to other commands."""
        return 1 - self.tRFC / self.tREFI

    @property
    def capacity(self) -> int:
        """Bytes of all channels."""
        return self.channels * self.channel_bytes


class Mac(Parameters):
    """The multiply-accumulate unit beside a bank. It takes one column access a tCCD."""

    width: int = Field(gt=0, description="multipliers of a unit, followed by an adder tree and one accumulator")
    dtypes: tuple[str, ...] = Field(min_length=1, description="element types the units multiply")
    buffer_bytes: int = Field(gt=0, description="input vector buffer of a channel, shared by its banks, bytes")
    buffer_slots: int = Field(gt=0, description="input vectors held at once: 2 loads one while another is used")


class Asic(Parameters):
    """The chip that issues commands, adds partial sums and computes all that is not a product with a matrix."""

    clock: float = Field(gt=0, description="hertz")
    sram_bytes: int = Field(gt=0, description="bytes for activations between operations")
    adders: int = Field(gt=0, description="additions a cycle")
    multipliers: int = Field(gt=0, description="multiplications a cycle")
    pipeline_cycles: int = Field(ge=0, description="cycles from the last operand of a pass to its result")
    taylor_terms: int = Field(gt=1, description="terms of the series that exponent, logarithm, sine, cosine use")
    newton_steps: int = Field(gt=0, description="iterations for a reciprocal or an inverse square root")


class Host(Parameters):
    """The computer the device hangs on: sorts, fast transforms and what crosses to other devices go there."""

    link_bandwidth: float = Field(gt=0, description="bytes/s between device and host, one direction")
    link_latency: Seconds = Field(ge=0, description="seconds from a transfer's end on one side to its use on the other")
    rate: float = Field(gt=0, description="scalar operations a second")


class Current(Parameters):
    """Supply and JEDEC currents of one channel, in volts and amperes."""

    vdd: float = Field(gt=0, description="supply, volts")
    idd0: float = Field(ge=0, description="activate-precharge cycling, amperes")
    idd2n: float = Field(ge=0, description="precharged standby, amperes")
    idd3n: float = Field(ge=0, description="active standby, amperes")
    idd5: float = Field(ge=0, description="all-bank refresh, amperes")


class Energy(Parameters):
    """Energy of what the currents do not tell apart, joules."""

    current: Current
    column_bit: float = Field(ge=0, description="joules a bit of a column access that stays beside the bank")
    datapath_bit: float = Field(ge=0, description="joules a bit between a bank and the channel's pins, beyond that")
    pin_bit: float = Field(ge=0, description="joules a bit through the pins, both ends")
    mac: float = Field(ge=0, description="joules a multiply-accumulate beside a bank")
    asic_operation: float = Field(ge=0, description="joules an addition or multiplication in the ASIC")
    asic_static: float = Field(ge=0, description="watts the ASIC draws whatever it does")
    host_link_bit: float = Field(ge=0, description="joules a bit between device and host")
    host_operation: float = Field(ge=0, description="joules a scalar operation of the host")


class PimParameters(Parameters):
    dram: Dram
    mac: Mac
    asic: Asic
    host: Host
    energy: Energy

    @model_validator(mode="after")
    def _check(self) -> PimParameters:
        if self.dram.banks % self.dram.activation_group:
            raise ValueError("dram.banks must be a multiple of dram.activation_group")
        return self

    @property
    def activate_J(self) -> float:
        """One activate and precharge of one bank: what a row cycle draws above standby (JEDEC's IDD0 loop)."""
        dram, current = self.dram, self.energy.current
        open_row, closed = current.idd3n * dram.tRAS, current.idd2n * dram.tRP
        return max(0.0, current.vdd * (current.idd0 * (dram.tRAS + dram.tRP) - open_row - closed))

    @property
    def static_power_W(self) -> float:
        """Standby and mean refresh of all channels, and the ASIC's static power."""
        dram, current = self.dram, self.energy.current
        refresh = max(0.0, current.idd5 - current.idd2n) * dram.tRFC / dram.tREFI
        return dram.channels * current.vdd * (current.idd2n + refresh) + self.energy.asic_static
