"""Operators that the ONNX standard itself defines by a graph of others, for those we have no rule for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from codesign.frontend.types import ENUM_OF
from codesign.graph import Op
from codesign.ops.base import Value


def standard_function(op: Op, node: onnx.NodeProto, values: Mapping[str, Value]) -> onnx.FunctionProto | None:
    """The body of `op` in its version of the standard, for inputs of these types; None when it has none."""
    try:
        schema: Any = onnx.defs.get_schema(op.kind, op.opset or 1, op.domain)
    except onnx.defs.SchemaError:
        return None
    if schema.has_function and (version := _newest(schema.function_opset_versions, op.opset)):
        return onnx.FunctionProto.FromString(schema.get_function_with_opset_version(version))
    if not schema.has_context_dependent_function:
        return None
    version = _newest(schema.context_dependent_function_opset_versions, op.opset)
    if not version or any(name not in values for name in op.inputs if name):
        return None
    types = [_type(values.get(name)) for name in op.inputs]
    body = schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), types)
    return onnx.FunctionProto.FromString(body) if body else None


def _newest(versions: Sequence[int], limit: int) -> int | None:
    """The last version that is not newer than the model's."""
    return max((version for version in versions if version <= max(limit, 1)), default=None)


def _type(value: Value | None) -> bytes:
    if value is None:
        return onnx.TypeProto().SerializeToString()
    return onnx.helper.make_tensor_type_proto(ENUM_OF[value.dtype], value.shape).SerializeToString()
