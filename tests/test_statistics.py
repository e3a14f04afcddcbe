"""Statistics: what is measured of each tensor against numpy, kept with the graph, and seen by Work."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

import codesign
import workloads
from codesign.errors import BadParameter
from codesign.executor.kernels.distribution import fullest_groups
from codesign.frontend import from_proto
from codesign.graph import Graph
from codesign.lower import lower
from codesign.report.statistics import picture, tightest
from codesign.statistics import Statistics, TensorStatistics, attach, read_statistics
from codesign.transforms import optimise
from codesign.work import Contraction, Gather
from tests.commands import refused, run, small_model, write_small_model
from workloads.blocks.routing import mixture_of_experts
from workloads.builder import Builder

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def graph_of(nodes, inputs, outputs, weights=None) -> Graph:
    """A graph of `nodes`; inputs and outputs are (name, type, shape), weights arrays by name."""
    described = [[helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs)]
    initializers = [numpy_helper.from_array(values, name) for name, values in (weights or {}).items()]
    proto = helper.make_graph(nodes, "g", *described, initializers)
    return from_proto(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source="g")


def identity(dtype: int = FLOAT, shape=("n",)) -> onnx.ModelProto:
    node = helper.make_node("Identity", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, dtype, shape) for name in "xy"]
    proto = helper.make_graph([node], "identity", values[:1], values[1:])
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def statistics_of(*samples) -> TensorStatistics:
    """The statistics of input x over `samples` of one shape and type."""
    dtype = helper.np_dtype_to_tensor_dtype(samples[0].dtype)
    graph = from_proto(identity(dtype, samples[0].shape), source="identity")
    return measured(graph, [{"x": sample} for sample in samples]).tensors["x"]


def measured(graph: Graph, inputs, **options) -> Statistics:
    found = codesign.measure(graph, inputs, **options).statistics
    assert found is not None
    return found


VALUES = arrays(np.float32, (37,), elements=st.floats(-1e6, 1e6, width=32) | st.just(0.0))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(VALUES, min_size=1, max_size=3))
def test_moments_are_those_of_all_samples(samples) -> None:
    found, everything = statistics_of(*samples), np.concatenate(samples).astype(np.float64)
    assert found.elements == everything.size
    assert found.density == pytest.approx(np.count_nonzero(everything) / everything.size)
    assert (found.minimum, found.maximum) == (everything.min(), everything.max())
    assert found.mean == pytest.approx(everything.mean(), abs=1e-9 * np.abs(everything).max() + 1e-30)
    assert found.standard_deviation == pytest.approx(everything.std(), rel=1e-6, abs=1e-6 * np.abs(everything).max())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(VALUES, min_size=1, max_size=3))
def test_each_bin_counts_the_values_between_its_edges_whatever_order_they_came_in(samples) -> None:
    histogram, everything = statistics_of(*samples).histogram, np.concatenate(samples).astype(np.float64)
    assert histogram is not None
    places = np.floor(everything / histogram.width).astype(int) - round(histogram.low / histogram.width)
    assert np.bincount(places, minlength=len(histogram.counts)).tolist() == list(histogram.counts)
    assert histogram.counts[0]
    assert histogram.counts[-1]
    assert histogram == statistics_of(*samples[::-1]).histogram


def test_squares_of_the_largest_floats_do_not_overflow() -> None:
    assert statistics_of(np.array([3e38, -3e38], np.float32)).standard_deviation == pytest.approx(3e38)


def test_a_large_mean_does_not_cancel_the_deviation() -> None:
    values = np.tile(np.array([1e6, 1e6 + 1], np.float32), 50)
    assert statistics_of(values).standard_deviation == pytest.approx(0.5)


def test_what_is_not_finite_is_counted_apart() -> None:
    found = statistics_of(np.array([1, np.inf, np.nan, -np.inf, 0], np.float32))
    assert (found.not_finite, found.minimum, found.maximum, found.mean) == (3, 0, 1, 0.5)
    assert found.density == 0.8
    nothing = statistics_of(np.array([np.nan], np.float32))
    assert nothing.minimum is None
    assert nothing.histogram is None


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.uint16, np.int64, np.bool_])
def test_every_type_is_measured_in_its_own_values(dtype) -> None:
    values = np.array([0, 1, 0, 1, 1, 0, 0, 0], np.float32).astype(dtype)
    found = statistics_of(values)
    assert (found.dtype, found.density, found.mean) == (values.dtype.name, 0.375, 0.375)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(arrays(np.int8, st.tuples(st.integers(2, 21), st.integers(1, 5)), elements=st.integers(-1, 1)), st.data())
def test_fullest_groups_are_those_of_a_walk_over_all_groups(values, data) -> None:
    axis = data.draw(st.integers(0, 1))
    lines = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    found = fullest_groups(values, 0, axis)
    assert set(found) == {size for size in (2, 4, 8, 16) if size <= values.shape[axis]}
    for size, most in found.items():
        groups = (line[start : start + size] for line in lines for start in range(0, len(line), size))
        assert most == max(np.count_nonzero(group) for group in groups)


def two_of_four(depth: int, columns: int, axis: int) -> np.ndarray:
    """Weights (depth, columns) of ones, half of them zero: two of four along `axis`, whole pairs along the other."""
    ones = np.ones((depth, columns), np.float32)
    return ones * (np.indices(ones.shape)[axis] % 4 < 2)


@pytest.mark.parametrize(("axis", "expected"), [(0, "2:4"), (1, "")])
def test_a_pattern_counts_along_the_axis_that_a_product_sums_over(axis, expected) -> None:
    weights = two_of_four(16, 8, axis)
    for transposed in (False, True):
        stored = np.ascontiguousarray(weights.T) if transposed else weights
        node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=int(transposed))
        graph = graph_of([node], [("x", FLOAT, [2, 16])], [("y", FLOAT, [2, 8])], {"w": stored})
        with_statistics = codesign.measure(graph, codesign.random_inputs(graph, 0))
        (work,) = lower(optimise(with_statistics))
        assert work.reads[1].density == 0.5
        assert tightest(work.reads[1].patterns) == expected


def test_a_convolution_is_grouped_over_its_input_channels() -> None:
    weights = np.ones((4, 8, 3, 3), np.float32)
    weights[:, 1::2] = 0
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    graph = graph_of([node], [("x", FLOAT, [1, 8, 5, 5])], [("y", FLOAT, [1, 4, 3, 3])], {"w": weights})
    assert measured(graph, codesign.random_inputs(graph, 0)).tensors["w"].patterns == ((1, 2), (2, 4), (4, 8))


def test_density_after_an_activation_reaches_the_work_of_what_reads_it() -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((16, 32), np.float32), "v": rng.standard_normal((32, 4), np.float32)}
    weights["v"][::2] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["y"]),
    ]  # fmt: skip
    graph = graph_of(nodes, [("x", FLOAT, [8, 16])], [("y", FLOAT, [8, 4])], weights)
    inputs = codesign.random_inputs(graph, 0)
    expected = np.count_nonzero(np.maximum(inputs["x"] @ weights["w"], 0)) / (8 * 32)
    first, second = lower(optimise(codesign.measure(graph, inputs)), "int8")
    assert isinstance(second, Contraction)
    assert first.writes[0].density == second.reads[0].density == pytest.approx(expected)
    assert second.reads[1].density == 0.5
    assert lower(optimise(graph))[1].reads[0].density == 1.0


def test_a_quantised_tensor_is_zero_where_its_zero_point_is() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    weights = {"s": np.float32(0.1), "z": np.uint8(3)}
    graph = graph_of(nodes, [("x", FLOAT, [4])], [("y", FLOAT, [4])], weights)
    found = measured(graph, {"x": np.array([0, 0, 1, -0.3], np.float32)}, fused=False).tensors["q"]
    assert (found.zero, found.density, found.minimum) == (3, 0.5, 0)


def mixture(tokens: int, experts: int, width: int) -> Graph:
    """A decode step of a mixture of experts: each token's best expert is chosen, and its matrix fetched."""
    rng = np.random.default_rng(1)
    weights = {
        "gate": rng.standard_normal((width, experts), np.float32),
        "expert": rng.standard_normal((experts, width, width), np.float32),
        "k": np.array([1]), "last": np.array([1]), "row": np.array([1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "gate"], ["scores"]),
        helper.make_node("TopK", ["scores", "k"], ["best", "chosen"], axis=-1),
        helper.make_node("Squeeze", ["chosen", "last"], ["index"]),
        helper.make_node("Gather", ["expert", "index"], ["fetched"], name="fetch"),
        helper.make_node("Unsqueeze", ["x", "row"], ["rows"]),
        helper.make_node("MatMul", ["rows", "fetched"], ["y"]),
    ]
    values = [("x", FLOAT, [tokens, width])], [("y", FLOAT, [tokens, 1, width])]
    return graph_of(nodes, *values, weights)


