"""Prepared operations against the operators they stand for: any geometry, to rounding in float32, exact in 8 bits."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit, types

from codesign.executor import Exact, Executor
from codesign.executor.kernels import compiled, threads, vector
from codesign.executor.kernels.product import multiply_rows
from codesign.executor.kernels.saturating import saturating_pairs
from codesign.executor.prepared import prepare
from codesign.executor.weights import WeightStore
from codesign.graph import Graph, Op, Tensor, Weight
from codesign.ops.base import Value, find

EXAMPLES = 60
SEEDS = st.integers(0, 2**32 - 1)


def graph_of(op: Op, inputs: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> Graph:
    """A graph of one operation, its result's shape inferred."""
    arrays = inputs | weights
    values = [
        None if not name else Value(arrays[name].shape, str(arrays[name].dtype), constant=arrays[name])
        for name in op.inputs
    ]
    tensors = {name: Tensor(name, array.shape, str(array.dtype)) for name, array in arrays.items()}
    for name, (shape, dtype) in zip(op.outputs, find(op).infer(op, values), strict=False):
        tensors[name] = Tensor(name, shape, dtype)
    held = {name: Weight(tensors[name], array) for name, array in weights.items()}
    return Graph("test", tensors, held, (op,), tuple(inputs), op.outputs)


