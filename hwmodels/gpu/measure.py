"""Measure single operators on a CUDA GPU with PyTorch: `python measure.py --out operators.csv [--from rows.csv]`.

Writes the columns `op,dtype,params,cold_us,warm_us` that `codesign calibrate --class gpu` reads. Needs only PyTorch
(the optional extra `measure`), so the file can be copied alone to the machine with the GPU. Rows come from a CSV with
the columns op, dtype, params, or from a built-in grid. `cold` is the median of launches with the L2 cache flushed
before each, by device events (it holds the launch of an idle device); `warm` is the time that a call of a captured CUDA
graph adds.
`tf32` means float32 tensors with TF32 allowed in the matrix units; `fp32` without. Convolutions are channels-last.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

Params = dict[str, int]
Call = Callable[[], Any]

TYPES = {
    "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "tf32": torch.float32,
    "int8": torch.int8, "fp8": torch.float8_e4m3fn,
}  # fmt: skip
FLUSH_BYTES = 1 << 30
COLD_LAUNCHES, WARM_CALLS, WARM_REPLAYS = 20, 20, 5
LONG_S = 1e-3
"""A call longer than this is launched and replayed fewer times."""


def _random(dtype: str, *shape: int) -> torch.Tensor:
    kind = TYPES[dtype]
    if kind == torch.int8:
        return torch.randint(-127, 127, shape, dtype=kind, device="cuda")
    return torch.randn(shape, device="cuda", dtype=torch.float32 if kind.itemsize == 1 else kind).to(kind)


def _gemm(dtype: str, b: int, m: int, n: int, k: int) -> Call:
    left, right = _random(dtype, m, k), _random(dtype, n, k)
    if dtype == "int8":
        return lambda: torch._int_mm(left, right.t())
    if dtype == "fp8":
        one = torch.ones((), device="cuda")
        return lambda: torch._scaled_mm(left, right.t(), one, one, out_dtype=torch.bfloat16)
    return lambda: F.linear(left, right)


def _bmm(dtype: str, b: int, m: int, n: int, k: int) -> Call:
    left, right = _random(dtype, b, m, k), _random(dtype, b, k, n)
    return lambda: torch.bmm(left, right)


def _image(dtype: str, *shape: int) -> torch.Tensor:
    return _random(dtype, *shape).to(memory_format=torch.channels_last)


def _conv2d(dtype: str, n: int, c: int, h: int, w: int, o: int, k: int, s: int, p: int, g: int) -> Call:
    image, weight = _image(dtype, n, c, h, w), _image(dtype, o, c // g, k, k)
    return lambda: F.conv2d(image, weight, stride=s, padding=p, groups=g)


def _sdpa(dtype: str, b: int, h: int, hk: int, q: int, kv: int, d: int, causal: int) -> Call:
    query, key, value = _random(dtype, b, h, q, d), _random(dtype, b, hk, kv, d), _random(dtype, b, hk, kv, d)
    if causal and q != kv and q > 1:
        mask = torch.ones(q, kv, device="cuda", dtype=torch.bool).tril(kv - q)
        return lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=hk != h)
    return lambda: F.scaled_dot_product_attention(query, key, value, is_causal=bool(causal), enable_gqa=hk != h)


def _elementwise(function: Callable[..., Any], operands: int = 1) -> Callable[..., Call]:
    def build(dtype: str, n: int) -> Call:
        values = [_random(dtype, n) for _ in range(operands)]
        return lambda: function(*values)

    return build


def _copy(dtype: str, n: int) -> Call:
    source, target = _random(dtype, n), _random(dtype, n)
    return lambda: target.copy_(source)


def _cast(values: torch.Tensor) -> torch.Tensor:
    return values.half() if values.dtype == torch.float32 else values.float().to(values.dtype)


def _rows(function: Callable[[torch.Tensor], Any]) -> Callable[..., Call]:
    def build(dtype: str, r: int, c: int) -> Call:
        values = _random(dtype, r, c)
        return lambda: function(values)

    return build


def _layernorm(dtype: str, r: int, c: int) -> Call:
    values, gain, bias = _random(dtype, r, c), _random(dtype, c), _random(dtype, c)
    return lambda: F.layer_norm(values, (c,), gain, bias)


def _rmsnorm(dtype: str, r: int, c: int) -> Call:
    values, gain = _random(dtype, r, c), _random(dtype, c)
    return lambda: F.rms_norm(values, (c,), gain)


def _images(function: Callable[[torch.Tensor], Any], last: bool = False) -> Callable[..., Call]:
    def build(dtype: str, n: int, c: int, h: int) -> Call:
        values = _image(dtype, n, c, h, h) if last else _random(dtype, n, c, h, h)
        return lambda: function(values)

    return build


def _batchnorm(last: bool) -> Callable[..., Call]:
    def build(dtype: str, n: int, c: int, h: int) -> Call:
        values = _image(dtype, n, c, h, h) if last else _random(dtype, n, c, h, h)
        mean, variance, gain, bias = (_random(dtype, c).abs() for _ in range(4))
        return lambda: F.batch_norm(values, mean, variance, gain, bias)

    return build


def _groupnorm(dtype: str, n: int, c: int, h: int) -> Call:
    values, gain, bias = _image(dtype, n, c, h, h), _random(dtype, c), _random(dtype, c)
    return lambda: F.group_norm(values, 1, gain, bias)


def _bias(operation: Callable[..., Any]) -> Callable[..., Call]:
    def build(dtype: str, n: int, c: int, h: int) -> Call:
        values, bias = _image(dtype, n, c, h, h), _random(dtype, c).reshape(1, c, 1, 1)
        return lambda: operation(values, bias)

    return build


def _concat(dtype: str, n: int, c: int, h: int) -> Call:
    left, right = _random(dtype, n, c, h, h), _random(dtype, n, c, h, h)
    return lambda: torch.cat((left, right), 1)


def _heads(dtype: str, b: int, s: int, h: int, d: int) -> Call:
    values = _random(dtype, b, s, h, d)
    return lambda: values.transpose(1, 2).contiguous()


def _embedding(dtype: str, v: int, d: int, t: int) -> Call:
    table, index = _random(dtype, v, d), torch.randint(0, v, (t,), device="cuda")
    return lambda: F.embedding(index, table)


def _index_add(dtype: str, v: int, d: int, t: int) -> Call:
    table, rows, index = _random(dtype, v, d), _random(dtype, t, d), torch.randint(0, v, (t,), device="cuda")
    return lambda: table.index_add_(0, index, rows)


OPERATORS: dict[str, Callable[..., Call]] = {
    "gemm": _gemm, "bmm": _bmm, "conv2d": _conv2d, "sdpa": _sdpa,
    "ew_add": _elementwise(torch.add, 2), "ew_mul": _elementwise(torch.mul, 2), "ew_copy": _copy,
    "ew_relu": _elementwise(F.relu), "ew_exp": _elementwise(torch.exp), "ew_erf": _elementwise(torch.erf),
    "ew_sigmoid": _elementwise(torch.sigmoid), "ew_tanh": _elementwise(torch.tanh), "ew_silu": _elementwise(F.silu),
    "ew_gelu": _elementwise(F.gelu), "ew_gelu_tanh": _elementwise(lambda x: F.gelu(x, approximate="tanh")),
    "ew_pow": _elementwise(lambda x: torch.pow(x, 2.5)), "ew_sqrt": _elementwise(lambda x: x.abs().sqrt()),
    "ew_where": _elementwise(lambda x, y: torch.where(x > 0, x, y), 2), "ew_cast": _elementwise(_cast),
    "sum": _rows(lambda x: x.sum(-1)), "mean": _rows(lambda x: x.mean(-1)), "max": _rows(lambda x: x.amax(-1)),
    "argmax": _rows(lambda x: x.argmax(-1)), "softmax": _rows(lambda x: F.softmax(x, -1)),
    "layernorm": _layernorm, "rmsnorm": _rmsnorm, "cumsum": _rows(lambda x: x.cumsum(-1)),
    "sort": _rows(lambda x: x.sort(-1)), "topk16": _rows(lambda x: x.topk(16, -1)),
    "transpose": _rows(lambda x: x.t().contiguous()),
    "nchw_nhwc": _images(lambda x: x.contiguous(memory_format=torch.channels_last)),
    "concat_c": _concat, "slice_c": _images(lambda x: x[:, : max(1, x.shape[1] // 2)].contiguous()),
    "maxpool3s2": _images(lambda x: F.max_pool2d(x, 3, 2, 1)),
    "avgpool3s1": _images(lambda x: F.avg_pool2d(x, 3, 1, 1)), "gap": _images(lambda x: x.mean((2, 3))),
    "batchnorm": _batchnorm(False), "upsample2": _images(
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)),
    "rfft2": _images(torch.fft.rfft2), "embedding": _embedding, "index_add": _index_add,
    "maxpool3s2_last": _images(lambda x: F.max_pool2d(x, 3, 2, 1), True),
    "avgpool3s1_last": _images(lambda x: F.avg_pool2d(x, 3, 1, 1), True),
    "gap_last": _images(lambda x: x.mean((2, 3)), True), "batchnorm_last": _batchnorm(True),
    "groupnorm1_last": _groupnorm, "bias_last": _bias(torch.add), "scale_last": _bias(torch.mul), "heads": _heads,
}  # fmt: skip
"""What each row runs. `*_last` operators work on channels-last images; `heads` moves heads before tokens."""

def grid() -> Iterator[tuple[str, str, Params]]:
    """Shapes that show every coefficient of the GPU model, small to large, odd and even, about 500 rows."""
    def choose(**axes: tuple[int, ...]) -> Iterator[Params]:
        rows: list[Params] = [{}]
        for name, values in axes.items():
            rows = [{**row, name: value} for row in rows for value in values]
        return iter(rows)

    for dtype in ("fp16", "tf32", "fp32"):
        for params in choose(b=(1,), m=(1, 16, 197, 1024, 4096), n=(64, 768, 3072, 8192), k=(64, 768, 4096)):
            yield "gemm", dtype, params
        for params in choose(b=(12, 96), m=(1, 128, 512), n=(64, 512), k=(64, 512)):
            yield "bmm", dtype, params
    for dtype in ("fp16", "tf32"):
        for n in (1, 32):
            for c, h, o, k, s, g in (
                (3, 224, 64, 7, 2, 1), (64, 56, 64, 3, 1, 1), (256, 56, 64, 1, 1, 1), (256, 14, 256, 3, 1, 1),
                (512, 7, 512, 3, 1, 1), (96, 112, 96, 3, 2, 96), (576, 14, 576, 3, 1, 576), (96, 56, 96, 7, 1, 96),
            ):  # fmt: skip
                yield "conv2d", dtype, {"n": n, "c": c, "h": h, "w": h, "o": o, "k": k, "s": s, "p": k // 2, "g": g}
    for params in choose(b=(1, 8), h=(12,), hk=(12,), q=(1, 128, 1024), kv=(128, 1024, 4096), d=(64, 128), causal=(0,)):
        yield "sdpa", "fp16", params
    for dtype in ("fp16", "fp32"):
        for op in ("ew_add", "ew_relu", "ew_exp", "ew_gelu", "ew_pow", "ew_copy"):
            for params in choose(n=(4096, 150528, 1048576, 8388608, 67108864)):
                yield op, dtype, params
        for op in ("sum", "argmax", "softmax", "layernorm", "rmsnorm", "cumsum", "sort", "topk16", "transpose"):
            for params in choose(r=(1, 197, 2364, 25088), c=(96, 197, 768, 4096)):
                yield op, dtype, params
        for op in ("nchw_nhwc", "concat_c", "slice_c", "maxpool3s2", "avgpool3s1", "gap", "batchnorm", "upsample2"):
            for params in choose(n=(1, 8, 64), c=(64, 768), h=(14, 56)):
                yield op, dtype, params
        for op in ("embedding", "index_add"):
            for params in choose(v=(30522,), d=(768, 4096), t=(128, 4096)):
                yield op, dtype, params
    for params in choose(n=(1, 8), c=(64, 768), h=(14, 56)):
        yield "rfft2", "fp32", params


def cold_us(call: Call, flush: torch.Tensor, launches: int) -> float:
    """Median microseconds of single launches, the cache flushed before each."""
    times = []
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(launches):
        flush.zero_()  # keeps the GPU busy while the host submits what follows: its launch time must not count
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times)


def warm_us(call: Call, calls: int, replays: int) -> float:
    """Microseconds a call adds to the replay of a captured graph of `calls` calls."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    graph.replay()
    times = []
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(replays):
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times)


