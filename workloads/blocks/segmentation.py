"""What decoders of segmentation share: maps of several strides, and enlarging between them."""

from __future__ import annotations

from collections.abc import Sequence

from workloads.builder import Builder, Value


def feature_maps(graph: Builder, batch: int, image: int, channels: Sequence[int]) -> list[Value]:
    """The maps of a backbone's stages at a quarter of the image and half of that each, as inputs `map0`, `map1`, ..."""
    return [
        graph.input(f"map{stage}", (batch, width, image // 4 >> stage, image // 4 >> stage))
        for stage, width in enumerate(channels)
    ]


def resized(
    graph: Builder, value: Value, extents: tuple[int, int], name: str = "resized", aligned: bool = False
) -> Value:
    """Bilinear interpolation to `extents` between pixels' centres or, if `aligned`, with the corners' centres in the
    corners, as maps of odd extents have them."""
    shape = (*value.shape[:2], *extents)
    if value.shape == shape:
        return value
    sizes = graph.integers(f"{name}.sizes", list(shape[2:]))
    inputs = [value, None, None, sizes]
    mode = "align_corners" if aligned else "half_pixel"
    [result] = graph.node(
        "Resize", inputs, [shape], name, mode="linear", coordinate_transformation_mode=mode, axes=[2, 3]
    )
    return result
