import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.device import MappedOp
from codesign.engine.analytic import lower_bound_ticks
from codesign.engine.run import run
from codesign.program import ProgramBuilder
from codesign.registry import device
from codesign.validation import measure
from codesign.work import Move
from hwmodels.npu.calibrate import calibrate
from hwmodels.npu.validation import BOUNDS, comparisons
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


def test_predictions_keep_their_bounds_and_systolic_cycles_are_exact():
    rows = list(comparisons())
    for bound in BOUNDS:
        assert measure(bound.statistic, (row for row in rows if row.group == bound.group)) <= bound.limit, bound
    assert all(row.predicted == row.reference for row in rows if row.group == "npu systolic")


def test_device_file_holds_what_calibration_gives():
    control = device(DEVICE).parameters.control
    assert calibrate() == {"control.command_cycles": control.command_cycles, "control.tile_cycles": control.tile_cycles}


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("dram.bandwidth", 24e9), ("sram.capacity", 786432), ("sram.bandwidth", 32e9), ("vector.lanes", 8)],
)
@settings(max_examples=20, deadline=None)
@given(m=SIZES, n=SIZES, k=SIZES)
def test_more_of_a_memory_or_unit_never_hurts(parameter, value, m, n, k):
    richer = device(DEVICE, **{parameter: value})
    assert ticks_of(richer, matmul(m, n, k)) <= ticks_of(device(DEVICE), matmul(m, n, k))


@pytest.mark.parametrize("parameter", ["array.rows", "array.columns", "sram.capacity", "vector.lanes"])
def test_a_larger_part_takes_more_area(parameter):
    group, name = parameter.split(".")
    small = device(DEVICE)
    large = device(DEVICE, **{parameter: 2 * getattr(getattr(small.parameters, group), name)})
    assert large.area_mm2 > small.area_mm2
    assert large.static_power_W > small.static_power_W


def test_a_larger_array_is_faster_on_work_that_fills_it():
    work = matmul(256, 256, 256)
    times = [ticks_of(device(DEVICE, **{"array.columns": columns}), work) for columns in (4, 8, 16)]
    assert times[0] > times[1] > times[2]


def test_a_larger_sram_spends_more_energy_a_byte():
    work = matmul(64, 64, 64)
    assert energy_of(device(DEVICE, **{"sram.capacity": 1 << 22}), work) > energy_of(device(DEVICE), work)


def test_work_the_array_cannot_do_goes_to_the_host():
    npu = device(DEVICE)
    program = program_of(npu, matmul(8, 8, 8, dtype="float32"))
    hosts = [npu.resources()[position].name for position in program.resource]
    assert "host" in hosts
    assert "mac_array" not in hosts
