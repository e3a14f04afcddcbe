"""Work of every class, and the products that device tests are made of."""

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
