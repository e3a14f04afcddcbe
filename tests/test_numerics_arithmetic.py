"""Graphs computed in a device's formats, against computations written out in numpy, and against onnxruntime."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import codesign
import workloads
from codesign import numerics
from codesign.errors import BadParameter
from codesign.executor import Executor
from codesign.frontend import from_proto
from codesign.graph import Graph
from codesign.numerics.policy import Policy
from codesign.transforms import optimise

Array = np.ndarray[Any, Any]


def graph_of(nodes: list[Any], inputs: dict[str, Array], weights: dict[str, Array], output: str = "y") -> Graph:
    """A graph of ONNX nodes, float32 throughout."""
    made = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def computed(graph: Graph, rules: list[dict[str, Any]], inputs: dict[str, Array]) -> tuple[Array, numerics.Arithmetic]:
    """The only output under a policy of `rules`, calibrated on the inputs, and the arithmetic that made it."""
    policy = Policy.model_validate({"rules": rules})
    arithmetic = numerics.Arithmetic(graph, policy, numerics.calibrate(graph, policy, [inputs]))
    return next(iter(Executor(graph, arithmetic).run(inputs).values())), arithmetic


def integer_affine(values: Array) -> tuple[Array, np.float32, int]:
    """int8 codes of a tensor's own range: written after ONNX's QuantizeLinear and TFLite's choice of the zero point."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = np.float32((np.float32(high) - np.float32(low)) / np.float32(255))
    zero = int(np.clip(np.rint(np.float32(-128) - np.float32(low) / scale), -128, 127))
    return np.clip(np.rint(values / scale) + zero, -128, 127).astype(np.int64), scale, zero


def per_channel(weights: Array, axis: int) -> tuple[Array, Array]:
    """Symmetric int8 codes with a scale for each index of `axis`."""
    others = tuple(index for index in range(weights.ndim) if index != axis)
    scale = (np.abs(weights).max(axis=others, keepdims=True) / np.float32(127)).astype(np.float32)
    return np.rint(weights / scale).astype(np.int64), scale


INT8 = {"weights": "int8", "activations": "int8", "accumulator": "int32"}


def test_int8_per_channel_gemm_is_quantise_multiply_dequantise() -> None:
    generator = np.random.default_rng(0)
    x, w = generator.standard_normal((7, 40), np.float32), generator.standard_normal((30, 40), np.float32)
    bias = generator.standard_normal(30, np.float32)
    graph = graph_of([helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)], {"x": x}, {"w": w, "b": bias})
    found, _ = computed(graph, [INT8], {"x": x})
    codes, scale, zero = integer_affine(x)
    weights, scales = per_channel(w, 0)
    sums = (codes - zero) @ weights.T
    expected = sums.astype(np.float32) * (scale * scales[:, 0]) + bias
    assert np.array_equal(found, expected)


def test_int8_per_channel_convolution_is_quantise_convolve_dequantise() -> None:
    generator = np.random.default_rng(1)
    x, w = generator.standard_normal((2, 6, 9, 8), np.float32), generator.standard_normal((4, 3, 3, 3), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=2, strides=[2, 1], pads=[1, 0, 1, 2], dilations=[1, 2])
    found, _ = computed(graph_of([node], {"x": x}, {"w": w}), [INT8], {"x": x})
    codes, scale, zero = integer_affine(x)
    weights, scales = per_channel(w, 0)
    padded = np.pad(codes - zero, [(0, 0), (0, 0), (1, 1), (0, 2)])
    sums = np.zeros(found.shape, np.int64)
    for n, channel, row, column in np.ndindex(*found.shape):
        inputs = slice(3, 6) if channel >= 2 else slice(0, 3)
        patch = padded[n, inputs, row * 2 : row * 2 + 3, column : column + 5 : 2]
        sums[n, channel, row, column] = (patch * weights[channel]).sum()
    assert np.array_equal(found, sums.astype(np.float32) * (scale * scales.reshape(1, 4, 1, 1)))


