"""What each operator of a table is: its parameters and the work it stands for.

Most operators are one piece of work; a few (`rfft2`, `ew_sqrt`, `ew_where`, `ew_cast`) are two in sequence, as
frameworks run them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from codesign.dtypes import dtype as element_type
from codesign.work import (
    Attention,
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
    Work,
)


@dataclass(frozen=True, slots=True)
class OperatorRule:
    """Names of the parameters, and the work of a type (first) and parameters (by name); raises ValueError when the
    values do not go together."""

    parameters: tuple[str, ...]
    work: Callable[..., Work | tuple[Work, ...]]


def _elements(*extents: int) -> int:
    return math.prod(extents)


def _gemm(dtype: str, b: int, m: int, n: int, k: int, weights: bool = True) -> Contraction:
    """`b` products of m x k by k x n; 8-bit products are stored in 16 bits (float) or 32 bits (integer)."""
    kind = element_type(dtype)
    output = dtype if kind.bits > 8 else ("bfloat16" if kind.is_float else "int32")
    return Contraction(
        kind="MatMul",
        reads=(Operand(b * m * k, dtype), Operand(b * k * n, dtype, "weight" if weights else "activation")),
        writes=(Operand(b * m * n, output),),
        batch=b,
        m=m,
        n=n,
        k=k,
        dtype=dtype,
    )


def _bmm(dtype: str, b: int, m: int, n: int, k: int) -> Contraction:
    return _gemm(dtype, b, m, n, k, weights=False)


def _conv2d(dtype: str, n: int, c: int, h: int, w: int, o: int, k: int, s: int, p: int, g: int) -> Contraction:
    if c % g or o % g:
        raise ValueError(f"{c} input and {o} output channels cannot be divided into {g} groups")
    outputs = tuple((extent + 2 * p - k) // s + 1 for extent in (h, w))
    if min(outputs) < 1:
        raise ValueError(f"a kernel of {k} does not fit into {h} x {w} with padding {p}")
    geometry = Convolution((h, w), outputs, (k, k), (s, s), (1, 1), g, c, o)
    return Contraction(
        kind="Conv",
        reads=(Operand(n * c * h * w, dtype), Operand(o * (c // g) * k * k, dtype, "weight")),
        writes=(Operand(n * o * _elements(*outputs), dtype),),
        batch=g,
        m=n * _elements(*outputs),
        n=o // g,
        k=c // g * k * k,
        dtype=dtype,
        convolution=geometry,
    )


def _sdpa(dtype: str, b: int, h: int, hk: int, q: int, kv: int, d: int, causal: int) -> Attention:
    if h % hk:
        raise ValueError(f"{h} query heads are no multiple of {hk} key-value heads")
    keys = Operand(b * hk * kv * d, dtype)
    queries = Operand(b * h * q * d, dtype)
    return Attention(
        kind="Attention",
        reads=(queries, keys, keys),
        writes=(queries,),
        batch=b,
        heads=h,
        kv_heads=hk,
        query_length=q,
        kv_length=kv,
        head_dim=d,
        value_dim=d,
        dtype=dtype,
        causal=bool(causal),
    )


_ELEMENTWISE = {
    "add": (2, 1), "mul": (2, 1), "copy": (1, 0), "relu": (1, 1), "exp": (1, 4), "pow": (1, 43),
    "erf": (1, 12), "sigmoid": (1, 6), "tanh": (1, 8), "silu": (1, 7), "gelu": (1, 14), "gelu_tanh": (1, 14),
}  # fmt: skip
"""Operands read, and scalar operations an element: polynomials and exponentials counted as their instructions."""


def _elementwise(name: str) -> Callable[..., Map]:
    operands, flops = _ELEMENTWISE[name]

    def work(dtype: str, n: int) -> Map:
        return _map(name, dtype, n, (Operand(n, dtype),) * operands, dtype, flops)

    return work


def _map(kind: str, dtype: str, n: int, reads: tuple[Operand, ...], result: str, flops: float = 1.0) -> Map:
    writes = (Operand(n, result),)
    return Map(kind=kind, reads=reads, writes=writes, elements=n, flops_per_element=flops, dtype=dtype)


def _sqrt(dtype: str, n: int) -> tuple[Work, ...]:
    """The square root of the absolute value, in two kernels."""
    values = (Operand(n, dtype),)
    return _map("Abs", dtype, n, values, dtype), _map("Sqrt", dtype, n, values, dtype, 4.0)


def _cast(dtype: str, n: int) -> tuple[Work, ...]:
    """float32 to float16; any other type to float32 and back, in two kernels."""
    if dtype == "float32":
        return (_map("Cast", dtype, n, (Operand(n, dtype),), "float16"),)
    return (
        _map("Cast", dtype, n, (Operand(n, dtype),), "float32"),
        _map("Cast", dtype, n, (Operand(n, "float32"),), dtype),
    )


def _where(dtype: str, n: int) -> tuple[Work, ...]:
    """A comparison and a selection between two tensors by its result."""
    values = Operand(n, dtype)
    return (
        _map("Greater", dtype, n, (values,), "bool"),
        _map("Where", dtype, n, (Operand(n, "bool"), values, values), dtype),
    )


def _reduction(
    kind: str, flops: float, passes: int = 1, keeps_row: bool = False, result: str = ""
) -> Callable[..., Reduce]:
    """Reductions of r rows of c elements; with `keeps_row` the result has the rows' size (softmax, norms)."""

    def work(dtype: str, r: int, c: int) -> Reduce:
        gain = (Operand(c, dtype, "weight"),) * {"LayerNormalization": 2, "RMSNormalization": 1}.get(kind, 0)
        return Reduce(
            kind=kind,
            reads=(Operand(r * c, dtype), *gain),
            writes=(Operand(r * c if keeps_row else r, result or dtype),),
            rows=r,
            columns=c,
            passes=passes,
            flops_per_element=flops,
            dtype=dtype,
        )

    return work