@pytest.mark.parametrize("alike", [False, True])
def test_experts_that_no_token_is_routed_to_are_not_fetched(alike) -> None:
    tokens, experts, width = 12, 16, 8
    graph = mixture(tokens, experts, width)
    inputs = codesign.random_inputs(graph, 0)
    if alike:
        inputs["x"][:] = inputs["x"][0]
    with_statistics = codesign.measure(graph, inputs)
    chosen = np.argmax(inputs["x"] @ graph.weights["gate"].array(), axis=1)
    routing = with_statistics.statistics.routing["chosen"]
    assert routing.counts == dict(zip(*(part.tolist() for part in np.unique(chosen, return_counts=True)), strict=True))
    assert (routing.choices, routing.indices, routing.distinct) == (experts, tokens, len(set(chosen.tolist())))
    assert routing.imbalance == pytest.approx(np.bincount(chosen).max() / (tokens / experts))
    (fetch,) = (work for work in lower(optimise(with_statistics)) if isinstance(work, Gather))
    assert fetch.reads[0].elements == len(set(chosen.tolist())) * width * width
    (unknown,) = (work for work in lower(optimise(graph)) if isinstance(work, Gather))
    assert unknown.reads[0].elements == tokens * width * width
    device = codesign.device("host")
    assert codesign.simulate(with_statistics, device).latency_s <= codesign.simulate(graph, device).latency_s


