"""The integer arithmetic of the processor that runs the tests, as onnxruntime uses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache

import numpy as np

from codesign.executor.kernels.saturating import saturating_pairs
from tests.onnx_case import NodeCase


@cache
def saturates() -> bool:
    """True when onnxruntime's products of unsigned and signed bytes saturate here: no VNNI."""
    left, right = np.full((1, 2), 255, np.uint8), np.full((2, 1), 127, np.int8)
    return int(NodeCase("MatMulInteger", [left, right]).expected()[0][0, 0]) != 2 * 255 * 127


@contextmanager
def this_processor() -> Iterator[None]:
    """Let our integer products inside the `with` block be those of onnxruntime here."""
    with saturating_pairs() if saturates() else nullcontext():
        yield
