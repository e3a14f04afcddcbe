"""A transformer in int8 and in fp16 as onnxruntime computes it: a graph with QDQ pairs, a graph of float16."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import codesign
import workloads
from codesign import numerics
from codesign.executor import Executor
from codesign.frontend import from_proto
from codesign.graph import Graph
from codesign.numerics.formats import INTEGERS
from codesign.numerics.integers import scales_of
from codesign.ops.base import find

onnxruntime = pytest.importorskip("onnxruntime")
Array = np.ndarray[Any, Any]

PRODUCTS = ("MatMul", "Gemm", "Conv")


@cache
def model() -> onnx.ModelProto:
    """ViT-Tiny with two encoder layers on 64 x 64 pixels, weights from a seed."""
    built = workloads.build("vit_tiny", bind={"image": 64}, configuration={"layers": 2})
    return workloads.materialise(built, 0)


@cache
def graph() -> Graph:
    """The same as it is loaded: node for node, so that both compute the same operations."""
    return from_proto(model())


def computed(name: str) -> tuple[dict[str, Array], dict[str, tuple[float, float]], Array]:
    """Inputs, calibrated ranges, and the logits under a preset."""
    inputs, policy = codesign.random_inputs(graph(), seed=0), numerics.policy(name)
    ranges = numerics.calibrate(graph(), policy, [inputs])
    logits = Executor(graph(), numerics.Arithmetic(graph(), policy, ranges)).run(inputs)["logits"]
    return inputs, ranges, logits


def theirs(changed: onnx.ModelProto, inputs: dict[str, Array]) -> dict[str, Array]:
    """The outputs of onnxruntime by name, its graph optimisations off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(changed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip((output.name for output in session.get_outputs()), session.run(None, inputs), strict=True))


def decibels(exact: Array, found: Array) -> float:
    exact, found = exact.astype(np.float64), found.astype(np.float64)
    return float(10 * np.log10(np.square(exact).sum() / np.square(found - exact).sum()))


def with_pairs(ranges: dict[str, tuple[float, float]]) -> onnx.ModelProto:
    """The model with a second form of each product, whose operands pass QuantizeLinear and DequantizeLinear:
    activations affine in the ranges given, weights symmetric with a scale for each output channel. Outputs are the
    operands of the products and `NAME/held`, what each makes of its operands so held."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model())
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    inputs = {value.name for value in changed.graph.input}
    shown: set[str] = set()

    def pair(name: str, node: onnx.NodeProto) -> str:
        axis, held = 0, f"{node.output[0]}/{name}"
        if name in weights:
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            axis = 0 if node.op_type == "Conv" or transposed else weights[name].ndim - 1
            others = tuple(other for other in range(weights[name].ndim) if other != axis)
            scale = np.asarray(np.abs(weights[name]).max(axis=others) / np.float32(127))
            zero = np.zeros(scale.shape, np.int8)
        else:
            shown.add(name)
            # A value that is called like its node has a name of its own in the Graph.
            low, high = (np.float32(edge) for edge in ranges[name if name in ranges else f"{name}_1"])
            scale, exact_zero = scales_of(low, high, INTEGERS["int8"], symmetric=False)
            zero = exact_zero.astype(np.int8)
        for part, array in (("scale", scale), ("zero", zero)):
            changed.graph.initializer.append(numpy_helper.from_array(array, f"{held}/{part}"))
        operands = [f"{held}/scale", f"{held}/zero"]
        changed.graph.node.add().CopyFrom(
            helper.make_node("QuantizeLinear", [name, *operands], [f"{held}/codes"], axis=axis)
        )
        changed.graph.node.add().CopyFrom(
            helper.make_node("DequantizeLinear", [f"{held}/codes", *operands], [held], axis=axis)
        )
        return held

    for node in [node for node in changed.graph.node if node.op_type in PRODUCTS]:
        again = onnx.NodeProto()
        again.CopyFrom(node)
        again.name, again.output[0] = f"{node.name}/held", f"{node.output[0]}/held"
        again.input[0], again.input[1] = (pair(name, node) for name in node.input[:2])
        changed.graph.node.append(again)
        shown.add(again.output[0])
    for name in sorted(shown - inputs):
        changed.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return changed


def test_every_int8_product_is_that_of_a_graph_with_qdq_pairs() -> None:
    """On the same operands both multiply the same codes; theirs sums hundreds of products in float32, ours whole
    numbers: they agree to the last bits of float32 (24 bits are 144 dB, less the square root of the number of terms).

    Whole networks agree less, whoever computes them: where a last bit falls across a tie, a whole step differs.
    """
    inputs, ranges, _ = computed("w8a8")
    values = {**theirs(with_pairs(ranges), inputs), **inputs}
    arithmetic = numerics.Arithmetic(graph(), numerics.policy("w8a8"), ranges)
    products = [op for op in graph().ops if op.kind in PRODUCTS]
    assert len(products) == 14
    for op in products:
        plain = [name.removesuffix("_1") for name in op.inputs]
        operands = [values[name] if name in values else graph().weights[name].array() for name in plain]
        found = arithmetic.compute(op, find(op), operands, lambda name: np.zeros(0))[0]
        assert decibels(values[f"{op.outputs[0].removesuffix('_1')}/held"], found) > 110, op.name


def in_float16() -> onnx.ModelProto:
    """The model with every float tensor in float16."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model())
    tensors = [*changed.graph.initializer]
    tensors += [attribute.t for node in changed.graph.node for attribute in node.attribute if attribute.HasField("t")]
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*changed.graph.input, *changed.graph.output, *changed.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return changed


def test_fp16_is_as_near_to_onnxruntimes_as_two_orders_of_rounding_are() -> None:
    """Every node rounds its result by at most 2^-11 of it, 2^-11 / sqrt(3) in the mean square; onnxruntime keeps
    float32 between some nodes. Independent errors of both, one for each node, bound the difference."""
    inputs, _, logits = computed("fp16")
    expected = theirs(in_float16(), {name: array.astype(np.float16) for name, array in inputs.items()})["logits"]
    bound = np.sqrt(2 * len(graph().ops)) * 2**-11 / np.sqrt(3)
    assert decibels(expected, logits) > -20 * np.log10(bound)


def test_an_fp16_product_is_numpys_but_for_the_order_of_its_sum() -> None:
    """numpy multiplies halves and sums them in float32, one after the other; BLAS sums in another order, so that a sum
    near a tie falls to the neighbour: never further than one step of float16."""
    generator = np.random.default_rng(0)
    x, w = generator.standard_normal((20, 192), np.float32), generator.standard_normal((192, 64), np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    made = helper.make_graph(
        nodes, "product", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    product = from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    arithmetic = numerics.Arithmetic(product, numerics.policy("fp16"))
    found = Executor(product, arithmetic).run({"x": x})["y"]
    expected = x.astype(np.float16) @ w.astype(np.float16)
    assert np.array_equal(found, found.astype(np.float16))
    steps = np.abs(found - expected.astype(np.float32)) / np.spacing(np.abs(expected)).astype(np.float32)
    assert steps.max() <= 1
    assert (steps == 0).mean() > 0.98
