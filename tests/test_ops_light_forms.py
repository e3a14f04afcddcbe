"""What the standard's cases leave out: older forms of operators, any geometry of pools, exact costs, and messages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import special

from codesign.errors import BadModel, UnboundDimension
from codesign.graph import Op
from codesign.ops.activations import erf
from codesign.ops.base import Value, find
from codesign.ops.sorting import best, ordered
from codesign.work import Gather, Map, Move, Reduce, Scan, Sort, Transform, Work
from tests.onnx_case import NodeCase, normal


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


OLDER_FORMS = {
    "clip_6": NodeCase("Clip", [normal(3, 4)], opset=10, min=-0.5, max=0.25),
    "clip_of_minimum_only": NodeCase("Clip", [normal(3, 4), np.array(0.1, np.float32)], opset=13),
    "slice_1": NodeCase("Slice", [normal(4, 5, 6)], opset=9, starts=[1, -3], ends=[3, 1000], axes=[0, 2]),
    "slice_backwards": NodeCase(
        "Slice", [normal(4, 5), integers(-1), integers(-(2**31)), integers(1), integers(-2)], opset=13
    ),
    "pad_2": NodeCase("Pad", [normal(3, 4)], opset=10, pads=[1, 0, 2, 3], value=1.5),
    "pad_cuts": NodeCase("Pad", [normal(5, 6), integers(-1, 2, 1, -2)], opset=13),
    "pad_wraps": NodeCase("Pad", [normal(5, 6), integers(1, 2, 1, 2)], opset=19, mode="wrap"),
    "squeeze_1": NodeCase("Squeeze", [normal(1, 3, 1)], opset=11, axes=[-1]),
    "unsqueeze_1": NodeCase("Unsqueeze", [normal(3, 4)], opset=11, axes=[0, 3]),
    "split_2": NodeCase("Split", [normal(7, 4)], outputs=2, opset=11, split=[2, 5]),
    "split_in_equal_parts": NodeCase("Split", [normal(6, 4)], outputs=3, opset=13),
    "split_18_with_a_rest": NodeCase("Split", [normal(7, 4)], outputs=3, opset=18, num_outputs=3),
    "reduce_sum_11": NodeCase("ReduceSum", [normal(3, 4, 5)], opset=11, axes=[0, -1], keepdims=0),
    "reduce_mean_13": NodeCase("ReduceMean", [normal(3, 4, 5)], opset=13, axes=[1]),
    "reduce_mean_18": NodeCase("ReduceMean", [normal(3, 4, 5), integers(1, 2)], opset=18, keepdims=0),
    "reduce_all": NodeCase("ReduceL2", [normal(3, 4, 5)], opset=13, keepdims=0),
    "top_k_1": NodeCase("TopK", [normal(3, 9)], outputs=2, opset=9, k=4),
    "top_k_smallest": NodeCase("TopK", [normal(9, 3), integers(4)], outputs=2, opset=11, axis=0, largest=0),
    "top_k_of_equals": NodeCase("TopK", [np.ones((2, 6), np.float32), integers(3)], outputs=2, opset=11),
    "dropout_7": NodeCase("Dropout", [normal(3, 4)], opset=7, ratio=0.3),
    "dropout_12_with_mask": NodeCase("Dropout", [normal(3, 4)], outputs=2, opset=12),
    "upsample_7": NodeCase("Upsample", [normal(1, 2, 3, 4)], opset=8, scales=[1.0, 1.0, 2.0, 3.0]),
    "upsample_9_linear": NodeCase(
        "Upsample", [normal(1, 2, 3, 4), np.array([1, 1, 2, 2], np.float32)], opset=9, mode="linear"
    ),
    "resize_10_up": NodeCase("Resize", [normal(1, 2, 3, 4), np.array([1, 1, 2, 2], np.float32)], opset=10),
    "resize_10_down": NodeCase("Resize", [normal(1, 2, 7, 9), np.array([1, 1, 0.6, 0.6], np.float32)], opset=10),
    "max_roi_pool": NodeCase(
        "MaxRoiPool",
        [normal(2, 3, 9, 11), np.array([[0, 1, 1, 7, 6], [1, 0, 3, 10, 8]], np.float32)],
        pooled_shape=[2, 3],
        spatial_scale=0.9,
    ),
    "roi_align_10": NodeCase(
        "RoiAlign",
        [normal(2, 3, 9, 11), np.array([[1, 1, 7, 6], [0, 3, 10, 8]], np.float32), integers(0, 1)],
        opset=10,
        output_height=2,
        output_width=3,
        sampling_ratio=2,
    ),
    "global_lp_pool": NodeCase("GlobalLpPool", [normal(2, 3, 4, 5)], p=3),
    "scatter_9": NodeCase("Scatter", [normal(3, 4), integers(0, 2)[None], normal(1, 2)], opset=10, axis=0),
    "gather_of_negative_indices": NodeCase("Gather", [normal(5, 4), integers(-1, 0, -5)], axis=0),
    "power_of_half": NodeCase("Pow", [np.abs(normal(3, 4)), np.array(0.5, np.float32)]),
    "cube": NodeCase("Pow", [normal(3, 4), np.array(3, np.int64)]),
    "bias_gelu": NodeCase("BiasGelu", [normal(3, 4), normal(4)], domain="com.microsoft"),
    "fast_gelu": NodeCase("FastGelu", [normal(3, 4), normal(4)], domain="com.microsoft"),
    "quick_gelu": NodeCase("QuickGelu", [normal(3, 4)], domain="com.microsoft", alpha=1.5),
}


@pytest.mark.parametrize("name", OLDER_FORMS)
def test_form_agrees_with_onnxruntime(name):
    OLDER_FORMS[name].check()


@st.composite
def pools(draw):
    rank = draw(st.integers(1, 3))

    def per_axis(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    kind = draw(st.sampled_from(["MaxPool", "AveragePool", "LpPool"]))
    kernel, dilations = per_axis(1, 4), per_axis(1, 2)
    extents = [
        (size - 1) * step + 1 + extra for size, step, extra in zip(kernel, dilations, per_axis(0, 6), strict=True)
    ]
    attributes = {"kernel_shape": kernel, "strides": per_axis(1, 3), "dilations": dilations}
    mode = draw(st.sampled_from(["pads", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if mode == "pads":
        attributes["pads"] = [draw(st.integers(0, size - 1)) for size in kernel * 2]
        attributes["ceil_mode"] = draw(st.integers(0, 1)) if kind != "LpPool" else 0
    else:
        attributes["auto_pad"] = mode
        attributes["dilations"] = [1] * rank
        # With a stride longer than the kernel onnxruntime pads by a negative length, the standard by none.
        attributes["strides"] = [min(step, size) for step, size in zip(attributes["strides"], kernel, strict=True)]
    if kind == "AveragePool":
        attributes["count_include_pad"] = draw(st.integers(0, 1))
    outputs = draw(st.integers(1, 2)) if kind == "MaxPool" else 1
    if outputs == 2:
        attributes["storage_order"] = draw(st.integers(0, 1))
    return NodeCase(kind, [normal(2, 3, *extents)], outputs=outputs, opset=19, **attributes)


@given(pools())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_pool_of_any_geometry(case):
    case.check()


@given(st.integers(1, 9), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_selection_of_the_best_equals_the_sort(kept, largest, seed):
    """Of few different values in long rows, so that equal ones stand on both sides of the threshold."""
    keys = np.random.default_rng(seed).integers(0, 6, (3, 2, 50)).astype(np.float32)
    np.testing.assert_array_equal(best(keys, kept, largest), ordered(keys, largest)[..., :kept])


def test_error_function_in_float32_is_exact_to_its_formula():
    """The formula's 1.5e-7, and two roundings near one."""
    values = np.linspace(-6, 6, 200_001, dtype=np.float32)
    exact = special.erf(values.astype(np.float64))
    error = np.abs(erf(values) - exact)
    assert error.max() < 1.5e-7 + 2 * 2.0**-24
    small = np.abs(values) < 0.5
    assert np.all(error[small] <= 4 * 2.0**-24 * np.abs(exact[small]))
    assert np.isnan(erf(np.array([np.nan], np.float32))).all()
    np.testing.assert_array_equal(erf(np.array([np.inf, -np.inf, 0], np.float32)), [1, -1, 0])


