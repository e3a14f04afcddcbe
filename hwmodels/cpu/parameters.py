"""Parameters of a CPU: SIMD cores with private caches, a shared cache, DRAM, and the framework that calls operators.

`auto` for a core or cache parameter stands for the machine this runs on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from codesign.hardware import Parameters


def positive(description: str, **limits: Any) -> Any:
    """A required field that must be above zero; the description starts with its unit."""
    return Field(gt=0, description=description, **limits)


def detected(name: str) -> Any:
    """What the machine this runs on has for Machine's field `name`."""
    from hwmodels.cpu.detect import this_machine

    return getattr(this_machine(), name)


class Detectable(Parameters):
    """A group in which `auto` is replaced by what the machine has."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {key: detected(cls._source(key)) if value == "auto" else value for key, value in values.items()}

    @classmethod
    def _source(cls, key: str) -> str:
        return key


class Cores(Detectable):
    count: int = positive("cores that work on one operator together", le=4096)
    clock: float = positive("Hz; sustained with all cores busy in SIMD code", le=1e11)
    simd_bits: int = positive("bits of a vector register", le=4096)
    fma_units: float = positive("vector multiply-accumulate instructions a clock and core")
    dot_product_int8: bool = Field(description="whether four 8-bit products are added in one 32-bit lane at once")
    dot_product_bfloat16: bool = Field(description="whether two bfloat16 products are added in one lane at once")
    load_bytes_per_clock: float = positive("bytes a clock that a core streams from its private caches")
    scalar_per_clock: float = positive("instructions a clock and core of code without SIMD")
    achieved: float = positive("fraction of the SIMD rate that a tuned matrix product reaches", le=1)

    @classmethod
    def _source(cls, key: str) -> str:
        return "cores" if key == "count" else key


class Caches(Detectable):
    l1: int = positive("bytes of a core's first-level data cache")
    l2: int = positive("bytes of a core's second-level cache")
    l3: int = positive("bytes of the cache all cores share")
    bandwidth: float = positive("bytes/s that the shared cache delivers to all cores")
    latency: float = positive("seconds of an access to the shared cache")


class Memory(Parameters):
    bandwidth: float = positive("bytes/s, peak of all channels")
    achieved: float = positive("fraction of the peak that all cores streaming reach", le=1)
    core_bandwidth: float = positive("bytes/s that a single core can draw (its outstanding misses over the latency)")
    latency: float = positive("seconds of a miss in the shared cache")
    capacity: int = positive("bytes")


class Framework(Parameters):
    call: float = positive("seconds a framework spends on one operator before and after its loops")
    parallel: float = positive("seconds to hand a loop to all cores and to join them")
    grain: int = positive("operations of a loop below which it stays on one core")


class Energy(Parameters):
    mac: float = positive("J a float32 multiply-accumulate in SIMD code, instruction included")
    scalar: float = positive("J an instruction of code without SIMD")
    l3: float = positive("J a byte from the shared cache")
    dram: float = positive("J a byte of DRAM")
    static: float = positive("W; leakage, uncore and clocks")


class CpuParameters(Parameters):
    """A shared-memory multicore CPU."""

    core: Cores
    cache: Caches
    dram: Memory
    framework: Framework
    energy: Energy
    area_mm2: float | None = Field(default=None, gt=0, description="mm2 of the die, if known")