def test_groups_of_weights_have_scales_of_their_own() -> None:
    generator = np.random.default_rng(2)
    x, w = generator.standard_normal((5, 100), np.float32), generator.standard_normal((100, 6), np.float32)
    w[32:64] *= 100
    graph = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": x}, {"w": w})
    rules = [{"weights": {"format": "int4", "scale": "group", "group": 32}}]
    found, _ = computed(graph, rules, {"x": x})
    held = np.empty_like(w)
    for start in range(0, 100, 32):
        part = w[start : start + 32]
        scale = np.abs(part).max(axis=0) / np.float32(7)
        held[start : start + 32] = np.rint(part / scale) * scale
    assert np.allclose(found, x @ held, rtol=1e-5, atol=1e-3)


def saturating(codes: Array, weights: Array, bits: int, block: int) -> Array:
    """The sums of a multiply-accumulate unit, one block of products after the other."""
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    total = np.zeros((codes.shape[0], weights.shape[1]), np.int64)
    for start in range(0, codes.shape[1], block):
        part = slice(start, start + block)
        total = np.clip(total + codes[:, part] @ weights[part], low, high)
    return total


@pytest.mark.parametrize("block", [1, 4, 7])
@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
def test_a_narrow_accumulator_saturates_or_wraps(overflow: str, block: int) -> None:
    generator = np.random.default_rng(3)
    x, w = generator.standard_normal((9, 300), np.float32) + 1, generator.standard_normal((300, 8), np.float32)
    w[:, 0] += 2
    graph = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": x}, {"w": w})
    accumulator = {"format": "int18", "overflow": overflow, "block": block}
    found, arithmetic = computed(graph, [{**INT8, "accumulator": accumulator}], {"x": x})
    codes, scale, zero = integer_affine(x)
    weights, scales = per_channel(w, 1)
    exact = (codes - zero) @ weights
    outside = (exact < -(1 << 17)) | (exact >= 1 << 17)
    assert 0 < outside.sum() < outside.size
    sums = saturating(codes - zero, weights, 18, block)
    if overflow == "wrap":
        sums = (exact + (1 << 17)) % (1 << 18) - (1 << 17)
        assert sum(arithmetic.overflows.values()) == outside.sum()
    assert np.array_equal(found, sums.astype(np.float32) * (scale * scales))


@pytest.mark.parametrize(("depth", "fits"), [(913, True), (914, False)])
def test_an_accumulator_of_18_bits_saturates_exactly_when_the_sum_exceeds_it(depth: int, fits: bool) -> None:
    """127 x 127 once and 1 x 126 otherwise: 913 products sum to 131,041, 914 to 131,167; 2^17 - 1 is 131,071.

    The extremes of both operands make their scales one and the zero point zero, so that values are codes.
    """
    x, w = np.ones((1, depth + 1), np.float32), np.full((depth + 1, 1), 126, np.float32)
    x[0, :2], w[:2, 0] = (127, -128), (127, 0)
    graph = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": x}, {"w": w})
    found, arithmetic = computed(graph, [{**INT8, "accumulator": "int18"}], {"x": x})
    exact = 127 * 127 + (depth - 1) * 126
    assert (exact <= 131_071) == fits
    assert found[0, 0] == min(exact, 131_071)
    assert sum(arithmetic.overflows.values()) == (not fits)


