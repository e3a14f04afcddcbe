"""kMaX-DeepLab: a step of k-means in two forms, what it moves beside a softmax, and attention along an axis."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from codesign.frontend import from_proto
from codesign.lower import lower
from tests.block_case import run_block
from workloads.blocks.axial_attention import axial_attention
from workloads.builder import Builder, Value
from workloads.kmax_deeplab import pixel_sums

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("assignment", ["segment_sum", "one_hot"])
def test_queries_move_by_the_sum_of_the_pixels_most_like_them(assignment: str) -> None:
    likeness, content = (RANDOM.standard_normal((2, size, 4, 5), dtype=np.float32) for size in (3, 6))
    [found] = run_block(partial(pixel_sums, assignment=assignment), likeness, content)
    nearest = likeness.argmax(axis=1)
    for image in range(2):
        for query in range(3):
            expected = content[image][:, nearest[image] == query].sum(axis=1)
            np.testing.assert_allclose(found[image, :, query], expected, atol=1e-5)


def moved_bytes(block: object) -> int:
    """Bytes that the operations of a block read and write, at 128 queries and the pixels of an eighth of 1281."""
    graph = Builder("moved")
    likeness = graph.input("likeness", (1, 128, 161, 161))
    content = graph.input("content", (1, 256, 161, 161))
    graph.output(block(graph, likeness, content), "sums")  # type: ignore[operator]
    return sum(work.bytes for work in lower(from_proto(graph.model())))


def softmax_attention(graph: Builder, likeness: Value, content: Value) -> Value:
    """The same sums weighed by a softmax over the pixels, whose matrix is written."""
    scores = graph.reshape(likeness, (1, 128, 161 * 161), "scores")
    flat = graph.transpose(graph.reshape(content, (1, 256, 161 * 161), "flat"), (0, 2, 1))
    return graph.matmul(graph.unary("Softmax", scores, axis=-1), flat)


def test_a_step_of_k_means_moves_less_than_a_softmax_over_pixels_which_is_written() -> None:
    assert moved_bytes(partial(pixel_sums, assignment="segment_sum")) < moved_bytes(softmax_attention)


def test_axial_attention_knows_the_order_of_its_sequence() -> None:
    value = RANDOM.standard_normal((2, 16, 7), dtype=np.float32)
    attend = partial(axial_attention, key_width=16, value_width=32, name="axis")
    [found], [turned] = (run_block(attend, one) for one in (value, value[:, :, ::-1].copy()))
    assert found.shape == (2, 32, 7)
    assert np.abs(turned[:, :, ::-1] - found).max() > 1e-3