def routed(tokens: int, experts: int, width: int) -> Graph:
    """The zoo's mixture of experts, one choice a token and room for all tokens in each expert."""
    builder = Builder("mixture")
    rows, logits = builder.input("tokens_in", (1, tokens, width)), builder.input("logits", (tokens, experts))
    builder.output(mixture_of_experts(builder, rows, logits, 2 * width, 1, experts, activation="relu"), "y")
    return from_proto(workloads.materialise(builder.model(), seed=0), source="mixture")


@pytest.mark.parametrize("wanted", [(2, 2, 2, 2), (0, 3, 3, 1), (0, 1, 2, 3)])
def test_experts_that_no_token_is_routed_to_are_not_multiplied(wanted) -> None:
    experts, width = 4, 8
    graph = routed(len(wanted), experts, width)
    logits = np.eye(experts, dtype=np.float32)[list(wanted)]
    measured_ = codesign.measure(graph, {**codesign.random_inputs(graph, 0), "logits": logits})
    reached = len(set(wanted))
    products = [work for work in lower(optimise(measured_)) if isinstance(work, Contraction)]
    assert [work.batch for work in products] == [reached, reached]
    assert [work.weight_bytes for work in products] == [reached * 2 * width * width * 4] * 2
    assert [work.batch for work in lower(optimise(graph)) if isinstance(work, Contraction)] == [experts, experts]
    assert products[0].reads[0].density == pytest.approx(len(wanted) / (reached * len(wanted)))


def test_an_operator_that_routes_reads_the_experts_that_its_router_chose() -> None:
    tokens, experts, width, hidden = 6, 8, 4, 16
    rng = np.random.default_rng(0)
    weights = {
        "up": rng.standard_normal((experts, hidden, width), np.float32),
        "down": rng.standard_normal((experts, width, hidden), np.float32),
    }
    node = helper.make_node("MoE", ["x", "logits", "up", "", "down"], ["y"], domain="com.microsoft", k=2)
    values = [("x", FLOAT, [tokens, width]), ("logits", FLOAT, [tokens, experts])], [("y", FLOAT, [tokens, width])]
    graph = graph_of([node], *values, weights)
    logits = np.tile(np.arange(experts, dtype=np.float32), (tokens, 1))
    with_statistics = codesign.measure(graph, {"x": rng.standard_normal((tokens, width), np.float32), "logits": logits})
    assert with_statistics.statistics.routing["logits"].counts == {experts - 2: tokens, experts - 1: tokens}
    (work,) = lower(with_statistics)
    assert work.weight_bytes == 2 * 2 * hidden * width * 4
    assert lower(graph)[0].weight_bytes == experts * 2 * hidden * width * 4


def test_the_document_comes_back_from_its_text_as_it_was(tmp_path) -> None:
    graph = mixture(4, 8, 8)
    found = measured(graph, [codesign.random_inputs(graph, seed) for seed in range(3)])
    assert found.samples == 3
    path = tmp_path / "statistics.json"
    path.write_text(found.to_json())
    assert read_statistics(path) == found
    assert lower(optimise(attach(graph, found))) == lower(optimise(codesign.measure(graph, [
        codesign.random_inputs(graph, seed) for seed in range(3)
    ])))  # fmt: skip


