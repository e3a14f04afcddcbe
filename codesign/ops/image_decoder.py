"""ImageDecoder: the pixels of an encoded image, by Pillow where it is installed."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from codesign.errors import UnsupportedOperator
from codesign.graph import Op
from codesign.ops.arguments import bad, known, required, text
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import map_work
from codesign.work import Work

_MODES = {"RGB": "RGB", "BGR": "RGB", "Grayscale": "L"}
_FLOPS = 20.0
"""Operations a sample of the result: an inverse cosine transform of 8 x 8 points in about 464 additions and products
(Loeffler et al. 1989, in each direction of a block: 16 x (11 + 29) / 64 = 10), scaling, colour and upsampling."""


@operator("ImageDecoder")
class ImageDecoder(Operator):
    """Bytes to (height, width, channels), uint8; no pixels at all for what is no image."""

    @staticmethod
    def _decoded(op: Op, stream: Array) -> Array:
        layout = text(op, "pixel_format", "RGB")
        if layout not in _MODES:
            raise bad(op, f"attribute 'pixel_format' is '{layout}', expected one of {', '.join(_MODES)}")
        try:
            from PIL import Image
        except ImportError as error:
            raise UnsupportedOperator(f"node '{op.name}' (ImageDecoder): needs Pillow: pip install pillow") from error
        try:
            with Image.open(io.BytesIO(stream.tobytes())) as image:
                pixels = np.asarray(image.convert(_MODES[layout]))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return np.zeros((0, 0, 1 if layout == "Grayscale" else 3), np.uint8)
        if layout == "Grayscale":
            return pixels[..., None]
        return pixels[..., ::-1].copy() if layout == "BGR" else pixels

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        stream = known(op, required(op, inputs, 0, "encoded_stream"), "encoded_stream")
        return [(self._decoded(op, stream).shape, "uint8")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        return [self._decoded(op, required(op, inputs, 0, "encoded_stream"))]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return map_work(op, inputs, outputs, _FLOPS)