def measure(op: str, dtype: str, params: Params, flush: torch.Tensor) -> tuple[float, float]:
    """Cold and warm microseconds of one operator. Raises RuntimeError when the GPU or PyTorch cannot run it."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == "tf32"
    call = OPERATORS[op](dtype, **params)
    for _ in range(2):
        call()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    call()
    torch.cuda.synchronize()
    long = time.perf_counter() - begun > LONG_S
    cold = cold_us(call, flush, 5 if long else COLD_LAUNCHES)
    return cold, warm_us(call, 3 if long else WARM_CALLS, 3 if long else WARM_REPLAYS)


def rows_of(path: Path) -> Iterator[tuple[str, str, Params]]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield row["op"], row["dtype"], json.loads(row["params"])


def write(rows: Iterable[tuple[str, str, Params]], out: Path, limit_s: float) -> None:
    """Measure the rows and write each as it is done; what cannot run is skipped with a line on standard error."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    begun = time.perf_counter()
    with torch.no_grad(), out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("op", "dtype", "params", "cold_us", "warm_us"))
        for op, dtype, params in rows:
            if time.perf_counter() - begun > limit_s:
                print("time is up", file=sys.stderr)
                return
            try:
                cold, warm = measure(op, dtype, params, flush)
            except (RuntimeError, KeyError, torch.OutOfMemoryError) as error:
                print(f"skipped {op} {dtype} {params}: {str(error).splitlines()[0]}", file=sys.stderr)
                continue
            writer.writerow((op, dtype, json.dumps(params), f"{cold:.3f}", f"{warm:.3f}"))
            file.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    parser.add_argument("--from", dest="source", type=Path, help="CSV with the columns op, dtype, params")
    parser.add_argument("--limit-s", type=float, default=3600, help="stop after this many seconds")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA GPU is available to PyTorch")
    write(rows_of(arguments.source) if arguments.source else grid(), arguments.out, arguments.limit_s)


if __name__ == "__main__":
    main()
