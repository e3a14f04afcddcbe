"""DLGSANet: kernels made for each pixel against their definition, and the zeros of its sparse attention."""

from __future__ import annotations

import numpy as np
import onnx

import codesign
import workloads
from codesign.frontend import from_proto
from codesign.lower import lower
from codesign.work import Contraction
from tests.block_case import run_block
from tests.workload_case import random_inputs, reduced, session_of
from workloads.builder import Builder, Value
from workloads.dlgsanet import dynamic_convolution, sparse_channel_attention

RANDOM = np.random.default_rng(0)


def test_each_pixel_is_the_window_around_it_weighed_by_the_kernel_made_there() -> None:
    """A model that also gives away the image after its first layer, its kernels, and the sum before the last layer."""
    image = RANDOM.standard_normal((1, 12, 5, 6), dtype=np.float32)

    def block(graph: Builder, value: Value) -> tuple[Value, ...]:
        result = dynamic_convolution(graph, value)
        inner = {"in/Conv": image.shape, "kernels/Conv": (1, 98, 5, 6), "grid": image.shape}
        return (result, *(graph.unary("Identity", Value(f"dynamic/{name}", shape)) for name, shape in inner.items()))

    _, entered, kernels, summed = run_block(block, image)
    padded = np.pad(entered, ((0, 0), (0, 0), (3, 3), (3, 3)))
    for channel, row, column in ((0, 0, 0), (5, 2, 3), (6, 4, 5), (11, 1, 4)):
        kernel = kernels.reshape(2, 49, 5, 6)[channel // 6, :, row, column].reshape(7, 7)
        window = padded[0, channel, row : row + 7, column : column + 7]
        np.testing.assert_allclose(summed[0, channel, row, column], (kernel * window).sum(), rtol=1e-4, atol=1e-5)


def test_sparse_attention_drops_negative_cosines_and_the_measured_zeros_reach_the_work() -> None:
    model = reduced("light_x2")
    graph = from_proto(model)
    measured = codesign.measure(graph, random_inputs(session_of(model)))
    [context] = (op for op in measured.ops if op.name.endswith("attention/context"))
    work = lower(measured)[measured.ops.index(context)]
    assert isinstance(work, Contraction)
    assert 0.2 < work.reads[0].density < 0.8


def test_making_and_reading_kernels_moves_most_bytes() -> None:
    graph = from_proto(workloads.build("light_x4"))
    works = dict(zip([op.name for op in graph.ops], lower(graph), strict=True))
    dynamic = sum(work.bytes for name, work in works.items() if "/dynamic/" in name)
    assert dynamic > 0.5 * sum(work.bytes for work in works.values())


def test_attention_between_channels_ignores_the_order_of_pixels() -> None:
    """Scores are sums over pixels; the depthwise convolution before them is the only part that knows places."""
    graph = Builder("attention")
    graph.output(sparse_channel_attention(graph, graph.input("x", (1, 8, 4, 4)), 2), "y")
    model = workloads.materialise(graph.model(), seed=0)
    for tensor in model.graph.initializer:
        if "depthwise" in tensor.name:
            centre = np.zeros(tuple(tensor.dims), np.float32)
            centre[:, :, 1, 1] = 1
            tensor.CopyFrom(onnx.numpy_helper.from_array(centre, tensor.name))
    session = session_of(model)
    image = RANDOM.standard_normal((1, 8, 4, 4), dtype=np.float32)
    order = RANDOM.permutation(16)
    shuffled = image.reshape(1, 8, 16)[:, :, order].reshape(image.shape)
    plain, moved = (session.run(None, {"x": one})[0].reshape(8, 16) for one in (image, shuffled))
    np.testing.assert_allclose(moved, plain[:, order], atol=1e-5)
