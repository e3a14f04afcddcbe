"""Parameters of a GPU: streaming multiprocessors, tensor cores, cache, memory, launches, energy, and its software."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from codesign.hardware import Parameters

Generation = Literal["volta", "turing", "ampere", "ada", "hopper"]
Runtime = Literal["eager", "graph", "fused"]


def positive(description: str, **limits: Any) -> Any:
    """A required field that must be above zero; the description starts with its unit."""
    return Field(gt=0, description=description, **limits)


class Multiprocessors(Parameters):
    count: int = positive("streaming multiprocessors (SMs) in use", le=4096)
    clock: float = positive("Hz; SM clock under load, power permitting", le=1e11)
    threads: int = positive("threads that one SM holds at a time", le=1 << 16)
    shared_bytes: int = positive("bytes of shared memory of an SM, which holds the operand slices of a product")
    load_bytes_per_clock: float = positive("bytes a clock that tensor-core products take into one SM from L2")
    vector_load_bytes_per_clock: float = positive("bytes a clock that SIMT products take into one SM from L2")
    gather_bytes_per_clock: float = positive("bytes a clock that one SM loads from windows of images by address")
    slice_latency: float = positive("seconds of a k-slice of a product when one block alone walks over it")
    product_start: float = positive("seconds a matrix product needs before its first and after its last slice")
    row_latency: float = positive("seconds of a step that a block takes over a row: load, reduce across the block")
    chain_latency: float = positive("seconds of one level of a scan, a sort or another dependent exchange")


class MatrixRates(Parameters):
    """Dense multiply-accumulates a clock and SM in the tensor cores; 0 for a type they do not know."""

    float64: float = Field(ge=0, description="MAC a clock and SM, float64")
    tfloat32: float = Field(ge=0, description="MAC a clock and SM, float32 storage rounded to 10 mantissa bits")
    float16: float = Field(ge=0, description="MAC a clock and SM, float16 (and bfloat16 from ampere on)")
    float8: float = Field(ge=0, description="MAC a clock and SM, 8-bit floating types")
    int8: float = Field(ge=0, description="MAC a clock and SM, 8-bit integers")


class VectorRates(Parameters):
    """Lanes of the ordinary (SIMT) units."""

    float64: float = positive("multiply-accumulates a clock and SM, float64")
    float32: float = positive("multiply-accumulates a clock and SM, float32")
    float16: float = positive("multiply-accumulates a clock and SM, packed float16")
    issue: float = positive("instructions of any kind a clock and SM, 32 for each warp scheduler")
    special: float = positive("transcendental functions a clock and SM")


class Achieved(Parameters):
    """Fractions of a peak rate that long kernels reach: what the mechanisms of this model do not explain."""

    tensor_float16: float = positive("fraction of the tensor cores' rate, 16-bit floats", le=1)
    tensor_tfloat32: float = positive("fraction of the tensor cores' rate, tfloat32", le=1)
    tensor_float8: float = positive("fraction of the tensor cores' rate, 8-bit floats", le=1)
    tensor_int8: float = positive("fraction of the tensor cores' rate, 8-bit integers", le=1)
    attention: float = positive("fraction of the tensor cores' rate in fused attention", le=1)
    dram: float = positive("fraction of the DRAM's peak bandwidth", le=1)


class Cache(Parameters):
    capacity: int = positive("bytes of the L2 cache")
    bandwidth: float = positive("bytes/s read from the L2 cache by all SMs")
    write_bandwidth: float = positive("bytes/s written to the L2 cache by all SMs")
    scattered_bandwidth: float = positive("bytes/s of whole sectors, of each of which one element is used")
    latency: float = positive("seconds from an SM's request to data found in the L2 cache")
    sector: int = positive("bytes of the smallest part of a line that is moved")
    full_hits: float = positive("fraction of the capacity up to which repeated accesses always hit", le=1)
    miss_span: float = positive("fraction of the capacity over which hits then fall to none", le=2)


class Memory(Parameters):
    bandwidth: float = positive("bytes/s, peak of the data bus")
    latency: float = positive("seconds that a miss adds to an L2 access")
    capacity: int = positive("bytes")


class Launch(Parameters):
    latency: float = positive("seconds from submitting to an idle GPU until it runs, and from its end to the host")
    start: float = positive("seconds of a kernel that does nothing, to the start of its successor in a graph")
    switch: float = positive("seconds more when another kernel ran before: its code and constants are not cached")
    host: float = positive("seconds of the host for each kernel that a framework launches by itself")


class Link(Parameters):
    bandwidth: float = positive("bytes/s to other devices, one direction, all links together")
    latency: float = positive("seconds of one message between devices")


class Energy(Parameters):
    """Joules of each event. `static` is drawn whatever is done."""

    tensor_float64: float = positive("J a float64 operation in the tensor cores")
    tensor_tfloat32: float = positive("J a tfloat32 operation in the tensor cores (a multiply-accumulate is two)")
    tensor_float16: float = positive("J a 16-bit floating operation in the tensor cores")
    tensor_float8: float = positive("J an 8-bit floating operation in the tensor cores")
    tensor_int8: float = positive("J an 8-bit integer operation in the tensor cores")
    float32: float = positive("J a float32 operation of a product on the SIMT units, its instructions included")
    vector: float = positive("J an instruction of one thread, its arithmetic included")
    l2: float = positive("J a byte between L2 and an SM")
    dram: float = positive("J a byte between DRAM and L2, interface included")
    link: float = positive("J a byte to another device")
    launch: float = positive("J a kernel launch")
    static: float = positive("W; leakage, clocks, fans' share and memory refresh, chip warm and clocked")


class GpuParameters(Parameters):
    """A GPU of streaming multiprocessors behind a shared L2 cache."""

    generation: Generation = Field(description="architecture: which kernels its libraries have")
    runtime: Runtime = Field(
        default="graph",
        description="eager: a kernel for each operation of the framework, launched by the host; graph: the same "
        "kernels, replayed; fused: elementwise operations and reductions in one kernel, as compilers make them, "
        "replayed",
    )
    sm: Multiprocessors
    tensor_core: MatrixRates
    vector: VectorRates
    achieved: Achieved
    l2: Cache
    dram: Memory
    launch: Launch
    link: Link
    energy: Energy
    power_limit: float = positive("W; the board lowers its clock when a kernel would draw more")
    area_mm2: float | None = Field(default=None, gt=0, description="mm2 of the GPU die")
