import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.engine.analytic import lower_bound_ticks
from codesign.engine.run import run
from codesign.hardware import MappedOp
from codesign.model import load
from codesign.program import ProgramBuilder
from codesign.registry import device
from codesign.simulation import prepare
from codesign.validation import measure
from codesign.work import Move
from hwmodels.mcu import kernels
from hwmodels.mcu.calibrate import calibrate
from hwmodels.mcu.validation import BOUNDS, comparisons
from tests.work_case import COMMON, EVERY_CLASS, convolution, matmul

DEVICE = "stm32l4r5"


def program_of(mcu, work):
    builder = ProgramBuilder(mcu.resources(), mcu.tick_s)
    mcu.map(MappedOp("op", work), builder)
    return builder.build()


def ticks_of(mcu, work):
    return run(program_of(mcu, work)).end


def energy_of(mcu, work):
    program = program_of(mcu, work)
    return float((program.energy_J * program.count[:, None]).sum())


@pytest.mark.parametrize("work", EVERY_CLASS, ids=lambda work: f"{type(work).__name__}-{work.kind}")
def test_every_class_of_work_takes_time_and_energy_and_no_less_than_the_bound(work):
    mcu = device(DEVICE)
    program = program_of(mcu, work)
    assert run(program).end > mcu.parameters.runtime.call_cycles
    assert energy_of(mcu, work) > 0
    assert lower_bound_ticks(program)[0] <= run(program).end


def test_a_free_move_costs_nothing():
    assert program_of(device(DEVICE), Move(kind="Reshape", contiguous_bytes=64, free=True, **COMMON)).count.size == 0


def test_matrix_loop_takes_the_cycles_of_its_instructions():
    """Four runs of loads (2) and two that follow (1), nine short instructions, eight multiplies, a branch (3)."""
    parameters = device(DEVICE).parameters
    assert kernels.loop_cycles(parameters, kernels.MATRIX_INT8, False, False) == 4 * 2 + 2 * 1 + 9 + 8 + 3
    stalled = kernels.loop_cycles(parameters, kernels.MATRIX_INT8, True, False)
    assert stalled == 30 + 5, "eight bytes of weights are one flash line of five wait states"


def test_a_flash_with_wider_lines_stalls_less():
    narrow, wide = device(DEVICE), device(DEVICE, **{"flash.line_bytes": 16})
    assert ticks_of(wide, matmul(64, 64, 64)) < ticks_of(narrow, matmul(64, 64, 64))


def test_without_packed_multiplies_products_take_longer():
    plain = device(DEVICE, **{"core.packed_multiply": False})
    assert ticks_of(plain, matmul(64, 64, 64)) > ticks_of(device(DEVICE), matmul(64, 64, 64))


def test_float_in_software_is_slower_than_with_a_unit():
    soft = device(DEVICE, **{"core.float_unit": False})
    work = matmul(16, 16, 64, dtype="float32")
    assert ticks_of(soft, work) > 3 * ticks_of(device(DEVICE), work)


SIZES = st.integers(1, 300)


@settings(max_examples=50, deadline=None)
@given(m=SIZES, n=SIZES, k=SIZES, grown=st.sampled_from("mnk"))
def test_more_work_is_never_cheaper(m, n, k, grown):
    mcu, small = device(DEVICE), {"m": m, "n": n, "k": k}
    large = small | {grown: small[grown] + 1}
    assert ticks_of(mcu, matmul(**large)) >= ticks_of(mcu, matmul(**small))
    assert energy_of(mcu, matmul(**large)) >= energy_of(mcu, matmul(**small))


@settings(max_examples=50, deadline=None)
@given(size=st.integers(2, 64), channels=st.integers(1, 64), outputs=st.integers(1, 64))
def test_a_larger_image_takes_longer(size, channels, outputs):
    mcu = device(DEVICE)
    small, large = convolution(size, channels, outputs), convolution(size + 1, channels, outputs)
    assert ticks_of(mcu, large) > ticks_of(mcu, small)


def test_predictions_keep_their_bounds():
    rows = list(comparisons())
    for bound in BOUNDS:
        assert measure(bound.statistic, (row for row in rows if row.group == bound.group)) <= bound.limit, bound


def test_device_file_holds_what_calibration_gives():
    assert calibrate()["energy.active_current"] == pytest.approx(
        device(DEVICE).parameters.energy.active_current, rel=0.01
    )


def plan_of(network, dtype="int8", **overrides):
    prepared = prepare(load(f"zoo:{network}"), dtype)
    return device(DEVICE, **overrides).plan(prepared.graph, prepared.works)


def test_a_tiny_network_fits_and_the_reason_names_both_memories():
    plan = plan_of("mlperf_tiny_ic")
    assert plan.fit.fits
    assert plan.peak_activation_bytes == 3 * 32 * 32 * 16
    assert "SRAM" in plan.fit.reason
    assert "flash" in plan.fit.reason


def test_too_little_sram_is_a_gap_with_levers_and_closing_it_fits():
    needed = 3 * 32 * 32 * 16
    small = plan_of("mlperf_tiny_ic", **{"sram.capacity": needed})
    assert not small.fit.fits
    assert 0 < small.fit.gap_bytes < needed
    assert any("sram.capacity" in lever for lever in small.fit.levers)
    assert plan_of("mlperf_tiny_ic", **{"sram.capacity": needed + small.fit.gap_bytes}).fit.fits
    assert not plan_of("mlperf_tiny_ic", **{"sram.capacity": needed + small.fit.gap_bytes - 1}).fit.fits


def test_float_weights_need_four_times_the_flash_and_int8_is_a_lever():
    narrow = plan_of("resnet50").fit
    wide = plan_of("resnet50", "float32").fit
    assert wide.gap_bytes > 3 * narrow.gap_bytes
    assert any("int8" in lever for lever in wide.levers)
    assert not any("int8" in lever for lever in narrow.levers)
