import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.engine.analytic import lower_bound_ticks
from codesign.engine.run import run
from codesign.hardware import MappedOp
from codesign.model import load
from codesign.program import ProgramBuilder
from codesign.registry import device
from codesign.simulation import prepare, run_ops
from codesign.validation import measure
from codesign.work import Move
from hwmodels.mlperf_tiny import networks
from hwmodels.npu import array_walk
from hwmodels.npu.array import Product, Tiles, group_cycles
from hwmodels.npu.calibrate import calibrate
from hwmodels.npu.parameters import Array
from hwmodels.npu.validation import BOUNDS, comparisons, mapped
from tests.work_case import COMMON, EVERY_CLASS, convolution, matmul

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


@settings(max_examples=25, deadline=None, derandomize=True)
@given(m=SIZES, n=SIZES, k=SIZES)
def test_the_analytic_bound_is_below_the_event_time(m, n, k):
    program = program_of(device(DEVICE), matmul(m, n, k))
    assert lower_bound_ticks(program)[0] <= run(program).end


@settings(max_examples=25, deadline=None, derandomize=True)
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
    [("dram.bandwidth", 24e9), ("sram.capacity", 786432), ("sram.bandwidth", 32e9)],
)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(m=SIZES, n=SIZES, k=SIZES)
def test_more_memory_or_bandwidth_never_hurts(parameter, value, m, n, k):
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


DATAFLOWS = ["output_stationary", "weight_stationary", "input_stationary"]
EXTENTS = st.integers(1, 12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(dataflow=st.sampled_from(DATAFLOWS), rows=EXTENTS, columns=EXTENTS, m=EXTENTS, n=EXTENTS, k=EXTENTS)
def test_systolic_closed_forms_equal_the_walk_of_the_array(dataflow, rows, columns, m, n, k):
    array = Array(rows=rows, columns=columns, dataflow=dataflow)
    product = Product(1, 1, m, n, 1, 1, 1, 1, k, False, 8)
    assert group_cycles(array, product, Tiles(1, m, n)) == array_walk.tile_cycles(array, product, 1, m, n)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 16), width=st.integers(1, 16), channels=st.integers(1, 32), kernel=st.sampled_from([1, 3, 5]),
    depth=st.integers(1, 70), depthwise=st.booleans(),
)  # fmt: skip
def test_dot_product_closed_form_equals_the_walk_of_decoder_and_array(
    height, width, channels, kernel, depth, depthwise
):  # fmt: skip
    array = device(DEVICE).parameters.array
    if kernel == 1:
        height, width = 1, height * width  # positions of a one-tap product lie in one row
    product = Product(
        1, height, width, channels, kernel, kernel, 1, 1, 1 if depthwise else depth, depthwise, 8
    )  # fmt: skip
    walked = array_walk.tile_cycles(array, product, height, width, channels)
    assert group_cycles(array, product, Tiles(height, width, channels)) == walked


@pytest.mark.parametrize("network", ["ic", "kws", "vww", "ad"])
def test_event_time_of_a_network_is_within_five_percent_of_the_cycle_walk(network):
    npu, ops = device(DEVICE), mapped(networks()[network])
    assert run_ops(npu, ops).end_s == pytest.approx(run_ops(npu, ops, "cycle").end_s, rel=0.05)


@pytest.mark.parametrize("dataflow", ["dot_product", *DATAFLOWS])
@pytest.mark.parametrize("shape", [(64, 64, 64), (512, 64, 128), (128, 512, 64), (256, 256, 512)])
def test_event_time_of_even_tiles_is_within_five_percent_of_the_cycle_walk(dataflow, shape):
    npu = device(DEVICE, **{"array.dataflow": dataflow, "array.rows": 16, "array.columns": 16})
    work = matmul(*shape)
    assert ticks_of(npu, work) == pytest.approx(npu.cycle_ticks(MappedOp("op", work)), rel=0.05)


def test_an_image_with_few_channels_takes_a_beat_a_position():
    thin, thick = convolution(32, 3, 16), convolution(32, 16, 16)
    npu = device(DEVICE, **{"dram.bandwidth": 1e9})
    assert ticks_of(npu, thin) > ticks_of(npu, thick), "a burst of 64 bytes brings one pixel of three, four of sixteen"


def test_compressed_weights_shorten_what_waits_for_them():
    work = matmul(1, 4096, 1024)
    half = device(DEVICE, **{"weights.compression_ratio": 0.5, "dram.bandwidth": 1e9})
    assert ticks_of(half, work) < 0.7 * ticks_of(device(DEVICE, **{"dram.bandwidth": 1e9}), work)


def test_what_stays_on_chip_is_not_fetched():
    npu, work = device(DEVICE), convolution(32, 32, 32)
    spilled = program_of(npu, work)
    kept = program_of(npu, work, resident=(True, False), keep_output=True)
    dram = spilled.components.index("dram")
    assert kept.energy_J[:, dram].sum() < spilled.energy_J[:, dram].sum()
    assert "store" not in kept.labels


def plan_of(network, dtype="int8", **overrides):
    prepared = prepare(load(f"zoo:{network}"), dtype)
    return device(DEVICE, **overrides).plan(prepared.graph, prepared.works)


def test_feature_maps_of_a_small_network_stay_on_chip_but_its_input_and_output():
    plan = plan_of("mlperf_tiny_kws")
    assert [op.keep_output for op in plan.ops] == [True] * (len(plan.ops) - 1) + [False]
    assert not plan.ops[0].resident[0]
    assert all(op.resident[0] for op in plan.ops[1:] if op.work.read_bytes)


def test_with_little_sram_feature_maps_are_spilled():
    spilled = plan_of("mlperf_tiny_ic", **{"sram.capacity": 16384})
    assert sum(op.keep_output for op in spilled.ops) < sum(op.keep_output for op in plan_of("mlperf_tiny_ic").ops)


def test_what_runs_on_the_host_is_told_with_its_reason():
    assert plan_of("mlperf_tiny_kws").warnings == ()
    (warning,) = [warning for warning in plan_of("vit_tiny").warnings if "Attention" in warning]
    assert "constant weights" in warning
    assert any("float32" in warning for warning in plan_of("mlperf_tiny_ic", "float32").warnings)


def test_a_model_larger_than_the_memory_does_not_fit():
    fit = plan_of("resnet50", **{"dram.capacity": 1 << 20}).fit
    assert not fit.fits
    assert fit.gap_bytes > 20_000_000
