"""Parameters of a GPU: streaming multiprocessors, tensor cores, cache, memory, launches and energy."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from codesign.hardware import Parameters


def positive(description: str, **limits: Any) -> Any:
    """A required field that must be above zero; the description starts with its unit."""
    return Field(gt=0, description=description, **limits)


class Multiprocessors(Parameters):
    count: int = positive("streaming multiprocessors (SMs) in use", le=4096)
    clock: float = positive("Hz; SM clock under sustained load", le=1e11)
    load_bytes_per_clock: float = positive("bytes a clock that one SM can take from the L2 cache")
    shared_bytes_per_clock: float = positive("bytes a clock between an SM's shared memory and its tensor cores")
    block_bytes: int = positive("bytes of operands a thread block of a memory-bound kernel works on")
    product_fill: float = positive("seconds a matrix product needs to fill its pipeline and to drain it")
    unpipelined_step: float = positive("seconds of a k-slice whose operands are fetched only one slice ahead")
    attention_step: float = positive("seconds of a step of fused attention over 64 keys: its chain of dependent parts")
    aligned_bytes: float = positive("bytes of operand alignment with which tensor cores are fed at their full rate")
    row_warp: float = positive("seconds of an SM for each row that a warp reduces")
    row_block: float = positive("seconds of an SM for each row that a thread block reduces")
    loop_latency: float = positive("seconds from one pass over a row to the next: a block-wide reduction and a reload")
    chain_latency: float = positive("seconds between dependent elements of a serial recurrence")
    index_instructions: float = positive("instructions an element to find its address in a strided tensor")
    sort_instructions: float = positive("instructions an element and radix pass of a sort")
    select_instructions: float = positive("instructions an element and radix pass of a selection")
    stream_instructions: float = positive("instructions an element of a contiguous elementwise loop")


class MatrixRates(Parameters):
    """Dense multiply-accumulates a clock and SM in the tensor cores."""

    float64: float = positive("MAC a clock and SM, float64")
    tfloat32: float = positive("MAC a clock and SM, float32 storage rounded to 10 mantissa bits")
    float16: float = positive("MAC a clock and SM, float16 and bfloat16")
    float8: float = positive("MAC a clock and SM, 8-bit floating types")
    int8: float = positive("MAC a clock and SM, 8-bit integers")


class VectorRates(Parameters):
    """Lanes of the ordinary (SIMT) units."""

    float64: float = positive("multiply-accumulates a clock and SM, float64")
    float32: float = positive("multiply-accumulates or other instructions a clock and SM, float32 and integers")
    float16: float = positive("multiply-accumulates a clock and SM, packed float16")
    special: float = positive("transcendental functions a clock and SM")


class Achieved(Parameters):
    """Fractions of a peak rate that long kernels reach: what the mechanisms of this model do not explain."""

    tensor_float16: float = positive("fraction of the tensor cores' rate, 16-bit floats", le=1)
    tensor_tfloat32: float = positive("fraction of the tensor cores' rate, tfloat32", le=1)
    tensor_float8: float = positive("fraction of the tensor cores' rate, 8-bit floats", le=1)
    tensor_int8: float = positive("fraction of the tensor cores' rate, 8-bit integers", le=1)
    vector: float = positive("fraction of the SIMT units' rate in matrix products", le=1)
    attention: float = positive("fraction of the tensor cores' rate in fused attention", le=1)
    dram: float = positive("fraction of the DRAM's peak bandwidth", le=1)


class Cache(Parameters):
    capacity: int = positive("bytes of the L2 cache")
    bandwidth: float = positive("bytes/s between the L2 cache and all SMs, in each direction")
    latency: float = positive("seconds from an SM's request to data found in the L2 cache")
    sector: int = positive("bytes of the smallest part of a line that is moved")
    full_hits: float = positive("fraction of the capacity up to which repeated accesses always hit", le=1)
    miss_span: float = positive("fraction of the capacity over which hits then fall to none", le=2)


class Memory(Parameters):
    bandwidth: float = positive("bytes/s, peak of the data bus")
    latency: float = positive("seconds that a miss adds to an L2 access")
    capacity: int = positive("bytes")


class Launch(Parameters):
    latency: float = positive("seconds from submitting a kernel to an idle GPU until it is scheduled")
    in_flight: int = positive("kernels whose launch latencies overlap when submitted back to back", le=1024)
    start: float = positive("seconds between the end of a kernel and the first instruction of its successor")


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
    vector: float = positive("J a float32 operation on the SIMT units, its instruction included")
    l2: float = positive("J a byte between L2 and an SM")
    dram: float = positive("J a byte between DRAM and L2, interface included")
    link: float = positive("J a byte to another device")
    launch: float = positive("J a kernel launch")
    static: float = positive("W; leakage, clocks, fans' share and memory refresh, chip warm and clocked")


class GpuParameters(Parameters):
    """A GPU of streaming multiprocessors behind a shared L2 cache."""

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
