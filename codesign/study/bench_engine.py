"""Programs of several shapes on which the event engine is timed, and one of them in simpy."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from codesign.program import Program, ProgramBuilder, Resource

if TYPE_CHECKING:
    import simpy

LOAD, COMPUTE, STORE = 90, 100, 40
"""Ticks of the pipeline's stages a tile."""


def wide_task(firings: int) -> Program:
    """One kernel's thread blocks on 132 multiprocessors."""
    builder = ProgramBuilder((Resource("sm", servers=132),), tick_s=1e-9)
    builder.task("block", "sm", duration=1000, count=firings)
    return builder.build()


def pipeline(firings: int) -> Program:
    """Load, compute and store of tiles, double-buffered, each on an engine of its own."""
    builder = ProgramBuilder((Resource("load"), Resource("array"), Resource("store")), tick_s=1e-9)
    tiles = firings // 3
    load = builder.task("load", "load", duration=LOAD, count=tiles)
    compute = builder.task("compute", "array", duration=COMPUTE, count=tiles)
    store = builder.task("store", "store", duration=STORE, count=tiles)
    _double_buffer(builder, load, compute)
    _double_buffer(builder, compute, store)
    return builder.build()


def shared_pipeline(firings: int) -> Program:
    """The same with loads and stores that share one memory's bandwidth."""
    builder = ProgramBuilder((Resource("dram", bytes_per_tick=4.0), Resource("array")), tick_s=1e-9)
    tiles = firings // 3
    load = builder.task("load", "dram", bytes=240, duration=50, count=tiles)
    compute = builder.task("compute", "array", duration=COMPUTE, count=tiles)
    store = builder.task("store", "dram", bytes=120, duration=50, count=tiles)
    _double_buffer(builder, load, compute)
    _double_buffer(builder, compute, store)
    return builder.build()


def chain(firings: int) -> Program:
    """Operations one after the other, each of one firing."""
    builder = ProgramBuilder((Resource("core"),), tick_s=1e-9)
    last: tuple[int, ...] = ()
    for _ in range(firings):
        last = (builder.task("operation", "core", duration=10, after=last),)
    return builder.build()


def many_resources(firings: int, channels: int = 64) -> Program:
    """Independent double-buffered pairs, each on a channel and an array of its own."""
    names = [(f"channel {index}", f"array {index}") for index in range(channels)]
    builder = ProgramBuilder(tuple(Resource(name) for pair in names for name in pair), tick_s=1e-9)
    for index, (channel, array) in enumerate(names):
        tiles = firings // (2 * channels)
        load = builder.task("load", channel, duration=LOAD + index, count=tiles)
        compute = builder.task("compute", array, duration=COMPUTE, count=tiles)
        _double_buffer(builder, load, compute)
    return builder.build()


SHAPES: dict[str, Callable[[int], Program]] = {
    "one task over 132 servers": wide_task,
    "double-buffered three-stage pipeline": pipeline,
    "the same, sharing bandwidth": shared_pipeline,
    "chain of single firings": chain,
    "128 resources": many_resources,
}


def _double_buffer(builder: ProgramBuilder, producer: int, consumer: int) -> None:
    builder.each(producer, consumer)
    builder.buffer(producer, consumer, 2)


def simpy_pipeline(firings: int) -> int:
    """`pipeline` as processes of simpy, buffers as containers; returns the last tick."""
    import simpy

    environment = simpy.Environment()
    tiles = firings // 3

    def buffer(filled: int) -> simpy.Container:
        return simpy.Container(environment, capacity=2, init=filled)

    loads, results, free_inputs, free_results = buffer(0), buffer(0), buffer(2), buffer(2)

    def stage(ticks: int, takes: list[simpy.Container], gives: list[simpy.Container]) -> Generator[Any, Any, None]:
        for _ in range(tiles):
            for container in takes:
                yield container.get(1)
            yield environment.timeout(ticks)
            for container in gives:
                yield container.put(1)

    environment.process(stage(LOAD, [free_inputs], [loads]))
    environment.process(stage(COMPUTE, [loads, free_results], [free_inputs, results]))
    environment.process(stage(STORE, [results], [free_results]))
    environment.run()
    return int(environment.now)