def work_of(kind: str, inputs: list[Value | None], outputs: int = 1, opset: int = 20, **attributes: object) -> Work:
    names = tuple("" if value is None else f"x{index}" for index, value in enumerate(inputs))
    op = Op("node", kind, names, tuple(f"y{index}" for index in range(outputs)), attributes, opset=opset)
    return find(op).work(op, inputs, [Value(shape, dtype) for shape, dtype in find(op).infer(op, inputs)])


def constant(*values: int) -> Value:
    return Value((len(values),), "int64", constant=integers(*values))


def test_embedding_lookup_reads_the_rows_it_looks_up():
    table = Value((50_000, 768), "float16", "weight")
    work = work_of("Gather", [table, Value((2, 128), "int64")])
    assert isinstance(work, Gather)
    assert (work.lookups, work.run_bytes) == (256, 1536)
    assert work.weight_bytes == work.write_bytes == 256 * 1536
    assert work.read_bytes == work.weight_bytes + 256 * 8


def test_lookup_in_a_small_table_reads_it_once():
    work = work_of("Gather", [Value((2, 64), "float32", "weight"), Value((1000,), "int64")])
    assert work.weight_bytes == 2 * 64 * 4


def test_transposition_moves_runs_of_the_axes_that_stay_last():
    heads = work_of("Transpose", [Value((8, 128, 12, 64), "float16")], perm=[0, 2, 1, 3])
    assert isinstance(heads, Move)
    assert (heads.contiguous_bytes, heads.bytes) == (128, 2 * 8 * 128 * 12 * 64 * 2)
    keys = work_of("Transpose", [Value((8, 128, 12, 64), "float16")], perm=[0, 2, 3, 1])
    assert isinstance(keys, Move)
    assert keys.contiguous_bytes == 2
    moved_one = work_of("Transpose", [Value((1, 128, 1, 64), "float16")], perm=[0, 2, 1, 3])
    assert isinstance(moved_one, Move)
    assert moved_one.free


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes", "run"),
    [
        ("Slice", [Value((4, 6, 8), "float32"), constant(1), constant(3), constant(1)], {}, 2 * 8 * 4),
        ("Slice", [Value((4, 6, 8), "float32"), constant(0), constant(8), constant(2), constant(2)], {}, 4),
        ("Concat", [Value((4, 6, 8), "float32"), Value((4, 2, 8), "float32")], {"axis": 1}, 2 * 8 * 4),
        ("Split", [Value((4, 6, 8), "float32"), constant(4, 2)], {"axis": 1}, 2 * 8 * 4),
        ("Pad", [Value((4, 6, 8), "float32"), constant(0, 1, 0, 0, 1, 0)], {}, 6 * 8 * 4),
        ("Expand", [Value((4, 1, 8), "float32"), constant(4, 6, 8)], {}, 8 * 4),
        ("Tile", [Value((4, 6), "float32"), constant(1, 3)], {}, 6 * 4),
    ],
)
def test_move_keeps_runs_together(kind, inputs, attributes, run):
    work = work_of(kind, inputs, outputs=2 if kind == "Split" else 1, **attributes)
    assert isinstance(work, Move)
    assert work.contiguous_bytes == run
    assert not work.free


