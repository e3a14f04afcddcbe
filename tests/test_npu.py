import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.device import MappedOp
from codesign.engine.analytic import lower_bound_ticks
from codesign.engine.run import run
from codesign.program import ProgramBuilder
from codesign.registry import device
from codesign.work import (
    Attention,
    Collective,
    Contraction,
    Convolution,
    Gather,
    Map,
    Move,
    Operand,
    Reduce,
    Scan,
    Sort,
    Transform,
)  # fmt: skip

DEVICE = "ethos-u65-256"
SIDE = Operand(64 * 64, "int8")
COMMON = {"reads": (SIDE,), "writes": (SIDE,)}
EVERY_CLASS = [
    Contraction(
        kind="MatMul", reads=(SIDE, Operand(64 * 64, "int8", "weight")), writes=(SIDE,), batch=1, m=64, n=64, k=64,
        dtype="int8",
    ),
    Attention(
        kind="Attention", reads=(SIDE,) * 3, writes=(SIDE,), batch=1, heads=2, kv_heads=2, query_length=64,
        kv_length=64, head_dim=32, value_dim=32, dtype="int8",
    ),
    Map(kind="Add", reads=(SIDE, SIDE), writes=(SIDE,), elements=4096, dtype="int8"),
    Reduce(kind="Softmax", rows=64, columns=64, passes=3, dtype="int8", **COMMON),
    Reduce(kind="MaxPool", rows=64, columns=64, dtype="int8", **COMMON),
    Move(kind="Transpose", contiguous_bytes=64, **COMMON),
    Gather(kind="Gather", lookups=64, run_bytes=64, **COMMON),
    Scan(kind="LSTM", steps=10, step_macs=100, step_flops=10, state_bytes=64, **COMMON),
    Sort(kind="TopK", rows=2, columns=100, keep=3, **COMMON),
    Transform(kind="DFT", rows=2, length=128, **COMMON),
    Collective(kind="AllReduce", pattern="all_reduce", payload_bytes=4096, participants=2, **COMMON),
]  # fmt: skip


def program_of(npu, work, resident=(), keep_output=False):
    builder = ProgramBuilder(npu.resources(), npu.tick_s)
    npu.map(MappedOp("op", work, resident, keep_output), builder)
    return builder.build()


def ticks_of(npu, work, **where):
    return run(program_of(npu, work, **where)).end


def energy_of(npu, work):
    program = program_of(npu, work)
    return float((program.energy_J * program.count[:, None]).sum())


def matmul(m, n, k, batch=1, dtype="int8"):
    return Contraction(
        kind="MatMul", reads=(Operand(batch * m * k, dtype), Operand(batch * k * n, dtype, "weight")),
        writes=(Operand(batch * m * n, dtype),), batch=batch, m=m, n=n, k=k, dtype=dtype,
    )  # fmt: skip


def convolution(size, channels, outputs, kernel=3, stride=1, groups=1):
    out = -(-size // stride)
    geometry = Convolution(
        (size, size), (out, out), (kernel, kernel), (stride, stride), (1, 1), groups, channels, outputs
    )
    weights = Operand(outputs * channels // groups * kernel * kernel, "int8", "weight")
    return Contraction(
        kind="Conv", reads=(Operand(size * size * channels, "int8"), weights),
        writes=(Operand(out * out * outputs, "int8"),), batch=groups, m=out * out, n=outputs // groups,
        k=kernel * kernel * channels // groups, dtype="int8", convolution=geometry,
    )  # fmt: skip


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