def both(op: Op, inputs: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The first result as prepared, which must not be refused, and as the operator computes it."""
    graph = graph_of(op, inputs, weights)
    store = WeightStore(graph)
    step = prepare(op, graph, store)
    assert step is not None
    made = step(lambda name: inputs[name] if name in inputs else store[name])
    assert made is not None
    return made[0], Executor(graph, numerics=Exact()).run(inputs)[op.outputs[0]]


def check(op: Op, inputs: dict[str, np.ndarray], weights: dict[str, np.ndarray], tolerance: float = 2e-6) -> None:
    ours, expected = both(op, inputs, weights)
    assert ours.shape == expected.shape
    assert ours.dtype == expected.dtype
    scale = max(float(np.abs(expected, where=np.isfinite(expected), out=np.zeros_like(expected)).max()), 1.0)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * scale)


def floats(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.standard_normal(shape, dtype=np.float32)


FOLLOWERS = {
    "nothing": (),
    "bias": (Op("bias", "Add", ("@", "bias"), ("r",)),),
    "bias, residual": (Op("bias", "Add", ("bias", "@"), ("q",)), Op("sum", "Add", ("other", "@"), ("r",))),
    "residual, limits": (Op("sum", "Add", ("@", "other"), ("q",)), Op("clip", "Clip", ("@", "low", "high"), ("r",))),
    "bias, activation": (Op("bias", "Add", ("@", "bias"), ("q",)), Op("gelu", "Gelu", ("@",), ("r",))),
    "limits, activation, more": (
        Op("relu", "Relu", ("@",), ("p",)), Op("tanh", "Tanh", ("@",), ("q",)), Op("more", "Mul", ("@", "@"), ("r",)),
    ),
    "bias after limits": (Op("relu", "Relu", ("@",), ("q",)), Op("bias", "Add", ("@", "bias"), ("r",))),
}  # fmt: skip


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 70), st.sampled_from(list(FOLLOWERS)), st.booleans(), SEEDS
)
@settings(max_examples=EXAMPLES)
def test_product_of_any_size_with_what_follows(rows, depth, columns, followers, strided, seed):
    generator = np.random.default_rng(seed)
    left = floats(generator, 2, rows, 2 * depth)[..., :depth] if strided else floats(generator, 2, rows, depth)
    used = {name for follower in FOLLOWERS[followers] for name in follower.inputs}
    weights = {"w": floats(generator, depth, columns)}
    weights |= {"bias": floats(generator, columns)} if "bias" in used else {}
    weights |= {"low": np.float32(-1).reshape(()), "high": np.float32(2).reshape(())} if "low" in used else {}
    inputs = {"x": left} | ({"other": floats(generator, 2, rows, columns)} if "other" in used else {})
    check(Op("product", "MatMul", ("x", "w"), ("y",), epilogue=FOLLOWERS[followers]), inputs, weights, 1e-5)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 40), st.booleans(), SEEDS)
@settings(max_examples=20)
def test_gemm(rows, depth, columns, transposed, seed):
    generator = np.random.default_rng(seed)
    weights = {"w": floats(generator, *((columns, depth) if transposed else (depth, columns)))}
    weights["b"] = floats(generator, columns)
    op = Op("gemm", "Gemm", ("x", "w", "b"), ("y",), {"transB": int(transposed)})
    check(op, {"x": floats(generator, rows, depth)}, weights, 1e-5)


@st.composite
def geometries(draw, separate=None):
    """Attributes, shape of the image and of the weights of a convolution of one or two spatial axes."""
    rank = draw(st.sampled_from((1, 2, 2, 2)))
    each = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    kernel, strides, dilations = draw(each), draw(each), draw(each)
    pads = draw(st.lists(st.integers(0, 3), min_size=2 * rank, max_size=2 * rank))
    if draw(st.booleans()) if separate is None else separate:
        groups, depth, outputs = draw(st.integers(2, 40)), 1, 1
    else:
        groups = draw(st.sampled_from((1, 1, 1, 2)))
        depth, outputs = draw(st.integers(8 if groups > 1 else 1, 35)), draw(st.integers(1, 40))
    spatial = [
        draw(st.integers(max(1, (size - 1) * step + 1 - before - after), 14))
        for size, step, before, after in zip(kernel, dilations, pads[:rank], pads[rank:], strict=True)
    ]
    attributes = {"group": groups, "strides": strides, "dilations": dilations, "pads": pads, "kernel_shape": kernel}
    batch = draw(st.integers(1, 2))
    return attributes, (batch, groups * depth, *spatial), (groups * outputs, depth, *kernel)


@given(geometries(), st.booleans(), st.sampled_from(["nothing", "limits", "residual"]), SEEDS)
@settings(max_examples=EXAMPLES)
def test_convolution_of_any_geometry(geometry, last, follower, seed):
    attributes, image, filters = geometry
    generator = np.random.default_rng(seed)
    x = floats(generator, *image)
    if last:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    weights = {"w": floats(generator, *filters), "b": floats(generator, filters[0])}
    plain = Op("convolution", "Conv", ("x", "w", "b"), ("y",), attributes)
    inputs = {"x": x}
    followers: tuple[Op, ...] = ()
    if follower == "limits":
        followers = (Op("relu", "Relu", ("@",), ("r",)),)
    elif follower == "residual":
        followers = (Op("sum", "Add", ("@", "other"), ("q",)), Op("relu", "Relu", ("@",), ("r",)))
        inputs["other"] = floats(generator, *graph_of(plain, inputs, weights).tensors["y"].shape)
    check(Op("convolution", "Conv", ("x", "w", "b"), ("y",), attributes, epilogue=followers), inputs, weights, 1e-5)


@given(
    geometries(), st.sampled_from(["uint8", "int8"]), st.sampled_from(["uint8", "int8"]), st.booleans(), st.booleans(),
    SEEDS,
)  # fmt: skip
@settings(max_examples=EXAMPLES)
def test_quantised_convolution_is_exact_to_the_bit(geometry, images, kinds, by_channel, biased, seed):
    attributes, image, filters = geometry
    generator = np.random.default_rng(seed)
    low, high = np.iinfo(images).min, np.iinfo(images).max
    outputs = filters[:1] if by_channel else ()
    middle = 0 if kinds == "int8" else 128
    weights = {
        "xs": np.float32(0.02), "xz": np.asarray(generator.integers(low, high + 1), images),
        "w": generator.integers(np.iinfo(kinds).min, np.iinfo(kinds).max + 1, filters).astype(kinds),
        "ws": generator.uniform(1e-3, 1e-2, outputs).astype(np.float32), "wz": np.full(outputs, middle, kinds),
        "ys": np.float32(0.05), "yz": np.asarray(generator.integers(low, high + 1), images),
    }  # fmt: skip
    weights = {name: np.asarray(array) for name, array in weights.items()}
    names = ("x", "xs", "xz", "w", "ws", "wz", "ys", "yz")
    if biased:
        weights["b"] = generator.integers(-5000, 5000, filters[0]).astype(np.int32)
        names = (*names, "b")
    op = Op("convolution", "QLinearConv", names, ("y",), attributes)
    ours, expected = both(op, {"x": generator.integers(low, high + 1, image).astype(images)}, weights)
    np.testing.assert_array_equal(ours, expected)


def test_quantised_convolution_leaves_saturating_pairs_to_the_operator():
    weights = {
        "s": np.asarray(np.float32(0.1)), "z": np.asarray(np.uint8(3)), "w": np.full((4, 8, 1, 1), 127, np.int8),
        "wz": np.asarray(np.int8(0)),
    }  # fmt: skip
    op = Op("convolution", "QLinearConv", ("x", "s", "z", "w", "s", "wz", "s", "z"), ("y",))
    x = np.full((1, 8, 2, 2), 255, np.uint8)
    graph = graph_of(op, {"x": x}, weights)
    step, store = prepare(op, graph, WeightStore(graph)), WeightStore(graph)
    assert step is not None
    with saturating_pairs():
        assert step(lambda name: x if name == "x" else store[name]) is None


@pytest.mark.parametrize("images", ["uint8", "int8"])
@pytest.mark.parametrize("depth", [7, 64])
def test_quantised_product_is_exact_to_the_bit(images, depth):
    generator = np.random.default_rng(depth)
    weights = {
        "s": np.asarray(np.float32(0.03)), "z": np.asarray(5, images), "w": generator.integers(-128, 128, (33, depth))
        .astype(np.int8), "wz": np.asarray(np.int8(0)), "b": generator.integers(-900, 900, 33).astype(np.int32),
    }  # fmt: skip
    op = Op(
        "gemm", "QGemm", ("x", "s", "z", "w", "s", "wz", "b", "s", "z"), ("y",), {"transB": 1}, domain="com.microsoft"
    )
    x = generator.integers(np.iinfo(images).min, np.iinfo(images).max + 1, (9, depth)).astype(images)
    ours, expected = both(op, {"x": x}, weights)
    np.testing.assert_array_equal(ours, expected)


@given(geometries(separate=True), st.sampled_from(["MaxPool", "AveragePool"]), st.booleans(), SEEDS)
@settings(max_examples=EXAMPLES)
def test_pooling_of_any_geometry(geometry, kind, padded, seed):
    attributes, image, _ = geometry
    reach = [(size - 1) * step for size, step in zip(attributes["kernel_shape"], attributes["dilations"], strict=True)]
    pads = [min(pad, limit) for pad, limit in zip(attributes["pads"], reach * 2, strict=True)]
    attributes = {name: value for name, value in attributes.items() if name != "group"} | {"pads": pads}
    if any(
        extent + before + after <= span
        for extent, before, after, span in zip(image[2:], pads[: len(reach)], pads[len(reach) :], reach, strict=True)
    ):
        return
    if kind == "AveragePool":
        attributes["count_include_pad"] = int(padded)
    check(Op("pool", kind, ("x",), ("y",), attributes), {"x": floats(np.random.default_rng(seed), *image)}, {})


def test_what_is_no_number_wins_a_maximum():
    x = np.arange(32, dtype=np.float32).reshape(1, 2, 4, 4).copy()
    x[0, 1, 2, 2] = np.nan
    ours, expected = both(Op("pool", "MaxPool", ("x",), ("y",), {"kernel_shape": [2, 2]}), {"x": x}, {})
    np.testing.assert_array_equal(ours, expected)


@given(
    st.integers(1, 2), st.sampled_from([(1, 1), (4, 2), (3, 3)]), st.integers(1, 30), st.integers(1, 50),
    st.sampled_from([8, 33, 64]), st.sampled_from(["none", "causal", "mask", "hidden"]), st.booleans(), SEEDS,
)  # fmt: skip
@settings(max_examples=EXAMPLES)
def test_attention_of_any_size(batch, heads, queries, keys, width, mask, flat, seed):
    generator = np.random.default_rng(seed)
    own, shared = heads

    def side(count: int, length: int) -> np.ndarray:
        return floats(generator, *((batch, length, count * width) if flat else (batch, count, length, width)))

    inputs = {"q": side(own, queries), "k": side(shared, keys), "v": side(shared, keys)}
    attributes = {"q_num_heads": own, "kv_num_heads": shared} if flat else {}
    names = ["q", "k", "v"]
    if mask == "causal":
        attributes["is_causal"] = 1
    elif mask in ("mask", "hidden"):
        seen = generator.random((queries, keys)) < 0.7
        inputs["m"] = seen & (mask == "mask") if mask == "mask" else np.zeros((queries, keys), bool)
        names.append("m")
    check(Op("attention", "Attention", tuple(names), ("y",), attributes), inputs, {}, 5e-6)


@pytest.mark.parametrize("kind", ["LayerNormalization", "RMSNormalization"])
@pytest.mark.parametrize("axis", [-1, 1])
def test_normalisation(kind, axis):
    generator = np.random.default_rng(3)
    shape = (2, 5, 37)
    weights = {name: floats(generator, *shape[axis:]) for name in ("scale", "bias")[: 1 + (kind[0] == "L")]}
    check(Op("norm", kind, ("x", *weights), ("y",), {"axis": axis}), {"x": floats(generator, *shape) + 5}, weights)


def test_rounding_to_bytes_is_exact_to_the_bit():
    x = np.array([[-np.inf, np.nan, 0.025, 0.075, -0.125, 1e9, 3.3, np.inf]], np.float32)
    for kind in ("uint8", "int8"):
        weights = {"s": np.asarray(np.float32(0.05)), "z": np.asarray(7, kind)}
        ours, expected = both(Op("round", "QuantizeLinear", ("x", "s", "z"), ("y",)), {"x": x}, weights)
        np.testing.assert_array_equal(ours, expected)


def test_bytes_are_multiplied_alike_where_the_processor_has_no_instruction_for_it(monkeypatch):
    monkeypatch.setattr(vector, "_BYTE_PRODUCTS", {})

    @vector.function(types.intp, types.intp, types.intp)
    def dot(writer, unsigned, signed):
        kind = writer.vector(vector.WORD, 4)
        sums = writer.dot(kind(None), writer.load(kind, unsigned), writer.load(kind, signed))
        lanes = [writer.builder.extract_element(sums, vector.ir.Constant(vector.WORD, lane)) for lane in range(4)]
        total = lanes[0]
        for lane in lanes[1:]:
            total = writer.builder.add(total, lane)
        return writer.builder.sext(total, vector.INTEGER)

    @njit
    def run(unsigned, signed):
        return dot(unsigned, signed)

    generator = np.random.default_rng(0)
    left = generator.integers(0, 256, 16).astype(np.uint8)
    right = generator.integers(-128, 128, 16).astype(np.int8)
    assert run(left.ctypes.data, right.ctypes.data) == (left.astype(int) * right).sum()


def test_a_kernel_is_compiled_again_when_any_file_beside_it_changes():
    stamp = multiply_rows._cache._cache_file._source_stamp
    assert compiled.folder_stamp() in stamp
    assert {"tile.py", "vector.py", "activations.py"} <= {name for name, _, _ in compiled.folder_stamp()}


def test_weights_in_panels_count_against_the_limit_of_what_is_kept():
    reads = []

    def load() -> np.ndarray:
        reads.append(1)
        return np.eye(16, dtype=np.float32)

    tensors = {name: Tensor(name, (16, 16), "float32") for name in "xwy"}
    graph = Graph(
        "test",
        tensors,
        {"w": Weight(tensors["w"], load=load)},
        (Op("p", "MatMul", ("x", "w"), ("y",)),),
        ("x",),
        ("y",),
    )
    for limit, expected in ((1 << 20, 1), (0, 3)):
        reads.clear()
        executor = Executor(graph, weight_cache_bytes=limit)
        for _ in range(3):
            executor.run({"x": np.ones((16, 16), np.float32)})
        assert len(reads) == expected


def count_tasks(counter: int, tasks: int, seen: list[int]) -> None:
    """A kernel in Python: takes numbers until there are none."""
    address = np.ctypeslib.as_array((threads.ctypes.c_int64 * 1).from_address(counter))
    while True:
        with LOCK:
            task = int(address[0])
            address[0] += 1
        if task >= tasks:
            return
        seen.append(task)


LOCK = threading.Lock()


def test_threads_share_tasks_each_taken_once(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    threads._helpers.cache_clear()
    results: list[list[int]] = [[] for _ in range(4)]
    callers = [threading.Thread(target=threads.share, args=(count_tasks, 50, 50, result)) for result in results]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(sorted(result) == list(range(50)) for result in results)
    threads._helpers.cache_clear()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_threads_of_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    threads.share(count_tasks, 5, 5, [])
    child = os.fork()
    if child == 0:
        seen: list[int] = []
        threads.share(count_tasks, 5, 5, seen)
        os._exit(0 if sorted(seen) == list(range(5)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
