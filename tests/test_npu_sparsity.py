"""An NPU that passes over zeros: never slower for more of them, as fast as before without, and as its walk says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import codesign
from codesign.engine.run import run
from codesign.errors import BadParameter
from codesign.hardware import MappedOp
from codesign.model import load
from codesign.program import ProgramBuilder
from codesign.registry import device
from codesign.study.ladder import CYCLE_TOLERANCE
from hwmodels.npu.array import Product, Tiles, group_cycles
from hwmodels.npu.parameters import Array
from tests.work_case import convolution, matmul

DENSITY = st.floats(0, 1)
SKIPS = st.sampled_from(("weights", "inputs", "both"))
FAST = {
    "array.weight_decoder_rate": 1e9, "dram.bandwidth": 1e12, "sram.bandwidth": 1e12, "vector.lanes": 1e3,
    "control.command_cycles": 0, "control.tile_cycles": 0,
}  # fmt: skip
"""Everything but the array out of the way."""


def npu(skips="none", **settings_):
    return device("ethos-u65-256", **{"array.skips_zeros": skips, **settings_})


def with_zeros(work, inputs=1.0, weights=1.0, patterns=()):
    reads = work.reads[0], replace(work.reads[1], density=weights, patterns=patterns), *work.reads[2:]
    return replace(work, reads=(replace(reads[0], density=inputs), *reads[1:]))


def timeline_of(npu, work):
    builder = ProgramBuilder(npu.resources(), npu.tick_s)
    npu.map(MappedOp("op", work), builder)
    return run(builder.build())


def energy_of(npu, work):
    program = timeline_of(npu, work).program
    return float((program.energy_J * program.count[:, None]).sum())


@settings(max_examples=80, deadline=None, derandomize=True)
@given(SKIPS, st.tuples(DENSITY, DENSITY), st.tuples(DENSITY, DENSITY), st.booleans(), st.integers(1, 8))
def test_the_array_takes_no_longer_for_fewer_values_that_are_not_zero(skips, one, other, depthwise, steps) -> None:
    array = Array(rows=8, columns=8, block_height=2, reduction_steps=steps, skips_zeros=skips, weight_decoder_rate=16)
    product = Product(1, 12, 12, 40, 3, 3, 1, 1, 24, depthwise, 8)
    tiles = Tiles(np.array([12, 6]), np.array([12, 4]), np.array([40, 16]))

    def cycles(pick):
        inputs, weights = pick(one[0], other[0]), pick(one[1], other[1])
        return group_cycles(array, replace(product, input_density=inputs, weight_density=weights), tiles)

    fewer, more = cycles(min), cycles(max)
    assert (fewer <= more + 1e-9).all()
    dense = group_cycles(array.model_copy(update={"skips_zeros": "none"}), product, tiles)
    assert (more <= dense + 1e-9).all()
    assert np.array_equal(group_cycles(array, product, tiles), dense)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(SKIPS, st.tuples(DENSITY, DENSITY), st.tuples(DENSITY, DENSITY), st.sampled_from((3, 40, 200)), st.booleans())
def test_an_operation_takes_no_longer_for_fewer_values_that_are_not_zero(skips, one, other, size, spatial) -> None:
    chosen = npu(skips, **{"weights.zero_mask": True})
    work = convolution(14, size, 2 * size) if spatial else matmul(size, 2 * size, 3 * size)
    fewer, more = (with_zeros(work, pick(one[0], other[0]), pick(one[1], other[1])) for pick in (min, max))
    assert timeline_of(chosen, fewer).end <= timeline_of(chosen, more).end
    assert timeline_of(chosen, more).end <= timeline_of(chosen, work).end
    assert timeline_of(chosen, work).end == timeline_of(npu(), work).end


@pytest.mark.parametrize("skips", ["weights", "inputs", "both"])
@pytest.mark.parametrize("densities", [(1, 1), (1, 0.5), (0.5, 1), (0.4, 0.6), (0.2, 0.1), (0, 0)])
def test_mean_cycles_are_those_of_a_walk_over_drawn_zeros(skips, densities) -> None:
    chosen, work = npu(skips, **FAST), with_zeros(matmul(512, 128, 512), *densities)
    walked = chosen.cycle_ticks(MappedOp("op", work))
    assert timeline_of(chosen, work).end == pytest.approx(walked, rel=CYCLE_TOLERANCE)


def test_a_pattern_halves_the_arrays_cycles_where_scattered_zeros_leave_lanes_waiting() -> None:
    chosen, work = npu("weights", **FAST), matmul(1024, 256, 512)
    dense = timeline_of(chosen, work).end
    scattered = timeline_of(chosen, with_zeros(work, weights=0.5)).end
    patterned = timeline_of(chosen, with_zeros(work, weights=0.5, patterns=((2, 4), (4, 8)))).end
    assert patterned == pytest.approx(dense / 2, rel=0.02)
    assert patterned < scattered < dense
    walked = chosen.cycle_ticks(MappedOp("op", with_zeros(work, weights=0.5, patterns=((2, 4),))))
    assert patterned == pytest.approx(walked, rel=CYCLE_TOLERANCE)


def test_a_pattern_in_longer_groups_than_a_lane_is_wide_bounds_nothing() -> None:
    chosen, work = npu("weights", **FAST), matmul(256, 64, 256)
    scattered = timeline_of(chosen, with_zeros(work, weights=0.5)).end
    assert timeline_of(chosen, with_zeros(work, weights=0.5, patterns=((8, 16),))).end == scattered


def test_a_multiplier_held_still_saves_energy_and_no_time() -> None:
    work = with_zeros(matmul(256, 256, 256), inputs=0.5, weights=0.5)
    plain, gated = npu(), npu(**{"array.gates_zeros": True})
    assert timeline_of(gated, work).end == timeline_of(plain, work).end
    saved = energy_of(plain, work) - energy_of(gated, work)
    assert saved == pytest.approx(0.75 * work.macs * plain.parameters.energy.mac)


def test_masked_weights_come_over_the_port_as_a_bit_each_and_those_that_are_not_zero() -> None:
    work, masked = matmul(8, 1024, 1024), npu(**{"weights.zero_mask": True, "weights.compression_ratio": 1.0})
    plain = npu(**{"weights.compression_ratio": 1.0})

    def loaded(chosen, work):
        program = timeline_of(chosen, work).program
        tasks = [index for index, label in enumerate(program.labels) if label == "load weights"]
        return sum(float(program.amount[index] * program.count[index]) for index in tasks)

    assert loaded(masked, with_zeros(work, weights=0.25)) == pytest.approx(
        loaded(plain, work) * (0.25 + 1 / 8), rel=1e-4
    )
    assert loaded(masked, with_zeros(work, weights=0.95)) == loaded(plain, work)


def test_only_lanes_can_pass_over_zeros() -> None:
    with pytest.raises(BadParameter, match="needs dataflow = dot_product"):
        npu("weights", **{"array.dataflow": "weight_stationary"})


def test_an_array_that_passes_over_zeros_says_when_nobody_has_counted_them() -> None:
    graph = load("zoo:mlperf_tiny_kws")
    measured = codesign.measure(graph, codesign.random_inputs(graph, 0), seed_weights=0)

    def warned(graph, chosen):
        return any("none are known" in warning for warning in codesign.simulate(graph, chosen).document.warnings)

    assert warned(graph, npu("both"))
    assert not warned(measured, npu("both"))
    assert not warned(graph, npu())


def test_measured_zeros_of_activations_shorten_a_network_on_an_array_that_passes_over_them() -> None:
    graph = load("zoo:mlperf_tiny_ic")
    measured = codesign.measure(graph, codesign.random_inputs(graph, 0), seed_weights=0)
    plain, skipping = npu(), npu("inputs")
    assert codesign.simulate(measured, plain).latency_s == codesign.simulate(graph, plain).latency_s
    assert codesign.simulate(graph, skipping).latency_s == codesign.simulate(graph, plain).latency_s
    after = {op.name: op.latency_s for op in codesign.simulate(measured, skipping).document.ops}
    before = {op.name: op.latency_s for op in codesign.simulate(measured, plain).document.ops}
    assert all(after[name] <= before[name] * (1 + 1e-9) for name in before)
    assert sum(after.values()) < 0.95 * sum(before.values())
