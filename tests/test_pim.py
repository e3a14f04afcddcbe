"""The PIM device class: mapping, DRAM timing, the fidelity ladder, energy and the published figures."""

from __future__ import annotations

import pytest

from codesign.device import Device, MappedOp
from codesign.engine import Timeline, run
from codesign.engine.analytic import lower_bound_ticks
from codesign.program import ProgramBuilder
from codesign.registry import device
from codesign.work import (
    Attention,
    Collective,
    Contraction,
    Gather,
    Map,
    Move,
    Operand,
    Reduce,
    Scan,
    Sort,
    Transform,
    Work,
)

BF16 = "bfloat16"


def activation(elements: int, dtype: str = BF16) -> Operand:
    return Operand(elements, dtype)


def weight(elements: int, dtype: str = BF16) -> Operand:
    return Operand(elements, dtype, "weight")


def gemv(
    m: int, n: int, k: int, batch: int = 1, dtype: str = BF16, role: str = "weight", epilogue: int = 0
) -> Contraction:
    matrix = Operand(batch * n * k, dtype, role)  # type: ignore[arg-type]
    return Contraction(
        kind="MatMul",
        reads=(activation(batch * m * k, dtype), matrix),
        writes=(activation(batch * m * n, dtype),),
        batch=batch,
        m=m,
        n=n,
        k=k,
        dtype=dtype,
        epilogue_flops=epilogue,
    )


def attention(
    query: int, tokens: int, heads: int = 12, kv_heads: int = 12, width: int = 64, dtype: str = BF16
) -> Attention:
    cache = Operand(kv_heads * tokens * width, dtype, "state")
    one = activation(heads * query * width, dtype)
    return Attention(
        kind="Attention", reads=(one, cache, cache), writes=(one,), batch=1, heads=heads, kv_heads=kv_heads,
        query_length=query, kv_length=tokens, head_dim=width, value_dim=width, dtype=dtype, causal=True,
    )  # fmt: skip


def on_chip(work: Work) -> MappedOp:
    """The operation with its activations in the ASIC's memory."""
    return MappedOp("op", work, resident=tuple(o.role == "activation" for o in work.reads), keep_output=True)


def simulate(pim: Device, *ops: MappedOp) -> Timeline:
    """Run the operations one after the other."""
    builder = ProgramBuilder(pim.resources(), pim.tick_s)
    before: tuple[int, ...] = ()
    for index, op in enumerate(ops):
        builder.current_op = index
        tasks = pim.map(op, builder)
        for source in before:
            for target in tasks.entry:
                builder.barrier(source, target)
        before = tasks.exit or before
    return run(builder.build())


WORKS: dict[str, Work] = {
    "matrix-vector product": gemv(1, 768, 768, epilogue=768),
    "long vector": gemv(1, 768, 3072),
    "prefill": gemv(128, 2304, 768),
    "computed matrix": gemv(4, 128, 64, batch=12, role="activation"),
    "float32 product": gemv(1, 64, 64, dtype="float32"),
    "depthwise": gemv(196, 1, 9, batch=96),
    "decode attention": attention(1, 1000),
    "prefill attention": attention(64, 64),
    "grouped attention": attention(1, 300, heads=32, kv_heads=8, width=128),
    "float32 attention": attention(1, 64, dtype="float32"),
    "gelu": Map(
        kind="Gelu", reads=(activation(3072),), writes=(activation(3072),), elements=3072, flops_per_element=18,
        dtype=BF16,
    ),
    "layer norm": Reduce(
        kind="LayerNormalization", reads=(activation(768), weight(768)), writes=(activation(768),), rows=1, columns=768,
        passes=2, flops_per_element=7, dtype=BF16,
    ),
    "transpose": Move(kind="Transpose", reads=(activation(4096),), writes=(activation(4096),), contiguous_bytes=2),
    "embedding": Gather(
        kind="Gather", reads=(weight(768), activation(1, "int64")), writes=(activation(768),), lookups=1, run_bytes=1536
    ),
    "scatter": Gather(
        kind="ScatterND", reads=(activation(8192), activation(8, "int64"), activation(64)), writes=(activation(8192),),
        lookups=8, run_bytes=16, scatter=True,
    ),
    "lstm": Scan(
        kind="LSTM", reads=(activation(640), weight(131072)), writes=(activation(1280),), steps=10, step_macs=65536,
        step_flops=1280, state_bytes=256, dtype=BF16,
    ),
    "recurrence without weights": Scan(
        kind="Scan", reads=(activation(640),), writes=(activation(640),), steps=10, step_macs=64, step_flops=64,
        state_bytes=128, dtype=BF16,
    ),
    "top k": Sort(kind="TopK", reads=(activation(50257),), writes=(activation(40),), rows=1, columns=50257, keep=40),
    "fourier": Transform(
        kind="DFT", reads=(activation(1024),), writes=(activation(2048),), rows=1, length=1024, dtype=BF16
    ),
    "all-reduce": Collective(
        kind="AllReduce", reads=(activation(4096),), writes=(activation(4096),), pattern="all_reduce",
        payload_bytes=8192, participants=4,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def pim() -> Device:
    return device("pim-gpt")


@pytest.mark.parametrize("resident", [False, True], ids=["from DRAM", "on chip"])
@pytest.mark.parametrize("name", WORKS)
def test_maps_and_runs_every_class_of_work_in_time_and_energy(pim: Device, name: str, resident: bool) -> None:
    work = WORKS[name]
    timeline = simulate(pim, on_chip(work) if resident else MappedOp("op", work))
    bound, _ = lower_bound_ticks(timeline.program)
    assert 0 < bound <= timeline.end
    assert timeline.program.energy_J.sum() > 0
    assert (timeline.program.energy_J >= 0).all()
    assert timeline.program.count.size < 40


def test_a_view_costs_nothing(pim: Device) -> None:
    view = Move(kind="Reshape", reads=(), writes=(), contiguous_bytes=0, free=True)
    assert simulate(pim, MappedOp("view", view)).end == 0
