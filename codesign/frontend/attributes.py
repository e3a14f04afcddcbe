"""Attributes of a node as plain Python and numpy values; graphs among them are set apart as bodies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx

from codesign.errors import BadModel, UnsupportedOperator
from codesign.frontend.types import checked_shape, read_tensor
from codesign.ops.base import Array

_KIND = onnx.AttributeProto


def plain(attribute: onnx.AttributeProto, what: str) -> Any:
    """The value: int, float, str, tuple of them, or array. Raises BadModel, naming `what`."""
    kind = attribute.type
    if kind == _KIND.INT:
        return attribute.i
    if kind == _KIND.INTS:
        return tuple(attribute.ints)
    if kind == _KIND.FLOAT:
        return attribute.f
    if kind == _KIND.STRING:
        return _text(attribute.s)
    if kind == _KIND.FLOATS:
        return tuple(attribute.floats)
    if kind == _KIND.STRINGS:
        return tuple(_text(item) for item in attribute.strings)
    if kind == _KIND.TENSOR:
        return read_tensor(attribute.t, f"{what}, attribute '{attribute.name}'")
    if kind == _KIND.TENSORS:
        return tuple(read_tensor(item, f"{what}, attribute '{attribute.name}'") for item in attribute.tensors)
    if kind == _KIND.SPARSE_TENSOR:
        return dense(attribute.sparse_tensor, f"{what}, attribute '{attribute.name}'")
    if kind == _KIND.UNDEFINED:
        return plain(_with_type(attribute, what), what)
    raise UnsupportedOperator(f"{what}: attribute '{attribute.name}' is of a kind ({kind}) that cannot be handled")


def plain_attributes(attributes: Iterable[onnx.AttributeProto], what: str) -> dict[str, Any]:
    """Values by name of all attributes that are not graphs or types."""
    skipped = (_KIND.GRAPH, _KIND.GRAPHS, _KIND.TYPE_PROTO, _KIND.TYPE_PROTOS)
    return {attribute.name: plain(attribute, what) for attribute in attributes if attribute.type not in skipped}


def bound_attributes(
    node: onnx.NodeProto, bindings: Mapping[str, onnx.AttributeProto], what: str
) -> list[onnx.AttributeProto]:
    """The node's attributes, those that refer to an attribute of the enclosing function replaced by its value."""
    result = []
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            result.append(attribute)
        elif attribute.ref_attr_name in bindings:
            bound = onnx.AttributeProto()
            bound.CopyFrom(bindings[attribute.ref_attr_name])
            bound.name = attribute.name
            result.append(bound)
    names = [attribute.name for attribute in result]
    if len(set(names)) != len(names):
        raise BadModel(f"{what}: an attribute is given twice")
    return result


def subgraphs(attributes: Iterable[onnx.AttributeProto]) -> dict[str, onnx.GraphProto]:
    """The graphs among the attributes, by attribute name."""
    return {attribute.name: attribute.g for attribute in attributes if attribute.type == _KIND.GRAPH}


def dense(sparse: onnx.SparseTensorProto, what: str) -> Array:
    """A sparse tensor in full. Raises BadModel when its indices are outside its shape."""
    values = read_tensor(sparse.values, what)
    indices = read_tensor(sparse.indices, what)
    shape = checked_shape(sparse.dims, what)
    size = int(np.prod(shape, dtype=np.int64))
    if size > 2**28:
        raise UnsupportedOperator(f"{what}: a sparse tensor of {size} elements is too large to be filled in")
    if indices.ndim == 2:
        if indices.shape[1] != len(shape):
            raise BadModel(f"{what}: sparse indices have {indices.shape[1]} columns, the shape {len(shape)} dimensions")
        strides = np.array([int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))])
        indices = (indices * strides).sum(axis=1)
    if indices.shape != values.shape or (indices.size and not 0 <= indices.min() <= indices.max() < size):
        raise BadModel(f"{what}: sparse indices do not fit shape {list(shape)}")
    filled = np.zeros(size, values.dtype)
    filled[indices] = values
    return filled.reshape(shape)


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="replace")


def _with_type(attribute: onnx.AttributeProto, what: str) -> onnx.AttributeProto:
    """IR versions 1 and 2 wrote no attribute type: the field that is set says it."""
    fields = (("f", _KIND.FLOAT), ("i", _KIND.INT), ("s", _KIND.STRING), ("t", _KIND.TENSOR), ("floats", _KIND.FLOATS),
              ("ints", _KIND.INTS), ("strings", _KIND.STRINGS), ("tensors", _KIND.TENSORS))  # fmt: skip
    present = {descriptor.name for descriptor, _ in attribute.ListFields()}
    for name, kind in fields:
        if name in present:
            typed = onnx.AttributeProto()
            typed.CopyFrom(attribute)
            typed.type = kind
            return typed
    raise BadModel(f"{what}: attribute '{attribute.name}' has no value")


REWRITES = "pkg.onnxscript.rewriter.rule_name"
"""Where PyTorch's exporter notes which of its rules made a node."""


def absorbed(node: onnx.NodeProto) -> tuple[str, ...]:
    """Kinds of operations that the exporter says it folded into the node's weights: a normalisation, and the bias that
    the product had before it."""
    rules = next((entry.value for entry in node.metadata_props if entry.key == REWRITES), "")
    if "FuseBatchNormInto" not in rules:
        return ()
    return ("BatchNormalization",) if "RemoveOptionalBias" in rules else ("Bias", "BatchNormalization")
