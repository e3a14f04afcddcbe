import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.device import MappedOp
from codesign.engine.analytic import lower_bound_ticks
from codesign.engine.run import run
from codesign.program import ProgramBuilder
from codesign.registry import device
from codesign.work import Move
from tests.work_case import COMMON, EVERY_CLASS, matmul

DEVICE = "ethos-u65-256"


def program_of(npu, work, resident=(), keep_output=False):
    builder = ProgramBuilder(npu.resources(), npu.tick_s)
    npu.map(MappedOp("op", work, resident, keep_output), builder)
    return builder.build()


def ticks_of(npu, work, **where):
    return run(program_of(npu, work, **where)).end


def energy_of(npu, work):
    program = program_of(npu, work)
    return float((program.energy_J * program.count[:, None]).sum())


@pytest.mark.parametrize("work", EVERY_CLASS, ids=lambda work: f"{type(work).__name__}-{work.kind}")
def test_every_class_of_work_takes_time_and_energy_and_no_less_than_the_bound(work):
    npu = device(DEVICE)
    program = program_of(npu, work)
    timeline = run(program)
    assert timeline.end > 0
    assert energy_of(npu, work) > 0
    assert lower_bound_ticks(program)[0] <= timeline.end


def test_a_free_move_costs_nothing():
    npu = device(DEVICE)
    assert program_of(npu, Move(kind="Reshape", contiguous_bytes=64, free=True, **COMMON)).count.size == 0


SIZES = st.integers(1, 300)


@settings(max_examples=25, deadline=None)
@given(m=SIZES, n=SIZES, k=SIZES)
def test_the_analytic_bound_is_below_the_event_time(m, n, k):
    program = program_of(device(DEVICE), matmul(m, n, k))
    assert lower_bound_ticks(program)[0] <= run(program).end


@settings(max_examples=25, deadline=None)
@given(m=SIZES, n=SIZES, k=SIZES, grown=st.sampled_from("mnk"))
def test_twice_the_work_is_never_cheaper(m, n, k, grown):
    npu, small = device(DEVICE), {"m": m, "n": n, "k": k}
    large = small | {grown: 2 * small[grown]}
    assert ticks_of(npu, matmul(**large)) >= ticks_of(npu, matmul(**small))
    assert energy_of(npu, matmul(**large)) >= energy_of(npu, matmul(**small))
