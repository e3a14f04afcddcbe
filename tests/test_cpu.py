import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import BadParameter
from codesign.registry import device
from codesign.study.operators import OperatorRow, simulate_operators
from codesign.validation import measure
from hwmodels.cpu import calibrate, validation
from hwmodels.cpu.detect import machine_from

CPU = "i9-10940x"


def row(op, dtype="fp32", **params):
    return OperatorRow(op, dtype, tuple(sorted(params.items())))


def gemm(m, n, k, dtype="fp32"):
    return row("gemm", dtype, b=1, m=m, n=n, k=k)


def simulate(rows, cache="cold", **parameters):
    return simulate_operators(device(CPU, **parameters), rows, cache)


CPUINFO = """processor : 0
model name : Example CPU @ 3.30GHz
cpu MHz : 1200.5
flags : fpu sse2 avx2 {flags}

processor : 1
model name : Example CPU @ 3.30GHz
"""


def test_detection_reads_clock_width_and_caches(tmp_path):
    for index, (level, kind, size) in enumerate([(1, "Data", "48K"), (1, "Instruction", "32K"), (3, "Unified", "8M")]):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{value}\n")
    found = machine_from(CPUINFO.format(flags="avx512f avx512_vnni"), tmp_path, cores=6)
    assert (found.cores, found.clock, found.simd_bits) == (6, 3.3e9, 512)
    assert (found.l1, found.l3) == (48 << 10, 8 << 20)
    assert found.dot_product_int8
    assert not found.dot_product_bfloat16


def test_detection_without_any_table_gives_a_usable_machine(tmp_path):
    found = machine_from("", tmp_path / "absent", cores=1)
    assert all(value > 0 for value in dataclasses.astuple(found) if not isinstance(value, bool))


def test_without_avx512_vectors_are_narrower(tmp_path):
    assert machine_from(CPUINFO.format(flags=""), tmp_path, cores=1).simd_bits == 256


def test_the_host_is_read_from_this_machine():
    host = device("host").parameters
    assert host.core.count >= 1
    assert host.core.simd_bits in (128, 256, 512)
    assert device("host", **{"core.count": 3}).parameters.core.count == 3


def test_a_parameter_out_of_range_is_refused():
    with pytest.raises(BadParameter, match=r"core\.clock"):
        device(CPU, **{"core.clock": -1.0})


def test_a_large_product_runs_at_the_achieved_fraction_of_peak():
    found = device(CPU)
    seconds = simulate([gemm(4096, 4096, 4096)])[0]["latency_s"]
    fraction = 2 * 4096**3 / seconds / found.peak_flops("float32")
    assert fraction == pytest.approx(found.parameters.core.achieved, rel=0.03)


def test_a_copy_larger_than_the_cache_runs_at_the_memorys_bandwidth():
    found = device(CPU).parameters.dram
    result = simulate([row("ew_copy", n=100_000_000)])[0]
    assert result["bytes"] / result["latency_s"] == pytest.approx(found.bandwidth * found.achieved, rel=0.05)
    assert result["bound"] == "dram"


def test_a_tiny_operator_costs_the_frameworks_call():
    found = device(CPU).parameters.framework
    assert simulate([row("ew_add", n=10)])[0]["latency_s"] == pytest.approx(found.call, rel=0.02)


def test_eight_bit_dot_products_are_faster_than_float():
    float32, int8 = simulate([gemm(2048, 2048, 2048), gemm(2048, 2048, 2048, "int8")])
    assert int8["latency_s"] < float32["latency_s"] / 3
    assert int8["energy_J"] < float32["energy_J"] / 2


sizes = st.integers(1, 600)


@given(sizes, sizes, sizes, st.integers(0, 300), st.sampled_from("mnk"))
@settings(max_examples=40, deadline=None)
def test_larger_products_never_cost_less(m, n, k, more, grown):
    extents = {"m": m, "n": n, "k": k}
    small = gemm(**extents)
    large = gemm(**{**extents, grown: extents[grown] + more})
    before, after = simulate([small, large])
    assert after["latency_s"] >= before["latency_s"] * (1 - 1e-9)
    assert after["energy_J"] >= before["energy_J"] * (1 - 1e-9)


@given(sizes, sizes, sizes)
@settings(max_examples=30, deadline=None)
def test_warm_is_never_slower_than_cold_and_the_bound_holds(m, n, k):
    rows = [gemm(m, n, k), row("softmax", r=m, c=n)]
    found = device(CPU)
    cold, warm = (simulate_operators(found, rows, cache) for cache in ("cold", "warm"))
    bound = simulate_operators(found, rows, fidelity="analytic")
    for at_least, event, again in zip(bound, cold, warm, strict=True):
        assert again["latency_s"] <= event["latency_s"] * (1 + 1e-9)
        assert at_least["latency_s"] <= event["latency_s"] * (1 + 1e-9)


@pytest.mark.parametrize("parameter", ["dram.bandwidth", "core.clock", "cache.bandwidth"])
def test_faster_parts_never_hurt(parameter):
    rows = [gemm(1, 2048, 2048), gemm(512, 512, 512), row("ew_add", n=5_000_000), row("layernorm", r=500, c=768)]
    group, name = parameter.split(".")
    value = getattr(getattr(device(CPU).parameters, group), name)
    for before, after in zip(simulate(rows), simulate(rows, **{parameter: 2 * value}), strict=True):
        assert after["latency_s"] <= before["latency_s"] * (1 + 1e-9)


def test_networks_that_nothing_was_fitted_on_stay_within_the_bounds():
    rows = validation.comparisons()
    for bound in validation.BOUNDS:
        assert measure(bound.statistic, [row for row in rows if row.group == bound.group]) <= bound.limit


def test_fitting_again_gives_the_device_files_values():
    parameters = device(CPU).parameters
    fitted = calibrate.calibrate()
    assert fitted["core.achieved"] == pytest.approx(parameters.core.achieved, rel=0.02)
    assert fitted["framework.call"] == pytest.approx(parameters.framework.call, rel=0.02)
