"""Reading a model file that nobody vouches for: size, protobuf and header are checked before anything else."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from codesign.errors import BadModel

PROTOBUF_LIMIT = 2**31 - 1
"""Bytes; the protobuf wire format holds no more in one message."""


def read_model(path: Path) -> onnx.ModelProto:
    """The model in the file at `path`, external data not read. Raises BadModel naming the file and the reason."""
    _check(path)
    return _parsed_whole(path)


def read_structure(path: Path) -> onnx.ModelProto:
    """`read_model` with large values left in the file, as external data that lies in it."""
    from codesign.frontend.lazy import without_large_values

    _check(path)
    slim = without_large_values(path)
    return _parsed_whole(path) if slim is None else parse(slim, str(path))


def _check(path: Path) -> None:
    if not path.exists():
        raise BadModel(f"{path}: no such file")
    if not path.is_file():
        raise BadModel(f"{path}: not a regular file")
    size = path.stat().st_size
    if size == 0:
        raise BadModel(f"{path}: the file is empty")
    if size > PROTOBUF_LIMIT:
        raise BadModel(
            f"{path}: {size} bytes are more than a protobuf can hold (2 GiB); save its weights as external data"
        )


def _parsed_whole(path: Path) -> onnx.ModelProto:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadModel(f"{path}: cannot be read ({error.strerror or error})") from error
    return parse(content, str(path))


def parse(content: bytes, source: str) -> onnx.ModelProto:
    """The model in `content`. Raises BadModel when it is no protobuf, cut short, or no ONNX model."""
    try:
        model = onnx.ModelProto.FromString(content)
    except (DecodeError, ValueError, RuntimeError) as error:
        raise BadModel(f"{source}: not a protobuf of an ONNX model, or cut short") from error
    if not model.HasField("graph") or not (model.opset_import or model.ir_version):
        raise BadModel(f"{source}: holds no ONNX graph (not an ONNX model, or cut short)")
    return model
