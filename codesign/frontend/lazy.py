"""A model without the values of its large initialisers, which are left in the file until they are asked for.

Parsing copies a model twice, into bytes and into messages, though most of it is weights that may never be read. Here
the file is mapped, its protobuf fields are walked (https://protobuf.dev/programming-guides/encoding), and a large
initialiser is rewritten as one whose external data lies in the file itself.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

LEAST_BYTES = 1 << 16
"""Smaller values stay in the model."""
_MODEL_GRAPH, _GRAPH_INITIALISER = 7, 5
_TENSOR_TYPE, _TENSOR_RAW, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 2, 9, 13, 14
_FLOATS = frozenset({1, 10, 11, 16})
"""Types of onnx.proto's TensorProto.DataType; whole numbers may be shapes, which loading needs."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Field = tuple[int, int, int, int]
"""Number, where the field begins, where its content begins and ends; a varint's content is its value and the end."""


def without_large_values(path: Path) -> bytes | None:
    """The model at `path` with its large values left in the file; None when it holds none, or is not walked to the end:
    what is wrong with it is then for the parser to say. The file must stand in its folder, not behind a link."""
    if path.is_symlink() or path.stat().st_size < LEAST_BYTES:
        return None
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _slim_model(content, path.name)
    except (ValueError, IndexError, OSError):
        return None


def _slim_model(content: mmap.mmap, name: str) -> bytes | None:
    fields = list(_fields(content, 0, len(content)))
    graphs = [field for field in fields if field[0] == _MODEL_GRAPH]
    if len(graphs) != 1:
        return None
    slim = _slim_graph(content, graphs[0], name)
    if slim is None:
        return None
    result = bytearray()
    for number, begin, _, end in fields:
        result += _field(_MODEL_GRAPH, slim) if number == _MODEL_GRAPH else content[begin:end]
    return bytes(result)


def _slim_graph(content: mmap.mmap, graph: Field, name: str) -> bytes | None:
    result, changed = bytearray(), False
    for number, begin, start, end in _fields(content, graph[2], graph[3]):
        slim = _slim_tensor(content, start, end, name) if number == _GRAPH_INITIALISER else None
        changed = changed or slim is not None
        result += content[begin:end] if slim is None else _field(_GRAPH_INITIALISER, slim)
    return bytes(result) if changed else None


def _slim_tensor(content: mmap.mmap, start: int, end: int, name: str) -> bytes | None:
    """The tensor with its values named by their place in the file; None when they are few, no floats, or elsewhere."""
    if end - start < LEAST_BYTES:
        return None
    fields = {field[0]: field for field in _fields(content, start, end)}
    raw, kind = fields.get(_TENSOR_RAW), fields.get(_TENSOR_TYPE)
    elsewhere = fields.get(_TENSOR_LOCATION, (0, 0, 0, 0))[2] != 0
    if raw is None or kind is None or kind[2] not in _FLOATS or elsewhere or raw[3] - raw[2] < LEAST_BYTES:
        return None
    result = bytearray()
    for number, begin, _, finish in _fields(content, start, end):
        if number not in (_TENSOR_RAW, _TENSOR_EXTERNAL, _TENSOR_LOCATION):
            result += content[begin:finish]
    entries = {"location": name, "offset": str(raw[2]), "length": str(raw[3] - raw[2])}
    for key, value in entries.items():
        result += _field(_TENSOR_EXTERNAL, _field(1, key.encode()) + _field(2, value.encode()))
    return bytes(result + _varint(_TENSOR_LOCATION << 3) + _varint(1))


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[Field]:
    """The fields of the message between `start` and `end`. Raises ValueError or IndexError when it is none."""
    position = start
    while position < end:
        begin = position
        key, position = _read_varint(content, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _read_varint(content, position)
            yield number, begin, value, position
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if length is None:
            if kind != _BYTES:
                raise ValueError(f"wire type {kind}")
            length, position = _read_varint(content, position)
        if position + length > end:
            raise ValueError("a field ends behind its message")
        yield number, begin, position, position + length
        position += length


def _read_varint(content: mmap.mmap, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number of more than 64 bits")


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    result.append(value)
    return bytes(result)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content
