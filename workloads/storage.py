"""Weights for models whose weights are absent: seeded, made one at a time, in the file or in one beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from codesign.dtypes import name_of
from codesign.errors import BadParameter, DoesNotFit
from codesign.graph import Tensor, seeded_weight
from workloads.builder import ABSENT
from workloads.registry import build

INLINE_LIMIT = 1_500_000_000
"""Bytes of weights kept inside the file: a protobuf message cannot exceed 2 GiB."""


def materialise(model: ModelProto, seed: int) -> ModelProto:
    """A copy of `model` with values, drawn from `seed`, inside every absent weight.

    Raises DoesNotFit when they would not fit a protobuf message: `save` writes such a model beside its weights.
    """
    size = absent_bytes(model)
    if size > INLINE_LIMIT:
        raise DoesNotFit(
            f"model '{model.graph.name}': {size / 1e9:.1f} GB of weights do not fit one ONNX message "
            f"(limit {INLINE_LIMIT / 1e9:.1f} GB); write it with workloads.save(..., seed_weights={seed})"
        )
    filled = ModelProto()
    filled.CopyFrom(model)
    for tensor in _absent(filled):
        tensor.raw_data = _values(tensor, seed).tobytes()
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.DEFAULT
    return filled


def save(
    name: str,
    path: str | Path,
    batch: int = 1,
    bind: Mapping[str, int] | None = None,
    seed_weights: int | None = None,
) -> Path:
    """Write a workload as an ONNX file: its structure alone, or with weights drawn from `seed_weights`.

    More than 1.5 GB of weights go to one file beside it, `<file name>.data`, written weight by weight. Returns the
    path of the ONNX file. Raises BadParameter when the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise BadParameter(f"cannot write '{path}': the folder '{path.parent}' does not exist; create it first")
    model = build(name, batch, bind)
    if seed_weights is not None and absent_bytes(model) <= INLINE_LIMIT:
        model = materialise(model, seed_weights)
    elif seed_weights is not None:
        _write_beside(model, path.with_name(f"{path.name}.data"), seed_weights)
    path.write_bytes(model.SerializeToString())
    return path


def absent_bytes(model: ModelProto) -> int:
    """Bytes that the absent weights of `model` would take."""
    return sum(_described(tensor).bytes for tensor in _absent(model))


def _write_beside(model: ModelProto, data: Path, seed: int) -> None:
    """Write every absent weight to `data`, one after another, and point the model's initialisers there."""
    with data.open("wb") as file:
        for tensor in _absent(model):
            offset = file.tell()
            _values(tensor, seed).tofile(file)
            tensor.ClearField("external_data")
            for key, value in {"location": data.name, "offset": offset, "length": file.tell() - offset}.items():
                tensor.external_data.add(key=key, value=str(value))


def _absent(model: ModelProto) -> Iterator[TensorProto]:
    for tensor in model.graph.initializer:
        if any(entry.key == "location" and entry.value == ABSENT for entry in tensor.external_data):
            yield tensor


def _values(tensor: TensorProto, seed: int) -> np.ndarray[Any, Any]:
    return seeded_weight(_described(tensor), seed)


def _described(tensor: TensorProto) -> Tensor:
    element_type = name_of(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return Tensor(tensor.name, tuple(tensor.dims), element_type)