def _move(kind: str, dtype: str, elements: int, run: int, free: bool = False) -> Move:
    operands = (Operand(elements, dtype),)
    size = element_type(dtype).bytes_for(run)
    return Move(kind=kind, reads=operands, writes=operands, contiguous_bytes=size, free=free)


def _transpose(dtype: str, r: int, c: int) -> Move:
    """Rows to columns; with one row or one column no element changes its place."""
    return _move("Transpose", dtype, r * c, 1, free=min(r, c) == 1)


def _channels_last(dtype: str, n: int, c: int, h: int) -> Move:
    return _move("Transpose", dtype, n * c * h * h, 1)


def _concat(dtype: str, n: int, c: int, h: int) -> Move:
    return _move("Concat", dtype, 2 * n * c * h * h, c * h * h)


def _slice(dtype: str, n: int, c: int, h: int) -> Move:
    """The first half of the channels; of a single image that is a view."""
    half = max(1, c // 2) * h * h
    return _move("Slice", dtype, n * half, half, free=n == 1)


def _pool(kind: str, window: int, stride: int, padding: int) -> Callable[..., Reduce]:
    def work(dtype: str, n: int, c: int, h: int) -> Reduce:
        output = (h + 2 * padding - window) // stride + 1
        return Reduce(
            kind=kind,
            reads=(Operand(n * c * h * h, dtype),),
            writes=(Operand(n * c * output * output, dtype),),
            rows=n * c * output * output,
            columns=window * window,
            dtype=dtype,
        )

    return work


def _global_pool(dtype: str, n: int, c: int, h: int) -> Reduce:
    return _reduction("GlobalAveragePool", 1.0)(dtype, n * c, h * h)


def _batch_norm(dtype: str, n: int, c: int, h: int) -> Map:
    elements = n * c * h * h
    reads = (Operand(elements, dtype), *(Operand(c, dtype, "weight"),) * 4)
    return _map("BatchNormalization", dtype, elements, reads, dtype, 4.0)


def _upsample(dtype: str, n: int, c: int, h: int) -> Map:
    """Bilinear, to twice the height and width: four products and three sums a result."""
    results = 4 * n * c * h * h
    return replace(_map("Resize", dtype, results, (Operand(n * c * h * h, dtype),), dtype, 7.0), planes=n * c)


def _embedding(dtype: str, v: int, d: int, t: int) -> Gather:
    run = element_type(dtype).bytes_for(d)
    return Gather(
        kind="Gather",
        reads=(Operand(min(t, v) * d, dtype, "weight"), Operand(t, "int64")),
        writes=(Operand(t * d, dtype),),
        lookups=t,
        run_bytes=run,
    )


def _index_add(dtype: str, v: int, d: int, t: int) -> Gather:
    """t rows added into a table of v rows: read, added to and written in place."""
    rows = Operand(t * d, dtype)
    return Gather(
        kind="ScatterElements",
        reads=(rows, Operand(t, "int64"), Operand(min(t, v) * d, dtype)),
        writes=(Operand(min(t, v) * d, dtype),),
        lookups=t,
        run_bytes=element_type(dtype).bytes_for(d),
        scatter=True,
    )


def _cumsum(dtype: str, r: int, c: int) -> Scan:
    values = (Operand(r * c, dtype),)
    return Scan(
        kind="CumSum",
        reads=values,
        writes=values,
        steps=c,
        step_macs=0,
        step_flops=r,
        state_bytes=r * element_type(dtype).bits // 8,
        lanes=r,
        dtype=dtype,
    )


def _sort(keep: int | None) -> Callable[..., Sort]:
    def work(dtype: str, r: int, c: int) -> Sort:
        kept = c if keep is None else min(keep, c)
        writes = (Operand(r * kept, dtype), Operand(r * kept, "int64"))
        return Sort(kind="TopK", reads=(Operand(r * c, dtype),), writes=writes, rows=r, columns=c, keep=kept)

    return work


def _rfft2(dtype: str, n: int, c: int, h: int) -> tuple[Work, ...]:
    """Real transforms of the rows, then complex ones of the columns that are left."""
    half = h // 2 + 1
    middle = (Operand(n * c * h * half, "complex64"),)
    return (
        Transform(
            kind="DFT", reads=(Operand(n * c * h * h, dtype),), writes=middle, rows=n * c * h, length=h, dtype=dtype
        ),
        Transform(kind="DFT", reads=middle, writes=middle, rows=n * c * half, length=h, dtype=dtype),
    )


_MATRIX, _ROWS, _IMAGES, _TABLE = ("b", "m", "n", "k"), ("r", "c"), ("n", "c", "h"), ("v", "d", "t")
OPERATORS: dict[str, OperatorRule] = {
    "gemm": OperatorRule(_MATRIX, _gemm),
    "bmm": OperatorRule(_MATRIX, _bmm),
    "conv2d": OperatorRule(("n", "c", "h", "w", "o", "k", "s", "p", "g"), _conv2d),
    "sdpa": OperatorRule(("b", "h", "hk", "q", "kv", "d", "causal"), _sdpa),
    **{f"ew_{name}": OperatorRule(("n",), _elementwise(name)) for name in _ELEMENTWISE},
    "ew_cast": OperatorRule(("n",), _cast),
    "ew_sqrt": OperatorRule(("n",), _sqrt),
    "ew_where": OperatorRule(("n",), _where),
    "sum": OperatorRule(_ROWS, _reduction("ReduceSum", 1.0)),
    "mean": OperatorRule(_ROWS, _reduction("ReduceMean", 1.0)),
    "max": OperatorRule(_ROWS, _reduction("ReduceMax", 1.0, result="")),
    "argmax": OperatorRule(_ROWS, _reduction("ArgMax", 2.0, result="int64")),
    "softmax": OperatorRule(_ROWS, _reduction("Softmax", 5.0, passes=3, keeps_row=True)),
    "layernorm": OperatorRule(_ROWS, _reduction("LayerNormalization", 8.0, passes=2, keeps_row=True)),
    "rmsnorm": OperatorRule(_ROWS, _reduction("RMSNormalization", 5.0, passes=2, keeps_row=True)),
    "cumsum": OperatorRule(_ROWS, _cumsum),
    "sort": OperatorRule(_ROWS, _sort(None)),
    "topk16": OperatorRule(_ROWS, _sort(16)),
    "transpose": OperatorRule(_ROWS, _transpose),
    "nchw_nhwc": OperatorRule(_IMAGES, _channels_last),
    "concat_c": OperatorRule(_IMAGES, _concat),
    "slice_c": OperatorRule(_IMAGES, _slice),
    "maxpool3s2": OperatorRule(_IMAGES, _pool("MaxPool", 3, 2, 1)),
    "avgpool3s1": OperatorRule(_IMAGES, _pool("AveragePool", 3, 1, 1)),
    "gap": OperatorRule(_IMAGES, _global_pool),
    "batchnorm": OperatorRule(_IMAGES, _batch_norm),
    "upsample2": OperatorRule(_IMAGES, _upsample),
    "embedding": OperatorRule(_TABLE, _embedding),
    "index_add": OperatorRule(_TABLE, _index_add),
    "rfft2": OperatorRule(_IMAGES, _rfft2),
}