@pytest.mark.parametrize("kind", ["Shape", "Size", "Identity", "Flatten"])
def test_views_touch_nothing(kind):
    work = work_of(kind, [Value((4, 6, 8), "float32")])
    assert isinstance(work, Move)
    assert work.free
    assert work.bytes == 0


def test_costs_of_the_other_classes():
    image, rows = Value((2, 16, 32, 32), "float16"), Value((64, 1000), "float32")
    pool = work_of("MaxPool", [image], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    assert isinstance(pool, Reduce)
    assert (pool.rows, pool.columns, pool.flops) == (2 * 16 * 256, 9, 2 * 16 * 256 * 9)
    mean = work_of("ReduceMean", [image], opset=13, axes=[2, 3])
    assert isinstance(mean, Reduce)
    assert (mean.rows, mean.columns, mean.write_bytes) == (32, 1024, 64)
    best = work_of("TopK", [rows, constant(5)], outputs=2)
    assert isinstance(best, Sort)
    assert (best.rows, best.columns, best.keep, best.write_bytes) == (64, 1000, 5, 64 * 5 * 12)
    running = work_of("CumSum", [rows, Value((), "int64", constant=np.array(1))])
    assert isinstance(running, Scan)
    assert (running.steps, running.lanes, running.flops) == (1000, 64, 64_000)
    spectrum = work_of("DFT", [Value((4, 512, 1), "float32")], onesided=1, opset=17)
    assert isinstance(spectrum, Transform)
    assert (spectrum.rows, spectrum.length, spectrum.write_bytes) == (4, 512, 4 * 257 * 2 * 4)
    residual = work_of("Add", [image, image])
    assert isinstance(residual, Map)
    assert (residual.flops, residual.bytes) == (image.elements, 3 * image.elements * 2)
    per_channel = work_of("Mul", [image, Value((16, 1, 1), "float16")])
    assert per_channel.read_bytes == (image.elements + 16) * 2


def test_cache_update_moves_the_new_entries_only():
    cache, update = Value((2, 8, 4096, 64), "float16"), Value((2, 8, 1, 64), "float16")
    work = work_of("TensorScatter", [cache, update, Value((2,), "int64")], opset=24)
    assert work.bytes == 2 * update.operand().bytes + 2 * 8


def test_shape_that_the_model_computes_is_named():
    with pytest.raises(UnboundDimension, match=r"node 'node' \(Reshape\).*'shape'.*expected a constant"):
        work_of("Reshape", [Value((4, 6), "float32"), Value((2,), "int64")])


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes", "message"),
    [
        ("Reshape", [Value((4, 6), "float32"), constant(5, -1)], {}, "24 elements"),
        ("Concat", [Value((4, 6), "float32"), Value((3, 5), "float32")], {"axis": 0}, "differ in more than axis 0"),
        ("Concat", [Value((4, 6), "float32")], {}, "has no 'axis'"),
        ("Add", [Value((4, 6), "float32"), Value((5,), "float32")], {}, "cannot be broadcast"),
        ("Add", [Value((4, 6), "float32")], {}, "has 1 inputs, expected 2"),
        ("Transpose", [Value((4, 6), "float32")], {"perm": [0, 0]}, "expected an order of 2 axes"),
        ("Squeeze", [Value((4, 6), "float32"), constant(0)], {}, "not all of extent 1"),
        ("Split", [Value((7,), "float32"), constant(3, 3)], {}, "do not add up to the 7"),
        ("MaxPool", [Value((1, 1, 2, 2), "float32")], {"kernel_shape": [3, 3]}, "larger than the padded input"),
        ("TopK", [Value((4,), "float32"), constant(5)], {}, "'k' is"),
        ("Gather", [Value((4,), "float32"), Value((2,), "int64")], {"axis": 1}, "axis 1 is outside"),
    ],
)
def test_message_says_what_is_wrong(kind, inputs, attributes, message):
    with pytest.raises(BadModel, match=message):
        work_of(kind, inputs, **attributes)


