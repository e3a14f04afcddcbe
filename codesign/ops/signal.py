"""What signal processing multiplies with: window functions and the matrix of mel filters. All known beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.dtypes import numpy_dtype
from codesign.graph import Op
from codesign.ops.arguments import bad, element_type, known, required
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import map_work
from codesign.work import Work

# Coefficients of cosine windows (Harris, Proc. IEEE 66(1), 1978); Hamming's as ONNX rounds them.
_COSINE_TERMS = {
    "HannWindow": (0.5, -0.5),
    "HammingWindow": (25 / 46, -21 / 46),
    "BlackmanWindow": (0.42, -0.5, 0.08),
}


@operator(*_COSINE_TERMS)
class Window(Operator):
    """A sum of cosines of `size` points, periodic or symmetric."""

    @staticmethod
    def _size(op: Op, inputs: Sequence[Any]) -> int:
        return int(known(op, required(op, inputs, 0, "size"), "size").item())

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        return [((self._size(op, inputs),), element_type(op, "output_datatype", "float32"))]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        size = self._size(op, inputs)
        period = size if op.attributes.get("periodic", 1) else max(size - 1, 1)
        angle = 2 * math.pi * np.arange(size) / period
        total = sum(weight * np.cos(order * angle) for order, weight in enumerate(_COSINE_TERMS[op.kind]))
        return [np.asarray(total).astype(numpy_dtype(element_type(op, "output_datatype", "float32")))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """Angle, cosine, product and sum a term."""
        return map_work(op, inputs, outputs, 4 * (len(_COSINE_TERMS[op.kind]) - 1))


@operator("MelWeightMatrix")
class MelWeightMatrix(Operator):
    """Triangular filters, equally spaced in mel = 2595 log10(1 + f / 700), as columns over the spectrum's points."""

    _NAMES = ("num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz")

    @classmethod
    def _numbers(cls, op: Op, inputs: Sequence[Any]) -> list[float]:
        return [known(op, required(op, inputs, index, name), name).item() for index, name in enumerate(cls._NAMES)]

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        bins, length, *_ = self._numbers(op, inputs)
        return [((int(length) // 2 + 1, int(bins)), element_type(op, "output_datatype", "float32"))]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        bins, length, rate, low, high = self._numbers(op, inputs)
        points = int(length) // 2 + 1
        if rate <= 0:
            raise bad(op, f"'sample_rate' is {rate}, expected a positive number")
        mel_low, mel_high = (2595 * math.log10(1 + edge / 700) for edge in (low, high))
        mel = mel_low + np.arange(int(bins) + 2) * ((mel_high - mel_low) / (int(bins) + 2))
        edges = np.floor((length + 1) * (700 * (np.power(10, mel / 2595) - 1)) / rate).astype(np.int64)
        left, centre, right = edges[:-2], edges[1:-1], edges[2:]
        place = np.arange(points)[:, None]
        with np.errstate(all="ignore"):
            rising = np.where(centre == left, place == centre, (place - left) / (centre - left))
            falling = (right - place) / (right - centre)
        inside = (place >= left) & (place <= centre)
        behind = (place > centre) & (place < right)
        matrix = np.where(inside, rising, np.where(behind, falling, 0))
        return [matrix.astype(numpy_dtype(element_type(op, "output_datatype", "float32")))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """Two slopes of two differences and a quotient, and two selections."""
        return map_work(op, inputs, outputs, 8)