def test_activations_have_a_scale_a_token_as_they_come() -> None:
    generator = np.random.default_rng(12)
    x, w = generator.standard_normal((2, 5, 16), np.float32), generator.standard_normal((16, 3), np.float32)
    x[:, 2] *= 50
    graph = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": x}, {"w": w})
    rules = [{"activations": {"format": "int8", "scale": "token", "symmetric": True}, "accumulator": "fp32"}]
    found, arithmetic = computed(graph, rules, {"x": x})
    assert not arithmetic.ranges
    scale = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    assert np.allclose(found, (np.rint(x / scale) * scale) @ w, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("width", ["int14", "int32"])
def test_groups_are_summed_in_the_accumulator_one_by_one(width: str) -> None:
    generator = np.random.default_rng(13)
    x, w = generator.standard_normal((4, 70), np.float32) + 1, generator.standard_normal((70, 5), np.float32) + 1
    graph = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": x}, {"w": w})
    weights = {"format": "int8", "scale": "group", "group": 16}
    found, arithmetic = computed(graph, [{**INT8, "weights": weights, "accumulator": width}], {"x": x})
    codes, scale, zero = integer_affine(x)
    expected = np.zeros((4, 5), np.float32)
    for start in range(0, 70, 16):
        part = slice(start, start + 16)
        step = np.abs(w[part]).max(axis=0) / np.float32(127)
        sums = saturating(codes[:, part] - zero, np.rint(w[part] / step).astype(np.int64), int(width[3:]), 1)
        expected += sums.astype(np.float32) * step
    assert np.allclose(found, expected * scale, rtol=1e-5, atol=1e-5)
    assert bool(arithmetic.overflows.total()) == (width == "int14")


def test_least_error_clips_outliers_of_weights() -> None:
    w = np.random.default_rng(14).standard_t(3, (400, 8)).astype(np.float32)
    x = np.eye(400, dtype=np.float32)
    graph = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": x}, {"w": w})
    errors = {}
    for method in ("minmax", "mse"):
        found, _ = computed(graph, [{"weights": {"format": "int4", "method": method}}], {"x": x})
        errors[method] = float(np.square(found - w).mean())
    assert errors["mse"] < 0.7 * errors["minmax"]
    clipped, _ = computed(
        graph, [{"weights": {"format": "int8", "method": "percentile", "percentile": 99.0}}], {"x": x}
    )
    edge = np.maximum(np.abs(np.percentile(w, [1, 99], axis=0)).max(axis=0), 0)
    assert np.allclose(np.abs(clipped).max(axis=0), edge, rtol=0.02)
    with pytest.raises(BadParameter, match="entropy needs a calibrated range"):
        computed(graph, [{"weights": {"format": "int4", "method": "entropy"}}], {"x": x})


def test_later_rules_go_over_earlier_and_none_lets_be() -> None:
    x, w = np.ones((1, 3), np.float32), np.full((3, 2), 1.03, np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
             helper.make_node("MatMul", ["h", "v"], ["y"], name="head")]  # fmt: skip
    graph = graph_of(nodes, {"x": x}, {"w": w, "v": np.full((2, 2), 1.03, np.float32)})
    rules: list[dict[str, Any]] = [
        {"classes": ["contraction"], "weights": {"format": "fp4", "scale": "none"}},
        {"layers": ["head"], "weights": "none"},
    ]
    found, arithmetic = computed(graph, rules, {"x": x})
    assert np.allclose(found, 3 * 1.0 * 2 * 1.03)
    assert arithmetic.weight_bits == {"w": 4 * 6}


def test_results_are_rounded_after_what_is_fused_behind_them() -> None:
    x = np.array([[1.0, -3.0]], np.float32)
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="dense"), helper.make_node("Relu", ["h"], ["y"])]
    weights = {"w": np.eye(2, dtype=np.float32), "b": np.array([0.03, 0.0], np.float32)}
    graph = optimise(graph_of(nodes, {"x": x}, weights))
    assert [op.kind for op in graph.ops] == ["Gemm"]
    assert [follower.kind for follower in graph.ops[0].epilogue] == ["Relu"]
    found, _ = computed(graph, [{"output": {"format": "fp4", "scale": "none"}}], {"x": x})
    assert found.tolist() == [[1.0, 0.0]]
    affine, arithmetic = computed(graph, [{"output": "uint8"}], {"x": x})
    assert arithmetic.ranges["y"] == (0.0, pytest.approx(1.03))
    assert affine[0, 0] == pytest.approx(1.03)


