"""Shapes and types of an operation's outputs: our rule, else ONNX's own, else what the model declares.

Our rules come first because they see constants as values and say what is wrong in our words; ONNX's cover operators
that nobody has written yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import onnx

from codesign.dtypes import dtype
from codesign.errors import BadModel, UnboundDimension, UnsupportedOperator
from codesign.frontend.types import ENUM_OF, checked_shape, element_type_name
from codesign.graph import Op
from codesign.ops.base import ShapeAndType, Value, find, operators

MALFORMED = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError)
"""What rules raise on inputs that no correct model has."""


_GUARDED = ("complex", "string")
"""Kinds of element types that few operators take, and that arrays of numpy compute on without a word."""


def check_types(op: Op, inputs: Sequence[Value | None]) -> None:
    """Raises UnsupportedOperator when an input is complex or text and the operator's definition does not take that.

    Other types that a version of the standard does not list are let through: exporters write them, and they mean what
    they mean elsewhere."""
    for index, value in enumerate(inputs):
        if value is None or dtype(value.dtype).kind not in _GUARDED:
            continue
        allowed = _allowed_types(op.domain, op.kind, op.opset)
        if not allowed:
            taken = op.domain in ("", "ai.onnx.ml") or dtype(value.dtype).kind == "string"
        else:
            taken = f"tensor({value.dtype})" in allowed[min(index, len(allowed) - 1)]
        if not taken:
            raise UnsupportedOperator(
                f"node '{op.name}' ({op.kind}): its input {index} is {value.dtype}, which the operator does not take"
            )


@cache
def _allowed_types(domain: str, kind: str, opset: int) -> tuple[frozenset[str], ...]:
    """The types of each input by ONNX's definition, the last for all that follow; none where ONNX has no definition."""
    try:
        schema = onnx.defs.get_schema(kind, opset or 1, domain)
    except onnx.defs.SchemaError:
        return ()
    return tuple(frozenset(item.types) for item in schema.inputs)


def infer_outputs(
    op: Op, inputs: Sequence[Value | None], node: onnx.NodeProto | None, declared: Mapping[str, ShapeAndType]
) -> list[ShapeAndType]:
    """Shape and type of each output of `op`; `declared` holds what the model itself states, by ONNX output name: it
    counts where data would decide, and where nobody else knows.

    Raises UnsupportedOperator when nobody knows, UnboundDimension when the shape depends on data, BadModel when the
    inputs cannot be meant.
    """
    check_types(op, inputs)
    try:
        return [
            (checked_shape(shape, f"node '{op.name}'"), type_name) for shape, type_name in find(op).infer(op, inputs)
        ]
    except UnboundDimension:
        if node is None or not all(name in declared for name in node.output if name):
            raise
        return [declared.get(name, ((), "float32")) for name in node.output]
    except UnsupportedOperator as error:
        unsupported = error
    except MALFORMED as error:
        raise BadModel(f"node '{op.name}' ({op.kind}): malformed inputs or attributes ({error})") from error
    if node is None:
        raise unsupported
    types = onnx_types(op, inputs, node)
    return [_known(op, name, types.get(name), declared.get(name), unsupported) for name in node.output]


@cache
def implemented(domain: str, kind: str) -> bool:
    """True when an operator of ours exists under this name."""
    return (domain, kind) in operators()


def onnx_types(op: Op, inputs: Sequence[Value | None], node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
    """Types by output name by ONNX's rule, nothing when it has none. Raises BadModel when ONNX refuses the node."""
    try:
        schema = onnx.defs.get_schema(op.kind, op.opset or 1, op.domain)
    except onnx.defs.SchemaError:
        return {}
    types, constants = {}, {}
    for name, value in zip(node.input, inputs, strict=True):
        if value is None:
            continue
        types[name] = onnx.helper.make_tensor_type_proto(ENUM_OF[value.dtype], value.shape)
        if value.constant is not None and value.dtype != "string":
            constants[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(value.constant), name)
    imports = [onnx.helper.make_opsetid(op.domain, op.opset)]
    try:
        return dict(onnx.shape_inference.infer_node_outputs(schema, node, types, constants, opset_imports=imports))
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadModel(f"node '{op.name}' ({op.kind}): {reason}") from error


def _known(
    op: Op, name: str, found: onnx.TypeProto | None, declared: ShapeAndType | None, unsupported: UnsupportedOperator
) -> ShapeAndType:
    if not name:
        return ((), "float32")
    tensor = found.tensor_type if found is not None and found.HasField("tensor_type") else None
    if tensor is not None and tensor.HasField("shape") and tensor.elem_type:
        if all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shape = checked_shape([dim.dim_value for dim in tensor.shape.dim], f"node '{op.name}'")
            return shape, element_type_name(tensor.elem_type, f"node '{op.name}'")
        if declared is None:
            raise UnboundDimension(
                f"node '{op.name}' ({op.kind}): the shape of '{name}' depends on data; fix it before loading"
            )
    if declared is None:
        raise unsupported
    return declared
