"""Operators on boxes in an image: RoiAlign, MaxRoiPool, NonMaxSuppression."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, before_opset, known, narrowed, operands, optional, required, text, widened
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import reduce_work
from codesign.work import Sort, Work


@operator("RoiAlign")
class RoiAlign(Operator):
    """He et al. 2017 (arXiv:1703.06870). Before opset 16 coordinates name pixel corners, since then pixel centres."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        image, boxes = required(op, inputs, 0, "X"), required(op, inputs, 1, "rois")
        if len(image.shape) != 4 or boxes.shape[1:] != (4,):
            raise bad(op, f"image {list(image.shape)} and boxes {list(boxes.shape)}: expected 4 dimensions and (n, 4)")
        rows, columns = (int(op.attributes.get(name, 1)) for name in ("output_height", "output_width"))
        return [((boxes.shape[0], image.shape[1], rows, columns), image.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        from codesign.executor.kernels.regions import roi_align

        image, boxes = required(op, inputs, 0, "X"), required(op, inputs, 1, "rois")
        images = required(op, inputs, 2, "batch_indices")
        _check_images(op, images, image.shape[0])
        default = "output_half_pixel" if before_opset(op, 16) else "half_pixel"
        centred = text(op, "coordinate_transformation_mode", default) == "half_pixel"
        rows, columns = (int(op.attributes.get(name, 1)) for name in ("output_height", "output_width"))
        result = np.zeros((len(boxes), image.shape[1], rows, columns), np.float64)
        scaled = widened(boxes).astype(np.float64) * op.attributes.get("spatial_scale", 1.0)
        samples, maximum = int(op.attributes.get("sampling_ratio", 0)), text(op, "mode", "avg") == "max"
        roi_align(widened(image), scaled, images, samples, 0.5 if centred else 0.0, not centred, maximum, result)
        return [narrowed(result, image.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """Eight operations a sample; of adaptive sampling, which depends on the boxes, the two a side of the paper."""
        samples = int(op.attributes.get("sampling_ratio", 0)) or 2
        return reduce_work(op, inputs, outputs, samples**2, 8)


@operator("MaxRoiPool")
class MaxRoiPool(Operator):
    """Girshick 2015 (arXiv:1504.08083)."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        image, regions = required(op, inputs, 0, "X"), required(op, inputs, 1, "rois")
        pooled = tuple(int(extent) for extent in op.attributes.get("pooled_shape", ()))
        if len(image.shape) != 4 or regions.shape[1:] != (5,) or len(pooled) != 2:
            raise bad(op, f"image {list(image.shape)}, regions {list(regions.shape)} and 'pooled_shape' {list(pooled)}")
        return [((regions.shape[0], image.shape[1], *pooled), image.dtype)]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        from codesign.executor.kernels.regions import max_roi_pool

        image, regions = required(op, inputs, 0, "X"), required(op, inputs, 1, "rois")
        _check_images(op, regions[:, 0], image.shape[0])
        rows, columns = op.attributes["pooled_shape"]
        result = np.zeros((len(regions), image.shape[1], int(rows), int(columns)), np.float64)
        max_roi_pool(widened(image), widened(regions), float(op.attributes.get("spatial_scale", 1.0)), result)
        return [narrowed(result, image.dtype)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """As if each region were the whole image: the most that it can be."""
        image, (_, _, rows, columns) = required(op, inputs, 0, "X"), outputs[0].shape
        pixels = math.ceil(image.shape[2] / rows) * math.ceil(image.shape[3] / columns)
        return reduce_work(op, inputs, outputs, pixels, 1)


def _check_images(op: Op, images: Array, batch: int) -> None:
    if images.size and (images.min() < 0 or images.max() >= batch):
        raise bad(op, f"boxes name images {images.min()} to {images.max()} of a batch of {batch}")


@operator("NonMaxSuppression")
class NonMaxSuppression(Operator):
    """(image, class, box) of each box kept: best scores first, none that overlaps a better one of its class.

    How many there are depends on the values.
    """

    @staticmethod
    def _kept(op: Op, boxes: Array, scores: Array, options: Sequence[Array | None]) -> Array:
        from codesign.executor.kernels.regions import suppress

        limit, overlap, least = (None if option is None else option.item() for option in options)
        if op.attributes.get("center_point_box", 0):
            x, y, width, height = (boxes[..., place] for place in range(4))
            corners = np.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], axis=-1)
        else:
            pairs = boxes.reshape(*boxes.shape[:-1], 2, 2)
            corners = np.concatenate([pairs.min(axis=-2), pairs.max(axis=-2)], axis=-1)
        found = []
        for image, kind in np.ndindex(*scores.shape[:2]):
            order = np.argsort(-scores[image, kind], kind="stable")
            order = order if least is None else order[scores[image, kind][order] > least]
            kept = suppress(corners[image], order, int(limit or 0), float(overlap or 0))
            found.append(np.stack([np.full_like(kept, image), np.full_like(kept, kind), kept], axis=-1))
        return np.concatenate(found) if found else np.zeros((0, 3), np.int64)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        names = ("boxes", "scores", "max_output_boxes_per_class", "iou_threshold", "score_threshold")
        values = [optional(inputs, index) for index in range(len(names))]
        arrays = [None if one is None else known(op, one, name) for one, name in zip(values, names, strict=True)]
        return [(self.compute(op, arrays)[0].shape, "int64")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        boxes, scores = required(op, inputs, 0, "boxes"), required(op, inputs, 1, "scores")
        return [self._kept(op, widened(boxes), widened(scores), [optional(inputs, index) for index in (2, 3, 4)])]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """The scores of each class are ordered; each box kept is held against the others, fifteen operations a pair."""
        scores, kept = required(op, inputs, 1, "scores"), outputs[0].shape[0]
        columns = scores.shape[-1]
        return Sort(
            kind=op.kind, reads=operands(inputs), writes=operands(outputs), rows=scores.elements // max(columns, 1),
            columns=columns, keep=columns, epilogue_flops=15 * kept * columns,
        )  # fmt: skip
