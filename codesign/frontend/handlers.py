"""Nodes that are no operation of their own: constants, aliases, and operators that hold graphs or sequences."""

from __future__ import annotations

import numpy as np
import onnx

from codesign.errors import BadModel, UnboundDimension
from codesign.frontend.attributes import bound_attributes, dense, plain
from codesign.frontend.control import CONTROL
from codesign.frontend.scope import Scope
from codesign.frontend.sequences import SEQUENCES
from codesign.frontend.types import checked_shape, element_type_name
from codesign.frontend.walk import Handler, Walk, as_scalar, register

_OWN: dict[tuple[str, str], Handler] = {}


@register(_OWN, "Constant")
def constant(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    """A constant becomes a weight called as its output."""
    what = f"node '{name}' (Constant)"
    attributes = bound_attributes(node, scope.bindings, what)
    if len(attributes) != 1 or len(node.output) != 1:
        raise BadModel(f"{what}: expected one value and one output")
    attribute = attributes[0]
    target = walk.unique(scope.prefix + node.output[0])
    if attribute.name == "value" and attribute.HasField("t"):
        element_type_name(attribute.t.data_type, what)
        checked_shape(attribute.t.dims, what)
        scope.names[node.output[0]] = walk.add_weight(walk.reader.weight(target, attribute.t))
        return True
    if attribute.name == "sparse_value":
        values = dense(attribute.sparse_tensor, what)
    else:
        values = _plain_constant(plain(attribute, what), attribute.name)
    walk.names.discard(target)
    scope.names[node.output[0]] = walk.add_constant(target, values)
    return True


def _plain_constant(value: object, form: str) -> np.ndarray:
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    return np.asarray(value, dtype=kinds.get(form, object))


@register(_OWN, "Identity")
def identity(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    """The output is the input under another name."""
    if len(node.input) != 1 or len(node.output) != 1:
        raise BadModel(f"node '{name}' (Identity): expected one input and one output")
    scope.names[node.output[0]] = scope.meaning(node.input[0], name)
    return True


@register(_OWN, "Dropout")
def dropout(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    """In inference nothing is dropped; a mask that is read, or training mode, keeps the operation."""
    if not node.input or not node.output:
        raise BadModel(f"node '{name}' (Dropout): expected an input and an output")
    training = scope.tensor(node.input[2], name) if len(node.input) > 2 else ""
    if any(node.output[1:]) or (training and as_scalar(walk.constant(training)) is not False):
        return False
    scope.names[node.output[0]] = scope.tensor(node.input[0], name)
    return True


@register(_OWN, "Optional", "OptionalGetElement")
def optional(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    """An optional that holds something is that thing; whether a value of the run does is seen when it runs."""
    if not node.input or not node.input[0]:
        if walk.dynamic:
            return False
        raise UnboundDimension(f"node '{name}' ({node.op_type}): an optional that holds nothing")
    held = scope.meaning(node.input[0], name)
    if held in walk.unknown and node.op_type == "OptionalGetElement":
        return False
    scope.names[node.output[0]] = held
    return True


@register(_OWN, "OptionalHasElement")
def has_element(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    meaning = scope.names.get(node.input[0], "") if node.input else ""
    if meaning in walk.unknown:
        return False
    scope.names[node.output[0]] = walk.add_constant(scope.prefix + node.output[0], np.asarray(meaning != ""))
    return True


@register(_OWN, "ZipMap", domain="ai.onnx.ml")
def zip_map(walk: Walk, node: onnx.NodeProto, name: str, scope: Scope) -> bool:
    """A dictionary of class probabilities is given as the tensor of probabilities."""
    scope.names[node.output[0]] = scope.tensor(node.input[0], name)
    walk.warnings.append(f"node '{name}' (ZipMap): its output is the tensor of probabilities, not a dictionary")
    return True


HANDLERS: dict[tuple[str, str], Handler] = {**_OWN, **SEQUENCES, **CONTROL}
