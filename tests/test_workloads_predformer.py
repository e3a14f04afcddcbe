"""PredFormer and ChannelViT: which tokens attend to which, and how that counts."""

from __future__ import annotations

import numpy as np
import pytest

import workloads
from tests.workload_case import assert_close, outputs_here, shapes_of
from workloads.counts import macs_of

FRAMES = np.random.default_rng(0).standard_normal((1, 3, 1, 16, 24), dtype=np.float32)


@pytest.mark.parametrize(
    ("blocks", "frames", "patches"),
    [("T", [0, 1, 2], [5]), ("S", [1], [0, 1, 2, 3, 4, 5]), ("F", [0, 1, 2], [0, 1, 2, 3, 4, 5]),
     ("TS", [0, 1, 2], [0, 1, 2, 3, 4, 5])],
)  # fmt: skip
def test_a_patch_reaches_those_that_the_blocks_attend_to(blocks: str, frames: list[int], patches: list[int]) -> None:
    """The last of six patches of the middle frame is changed."""
    changed = FRAMES.copy()
    changed[0, 1, 0, 8:, 16:] += 1
    before, after = (outputs_here("mmnist_tsst", {"frames": video}, blocks=blocks) for video in (FRAMES, changed))
    moved = np.abs(after["predicted"] - before["predicted"]).reshape(3, 2, 8, 3, 8).max(axis=(2, 4)).reshape(3, 6)
    reached = np.argwhere(moved > 1e-6)
    assert sorted({int(frame) for frame, _ in reached}) == frames
    assert sorted({int(patch) for _, patch in reached}) == patches


def test_with_one_frame_full_attention_is_attention_over_space() -> None:
    video = {"frames": FRAMES[:, :1]}
    full, space = (outputs_here("mmnist_tsst", video, frames=1, blocks=blocks) for blocks in ("FF", "SS"))
    assert_close(space, full)


def test_with_one_patch_full_attention_is_attention_over_time() -> None:
    video = {"frames": FRAMES[..., :8, :8]}
    full, time = (outputs_here("mmnist_tsst", video, height=8, width=8, blocks=blocks) for blocks in ("FF", "TT"))
    assert_close(time, full)


def test_every_channel_brings_its_tokens_and_attention_grows_with_their_square() -> None:
    models = [workloads.build("channelvit_s16_imagenet", bind={"channels": channels}) for channels in (1, 2, 3)]
    assert [shapes_of(model)["embedding/all"][1] for model in models] == [197, 393, 589]
    one, two, three = map(macs_of, models)
    assert three - 2 * two + one == 12 * 2 * 2 * 196**2 * 384  # layers, products, second difference of a square