def test_bodies_of_control_flow_follow_the_policy_too() -> None:
    generator = np.random.default_rng(15)
    x, w = generator.standard_normal((2, 4), np.float32), generator.random((4, 4), np.float32)
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [2, 4])
    body = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["inner"], name="inside")], "body", [], [value])
    node = helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body)
    yes = helper.make_node("Greater", ["x", "limit"], ["above"])
    all_above = helper.make_node("ReduceMin", ["numbers"], ["least"], keepdims=0)
    nodes = [yes, helper.make_node("Cast", ["above"], ["numbers"], to=TensorProto.INT32), all_above,
             helper.make_node("Cast", ["least"], ["yes"], to=TensorProto.BOOL), node]  # fmt: skip
    plain = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": x}, {"w": w})
    rules = [{"classes": ["contraction"], "weights": "int4", "activations": "int8"}]
    expected, _ = computed(plain, rules, {"x": x})
    chosen = graph_of(nodes, {"x": x}, {"w": w, "limit": np.float32(-100).reshape(1)})
    assert any(op.bodies for op in chosen.ops)
    found, _ = computed(chosen, rules, {"x": x})
    assert np.array_equal(found, expected)
    assert not np.allclose(found, x @ w, atol=1e-3)


@pytest.mark.parametrize(("name", "kind"), [("fp16", np.float16), ("bf16", "bfloat16")])
def test_floating_sums_are_rounded_after_every_product(name: str, kind: Any) -> None:
    import ml_dtypes

    kind = ml_dtypes.bfloat16 if kind == "bfloat16" else kind
    generator = np.random.default_rng(4)
    x, w = generator.standard_normal((6, 80), np.float32), generator.standard_normal((80, 5), np.float32)
    graph = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": x}, {"w": w})
    found, _ = computed(graph, [{"weights": name, "activations": name, "accumulator": name}], {"x": x})
    left, right = x.astype(kind).astype(np.float32), w.astype(kind).astype(np.float32)
    total = np.zeros((6, 5), np.float32)
    for k in range(80):
        total = (total + left[:, k : k + 1] * right[k]).astype(kind).astype(np.float32)
    assert np.array_equal(found, total)


@cache
def two_layers() -> Graph:
    """ViT-Tiny with two encoder layers on 64 x 64 pixels, as it is loaded."""
    return from_proto(workloads.build("vit_tiny", bind={"image": 64}, configuration={"layers": 2}))


@pytest.mark.parametrize("name", numerics.presets())
def test_every_preset_computes_a_transformer(name: str) -> None:
    """Bounds are what the width of the mantissa leaves, each format's error adding over some thirty operations."""
    graph, policy = optimise(two_layers()), numerics.policy(name)
    inputs = codesign.random_inputs(graph, seed=0)
    exact = Executor(graph, seed_weights=0).run(inputs)["logits"]
    ranges = numerics.calibrate(graph, policy, [inputs], seed_weights=0)
    found = Executor(graph, numerics.Arithmetic(graph, policy, ranges), seed_weights=0).run(inputs)["logits"]
    noise = float(np.square(found - exact).sum()) / float(np.square(exact).sum())
    assert np.isfinite(found).all()
    if name == "fp32":
        assert np.array_equal(found, exact) or noise < 1e-10
    else:
        assert 0 < noise < 1


def test_a_narrow_accumulator_needs_integers() -> None:
    x = np.ones((2, 3), np.float32)
    graph = graph_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="head")], {"x": x}, {"w": np.ones((3, 4), np.float32)}
    )
    with pytest.raises(BadParameter, match=r"node 'head' .*accumulator int18 needs integer weights and activations"):
        computed(graph, [{"activations": "fp16", "accumulator": "int18"}], {"x": x})
