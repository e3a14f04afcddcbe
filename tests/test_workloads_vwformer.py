"""VWFormer's decoder: what its contexts cost, hold, and how it compares with UPerNet's."""

from __future__ import annotations

import numpy as np

import workloads
from tests.block_case import run_block
from tests.workload_case import macs_by_onnx_shapes, shapes_of
from workloads.builder import Builder, Value
from workloads.vwformer_decoder import WINDOWS, _contexts, copy_padded

RANDOM = np.random.default_rng(0)


def attention_macs(packed: bool) -> dict[int, int]:
    model = workloads.build("vw_head", configuration={"packed": packed})
    shapes = shapes_of(model)
    products = {}
    for ratio in (2, 4, 8):
        scores, context = (shapes[f"window_attention{ratio}/{name}"] for name in ("scores", "context"))
        products[ratio] = int(np.prod(scores)) * 64 + int(np.prod(context)) * scores[-1]
    return products


def test_attention_costs_the_same_at_every_scale_and_grows_with_its_square_when_contexts_are_not_packed() -> None:
    packed, whole = attention_macs(True), attention_macs(False)
    assert len(set(packed.values())) == 1
    assert {ratio: whole[ratio] / packed[ratio] for ratio in whole} == {2: 4, 4: 16, 8: 64}


def test_the_decoder_takes_less_than_half_of_upernets_work() -> None:
    """The paper counts about half with the backbone; of the decoders alone it is a sixth at these widths."""
    ours, theirs = (macs_by_onnx_shapes(workloads.build(name)) for name in ("vw_head", "upernet_head"))
    assert ours < theirs / 2


def test_a_context_is_the_square_around_its_window() -> None:
    extent, ratio = 2 * WINDOWS, 4
    image = RANDOM.standard_normal((1, 1, extent, extent), dtype=np.float32)

    def block(graph: Builder, value: Value) -> tuple[Value, Value]:
        padded = copy_padded(graph, value, (ratio - 1) * 2)
        return padded, _contexts(graph, padded, 2, ratio, packed=True)

    padded, contexts = run_block(block, image)
    np.testing.assert_array_equal(padded[0, 0, 3:-3, 3:-3], image[0, 0])
    np.testing.assert_array_equal(padded[0, 0, :3, 3:-3], image[0, 0, :3])
    row, column = 5, 6
    square = padded[0, 0, 2 * row : 2 * row + 8, 2 * column : 2 * column + 8]
    tokens = square.reshape(2, 4, 2, 4).transpose(0, 2, 1, 3).reshape(4, 16)
    np.testing.assert_array_equal(contexts[row * WINDOWS + column], tokens)
