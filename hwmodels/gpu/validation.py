"""The GPU model beside measurements that nothing was fitted on.

Single operators on an H200: the 40% of shapes that calibration does not see. Whole networks on it: those that
calibration does not see, launched by the host, replayed as a captured graph, and compiled, with the energy of an
inference. Devices that nothing was fitted on: all operators on an H100, float32 operators on a V100 and a T4, and the
throughputs of image networks on an RTX 3090.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from codesign.hardware import Device
from codesign.validation import Bound, Comparison
from hwmodels.gpu.estimate import operator_seconds
from hwmodels.gpu.measurements import (
    DATA,
    DEVICE,
    Measured,
    fp32_operators,
    network_graph,
    networks,
    operators,
    read_measured,
    throughputs,
    use_of_network,
)
from hwmodels.gpu.parameters import GpuParameters

SOURCE = "measured on one NVIDIA H200 SXM, PyTorch 2.11, CUDA 13.0"
H100_SOURCE = "measured on one NVIDIA H100 SXM by hwmodels/gpu/measure.py, PyTorch 2.11, CUDA 13.0"
FP32_SOURCE = "NeuSight's measurements (Lee et al., ASPLOS 2025), PyTorch 2.1"
TIMM_SOURCE = "timm's published inference benchmark, RTX 3090, mixed precision, channels-last"

CLASSES = {
    "matrix products": ("gemm", "bmm"), "convolutions": ("conv2d",), "attention": ("sdpa",),
    "elementwise": ("ew_", "batchnorm", "upsample2"),
    "reductions and norms": ("sum", "mean", "max", "argmax", "gap", "softmax", "layernorm", "rmsnorm"),
    "copies and gathers": ("transpose", "nchw_nhwc", "concat_c", "slice_c", "embedding", "index_add"),
    "pooling": ("maxpool3s2", "avgpool3s1"), "scans, sorts and transforms": ("cumsum", "sort", "topk16", "rfft2"),
}  # fmt: skip
"""Operators by what kind of kernel they are."""

# Networks launched by the host miss their aim. The measurements themselves differ as much: vit_tiny and vit_base run
# the same operations, whose kernels take less than their launches, and were measured at 3.9 and at 6.0 to 8.0 ms.
BOUNDS = (
    *(Bound(f"operators cold, {kind}", "mean", 0.18) for kind in CLASSES),
    Bound("operators cold", "mean", 0.12),
    Bound("operators cold", "median", 0.08),
    Bound("operators warm", "mean", 0.15),
    Bound("networks graph", "mean", 0.10),
    Bound("networks graph", "kendall", 0.95),
    Bound("networks eager", "mean", 0.25, aim=0.20),
    Bound("networks fused", "mean", 0.15),
    Bound("energy of an inference", "mean", 0.12),
    Bound("float32 operators on a V100 and a T4", "mean", 0.20),
    Bound("throughput on an RTX 3090", "spearman", 0.90),
    Bound("operators on an H100, cold", "mean", 0.18),
    Bound("operators on an H100, warm", "mean", 0.18),
)

THROUGHPUT_BATCH = 64


def comparisons() -> list[Comparison]:
    """Every comparison, group after group."""
    parts = (
        operator_comparisons(), network_comparisons(), h100_comparisons(), fp32_comparisons(), throughput_comparisons()
    )  # fmt: skip
    return [row for part in parts for row in part]


@cache
def _parameters(name: str) -> GpuParameters:
    parameters = _device(name).parameters
    assert isinstance(parameters, GpuParameters)
    return parameters


def _device(name: str, **overrides: str) -> Device:
    from codesign.registry import device

    return device(name, **overrides)


def _class_of(op: str) -> str:
    for kind, ops in CLASSES.items():
        if op in ops or any(op.startswith(start) for start in ops if start.endswith("_")):
            return kind
    return "others"


def _named(found: Measured) -> str:
    params = " ".join(f"{key}={int(value)}" for key, value in found.row.params)
    return f"{found.row.op} {found.row.dtype} {params}"


def operator_comparisons() -> Iterator[Comparison]:
    """Cold by class, then all cold, then all warm."""
    chosen = operators("validation")
    predicted = {id(found): operator_seconds(found.works, _parameters(DEVICE), found.cache) for found in chosen}
    cold = sorted((found for found in chosen if found.cache == "cold"), key=lambda found: _class_of(found.row.op))
    for found in cold:
        group = f"operators cold, {_class_of(found.row.op)}"
        yield Comparison(group, _named(found), "s", predicted[id(found)], found.seconds, SOURCE)
    for state in ("cold", "warm"):
        for found in chosen:
            if found.cache == state:
                group = f"operators {state}"
                yield Comparison(group, _named(found), "s", predicted[id(found)], found.seconds, SOURCE)


def network_comparisons() -> Iterator[Comparison]:
    """Seconds of each runtime, then joules."""
    from codesign.simulation import simulate

    joules = []
    for mode in ("graph", "eager", "fused"):
        found = _device(DEVICE, runtime=mode)
        for measured in networks(mode):
            graph = network_graph(measured) if use_of_network(measured.model) == "validation" else None
            if graph is None:
                continue
            report = simulate(graph, found, measured.dtype)
            yield Comparison(f"networks {mode}", measured.name, "s", report.latency_s, measured.seconds, SOURCE)
            if measured.joules:
                name = f"{measured.name} {mode}"
                joules.append(
                    Comparison("energy of an inference", name, "J", report.energy_J, measured.joules, SOURCE)
                )
    yield from joules


def h100_comparisons() -> Iterator[Comparison]:
    for state in ("cold", "warm"):
        for found in read_measured(DATA / "h100_ops.csv"):
            if found.cache == state:
                predicted = operator_seconds(found.works, _parameters("h100"), found.cache)
                group = f"operators on an H100, {state}"
                yield Comparison(group, _named(found), "s", predicted, found.seconds, H100_SOURCE)


def fp32_comparisons() -> Iterator[Comparison]:
    from codesign.study.operators import works_of_row

    for name, row, seconds in fp32_operators():
        params = " ".join(f"{key}={int(value)}" for key, value in row.params)
        predicted = operator_seconds(works_of_row(row), _parameters(name), "warm")
        group = "float32 operators on a V100 and a T4"
        yield Comparison(group, f"{name} {row.op} {params}", "s", predicted, seconds, FP32_SOURCE)


def throughput_comparisons() -> Iterator[Comparison]:
    from codesign.model import load
    from codesign.simulation import simulate

    found = _device("rtx-3090")
    for workload, images_per_s in throughputs():
        report = simulate(load(f"zoo:{workload}", batch=THROUGHPUT_BATCH), found, "float16")
        predicted = THROUGHPUT_BATCH / report.latency_s
        yield Comparison("throughput on an RTX 3090", workload, "1/s", predicted, images_per_s, TIMM_SOURCE)
