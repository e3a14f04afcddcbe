import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.engine import run, run_logged
from codesign.errors import CodesignError
from codesign.program import ProgramBuilder, Resource
from tests.heap_simulator import HeapSimulator


@st.composite
def programs(draw, most_firings=12):
    """Chains, barriers, buffers and shared bandwidth in random arrangement; never a deadlock by construction."""
    resources = tuple(
        Resource(f"r{i}", servers=draw(st.integers(1, 3)))
        if draw(st.booleans())
        else Resource(f"r{i}", bytes_per_tick=draw(st.sampled_from([0.3, 1.0, 2.5, 7.0])))
        for i in range(draw(st.integers(1, 3)))
    )
    builder = ProgramBuilder(resources, tick_s=1e-9)
    for task in range(draw(st.integers(1, 7))):
        pool = draw(st.sampled_from(resources))
        shared = pool.bytes_per_tick is not None
        count = draw(st.integers(1, most_firings))
        builder.task(
            f"t{task}", pool.name, count=count,
            duration=draw(st.integers(0, 3 if shared else 9)),
            bytes=draw(st.integers(1, 20)) if shared else 0,
        )  # fmt: skip
        for source in range(task):
            form = draw(st.sampled_from(["none", "none", "each", "barrier", "every", "buffered"]))
            if form == "each":
                builder.each(source, task, stride=draw(st.integers(1, 3)))
            elif form == "barrier":
                builder.barrier(source, task)
            elif form == "every":
                builder.every(source, task, draw(st.integers(1, 3)))
            elif form == "buffered":
                builder.each(source, task)
                if not builder_has_barrier(builder, source, task):
                    builder.buffer(source, task, draw(st.integers(1, 4)))
    return builder.build()


def builder_has_barrier(builder, source, task):
    """A buffer's back edge may close a cycle with other paths between the two; keep it to direct neighbours."""
    return task != source + 1 or any(edge[1] == task and edge[0] != source for edge in builder._edges)


def outcome(simulate, program):
    try:
        return simulate(program)
    except (CodesignError, AssertionError):
        return "deadlock"


@given(programs())
@settings(max_examples=150, deadline=None)
def test_equals_the_heap_simulator_event_for_event(program):
    reference = HeapSimulator(program)
    end = outcome(lambda p: reference.run(), program)
    result = outcome(run_logged, program)
    if end == "deadlock":
        assert result == "deadlock"
        return
    timeline, log = result
    assert timeline.end == end
    assert [tuple(row) for row in log[:, :3].tolist()] == sorted(reference.log)


@given(programs(most_firings=400))
@settings(max_examples=150, deadline=None)
def test_skipping_steady_states_changes_nothing(program):
    every = outcome(lambda p: run(p, skip=False), program)
    skipped = outcome(run, program)
    if every == "deadlock":
        assert skipped == "deadlock"
        return
    assert skipped.end == every.end
    np.testing.assert_array_equal(skipped.first_start, every.first_start)
    np.testing.assert_array_equal(skipped.last_end, every.last_end)
    np.testing.assert_array_equal(skipped.waited, every.waited)


def double_buffered(tiles):
    builder = ProgramBuilder((Resource("dma", bytes_per_tick=4.0), Resource("array")), tick_s=1e-9)
    load = builder.task("load", "dma", bytes=400, count=tiles)
    compute = builder.task("compute", "array", duration=70, count=tiles)
    builder.each(load, compute)
    builder.buffer(load, compute, 2)
    return builder.build()


def test_double_buffering_hides_compute_behind_loads():
    assert run(double_buffered(1000)).end == 1000 * 100 + 70


def test_a_long_steady_state_is_skipped_in_few_events():
    timeline = run(double_buffered(1_000_000))
    assert timeline.end == 1_000_000 * 100 + 70
    assert timeline.simulated < 200


def test_equal_flows_share_bandwidth():
    builder = ProgramBuilder((Resource("dram", bytes_per_tick=2.0),), tick_s=1e-9)
    builder.task("a", "dram", bytes=100)
    builder.task("b", "dram", bytes=100)
    timeline = run(builder.build())
    assert timeline.last_end.tolist() == [100, 100]


def test_a_cycle_of_waiting_tasks_is_reported():
    builder = ProgramBuilder((Resource("core"),), tick_s=1e-9)
    first = builder.task("first", "core", duration=1)
    second = builder.task("second", "core", duration=1, after=(first,))
    builder.barrier(second, first)
    with pytest.raises(CodesignError, match="first"):
        run(builder.build())