def test_bodies_of_control_flow_are_measured() -> None:
    trip, go, still = (helper.make_tensor_value_info(*value, []) for value in (
        ("i", INT64), ("go", TensorProto.BOOL), ("still", TensorProto.BOOL)
    ))  # fmt: skip
    before, after = (helper.make_tensor_value_info(name, FLOAT, [4]) for name in ("carried", "next"))
    nodes = [helper.make_node("Relu", ["carried"], ["next"]), helper.make_node("Identity", ["go"], ["still"])]
    body = helper.make_graph(nodes, "body", [trip, go, before], [still, after])
    node = helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)
    graph = graph_of([node], [("x", FLOAT, [4])], [("y", FLOAT, [4])], {"trips": np.array(400)})
    found = measured(graph, {"x": np.array([-1, 2, -3, 4], np.float32)})
    inner = found.tensors[next(name for name in found.tensors if name.endswith("/next"))]
    assert (inner.elements, inner.density) == (1600, 0.5)


def test_another_models_statistics_are_refused() -> None:
    found = measured(mixture(4, 8, 8), codesign.random_inputs(mixture(4, 8, 8), 0))
    other = graph_of([helper.make_node("Relu", ["p"], ["q"])], [("p", FLOAT, [4])], [("q", FLOAT, [4])])
    with pytest.raises(BadParameter, match="none of whose tensors they name"):
        attach(other, found)
    with pytest.raises(BadParameter, match="whose weight 'gate' has another shape"):
        attach(mixture(4, 16, 8), found)
    with pytest.raises(BadParameter, match="at least one sample"):
        codesign.measure(other, [])


def test_a_picture_shows_where_the_values_are() -> None:
    found = statistics_of(np.concatenate([np.zeros(100), np.full(4, 50.0)]).astype(np.float32))
    drawn = picture(found.histogram)
    assert drawn[0] == "█"
    assert drawn.strip()[-1] in "▁▂▃"
    assert set(drawn[1:-1].strip("▁▂")) <= {" "}


def test_inspect_lists_statistics_and_simulate_reads_them(tmp_path, capsys) -> None:
    model, out = write_small_model(tmp_path), tmp_path / "statistics.json"
    assert run("inspect", model, "--statistics", "--seed-inputs", 0, "--json", out) == 0
    shown = capsys.readouterr().out
    assert "not zero" in shown
    assert "r " in shown
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert read_statistics(out).tensors["r"].density < 0.9
    results = []
    for given_ in (("--statistics", out), ("--seed-inputs", 0), ()):
        assert run("simulate", model, "-d", "ethos-u65-256", *given_, "--json", "-") == 0
        results.append(json.loads(capsys.readouterr().out)["latency_s"])
    assert results[0] == results[1]
    assert results[0] <= results[2]


def test_a_sweep_asks_what_passing_over_zeros_is_worth(tmp_path, capsys) -> None:
    model, statistics, out = "zoo:mlperf_tiny_kws", tmp_path / "statistics.json", tmp_path / "points.parquet"
    seeds = ("--seed-inputs", 0, "--seed-weights", 0)
    assert run("inspect", model, "--statistics", *seeds, "--json", statistics) == 0
    words = ("-d", "ethos-u65-256", "--vary", "array.gates_zeros=false,true", "--out", out, "--processes", 1)
    for known in (("--statistics", statistics), ()):  # the second is another sweep, not the first gone on with
        assert run("sweep", model, *words, *known) == 0
        energy = pd.read_parquet(out).set_index("array.gates_zeros")["energy_J"]
        assert (energy[True] < energy[False]) == bool(known)
    assert run("explain", model, "-d", "ethos-u65-256", "--statistics", statistics) == 0


def test_statistics_that_cannot_be_read_are_one_line(tmp_path, capsys) -> None:
    model, path = write_small_model(tmp_path), tmp_path / "statistics.json"
    assert "either --inputs FILE.npz or --seed-inputs" in refused(capsys, "inspect", model, "--statistics")
    command = ("simulate", model, "-d", "host", "--statistics", path)
    assert "No such file" in refused(capsys, *command)
    path.write_text("{}")
    assert "statistics.json: model: Field required" in refused(capsys, *command)
    path.write_text('{"model": "m", "samples": 1, "version": "9", "tensors": {}}')
    assert "version" in refused(capsys, *command)
    assert "give one of them" in refused(capsys, *command, "--seed-inputs", 0)


def test_the_small_model_keeps_its_statistics_through_every_transform() -> None:
    graph = from_proto(small_model(), source="small", batch=1)
    optimised = optimise(codesign.measure(graph, codesign.random_inputs(graph, 0)))
    found = optimised.statistics
    assert found is not None
    assert set(optimised.tensors) <= set(found.tensors)