def test_index_outside_its_axis_is_refused():
    case = NodeCase("Gather", [normal(5, 4), integers(5)])
    with pytest.raises(BadModel, match="outside the axis of 5"):
        case.computed()


@pytest.mark.parametrize(
    ("kind", "attributes", "mean", "deviation"),
    [
        ("RandomNormal", {"shape": [100_000], "mean": 2.0, "scale": 3.0, "seed": 7.0}, 2.0, 3.0),
        ("RandomUniform", {"shape": [100_000], "low": -1.0, "high": 3.0, "seed": 7.0}, 1.0, 4 / 12**0.5),
    ],
)
def test_random_numbers_repeat_and_have_their_moments(kind, attributes, mean, deviation):
    """Within five standard errors of the mean and of the deviation."""
    case, again = NodeCase(kind, [], **attributes), NodeCase(kind, [], **attributes)
    (numbers,) = case.computed()
    np.testing.assert_array_equal(numbers, again.computed()[0])
    error = 5 * deviation / 100_000**0.5
    assert abs(numbers.mean() - mean) < error
    assert abs(numbers.std() - deviation) < error
    assert case.work().flops > 100_000


def test_multinomial_draws_by_the_shares():
    shares = np.array([0.1, 0.2, 0.7])
    case = NodeCase("Multinomial", [np.log(shares)[None].astype(np.float32)], sample_size=100_000, seed=3.0)
    counts = np.bincount(case.computed()[0].ravel(), minlength=3) / 100_000
    assert np.all(np.abs(counts - shares) < 5 * np.sqrt(shares * (1 - shares) / 100_000))
